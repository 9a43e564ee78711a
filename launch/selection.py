"""Which stages of a plan a run is about: all of them, or those that --only, --from and --until choose."""

from __future__ import annotations

from laconic.recipes.folder import is_complete
from laconic.recipes.resolve import Plan, StageFile
from laconic.rewards.errors import DataError, LaunchError


def select(
    plan: Plan, *, only: str | None = None, first: str | None = None, last: str | None = None
) -> tuple[StageFile, ...]:
    """The chosen stages, in order.

    Args:
        plan: The resolved recipe.
        only: The name of one stage.
        first: The first stage to run (`--from`).
        last: The last one (`--until`).

    Raises:
        RecipeError: there is no stage of that name.
        LaunchError: the choices contradict each other.
    """
    if only is not None:
        if first or last:
            raise LaunchError("--only cannot be combined with --from and --until", cure="use one or the other")
        return (plan.stage(only),)
    start = plan.stages.index(plan.stage(first)) if first else 0
    end = plan.stages.index(plan.stage(last)) if last else len(plan.stages) - 1
    if start > end:
        raise LaunchError(f"--from {first} comes after --until {last}", cure="name them in the recipe's order")
    return plan.stages[start : end + 1]


def check_inputs(plan: Plan, chosen: tuple[StageFile, ...]) -> None:
    """Check that what the chosen stages need is complete or chosen too.

    Raises:
        DataError: naming what has to run first.
    """
    coming = {stage.folder for stage in chosen}
    names = {stage.folder: stage.name for stage in plan.stages}
    for stage in chosen:
        if is_complete(plan.run_dir / stage.folder):
            continue
        needed = [folder for folder in stage.inputs.values() if folder not in coming]
        lacking = [names[folder] for folder in dict.fromkeys(needed) if not is_complete(plan.run_dir / folder)]
        if lacking:
            raise DataError(
                f"stage {stage.name!r} needs {' and '.join(map(repr, lacking))}, not complete in {plan.run_dir}",
                cure=f"run first: laconic run ... --until {lacking[-1]}",
            )
