"""`laconic list`: what there is to choose from, and what has been run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from laconic.launch.lines import short
from laconic.launch.lock import holder
from laconic.launch.profiles import Profile, load_profile, shipped_profiles
from laconic.launch.text import table
from laconic.rewards.errors import RecipeError


def recipes() -> Table:
    """The shipped recipes."""
    from laconic.recipes.source import load_recipe, shipped

    loaded = [(path, load_recipe(path)) for path in shipped()]
    return table(
        ["recipe", "stages", "paper", "about"],
        [
            [
                short(path),
                " ".join(stage.name for stage in recipe.stages),
                recipe.paper or "-",
                recipe.description or "",
            ]
            for path, recipe in loaded
        ],
        whole=[0],
    )


def tasks() -> Table:
    """The procedural families with their options, and the verifiers of data from elsewhere."""
    from laconic.data_gen.families import FAMILIES

    families = [
        [name, ", ".join(f"{key}={value}" for key, value in family.options.items()), family.summary]
        for name, family in FAMILIES.items()
    ]
    verifiers = [["math", "-", "any mathematics; the verifier is math-verify"], ["exact", "-", "the answer, literally"]]
    return table(["task", "options", "about"], [*families, *verifiers])


def profiles() -> Table:
    """The shipped launch profiles, with what they would start here."""
    loaded = [load_profile(name) for name in shipped_profiles()]
    return table(
        ["profile", "processes", "needs", "about"],
        [[p.name, str(p.processes) if p.processes else "every GPU", _needs(p), p.summary] for p in loaded],
    )


def _needs(profile: Profile) -> str:
    needs = [] if profile.on_cpu else [f"{profile.gpus_needed} GPU" if profile.distributed_type == "NO" else "GPUs"]
    return ", ".join([*needs, *(["deepspeed"] if profile.needs_deepspeed else [])]) or "-"


def policies() -> Table:
    """The inference policies: what each needs besides a model."""
    from laconic.inference.policies import POLICIES
    from laconic.inference.policies.needs import needs

    return table(
        ["policy", "needs", "about"],
        [[name, ", ".join(needs(found)) or "-", found.summary] for name, found in sorted(POLICIES.items())],
    )


def runs(folder: Path) -> Table:
    """The runs in a folder: how many stages are complete and which one was begun."""
    found = sorted(path for path in folder.glob("*") if path.is_dir()) if folder.is_dir() else []
    return table(["run", "complete", "begun", "now", "report"], [_run(path) for path in found])


def _run(path: Path) -> list[str]:
    stages = [stage.parent for stage in path.glob("*/stage.yaml")]
    begun = [stage.name.removesuffix(".partial") for stage in sorted(stages) if stage.suffix == ".partial"]
    complete = [stage for stage in path.glob("*/manifest.json") if stage.parent.suffix != ".partial"]
    pid = holder(path)
    report = path / "report" / "report.html"
    return [
        path.name,
        str(len(complete)),
        " ".join(begun) or "-",
        f"running ({pid})" if pid else "-",
        short(report) if report.is_file() else "-",
    ]


LISTINGS: dict[str, Callable[[Path], Table]] = {
    "recipes": lambda _: recipes(),
    "tasks": lambda _: tasks(),
    "profiles": lambda _: profiles(),
    "policies": lambda _: policies(),
    "runs": runs,
}
"""By the word that names it; each gets the runs folder."""


def print_listing(out: Console, what: str, name: str | None, runs_folder: Path) -> None:
    """Print the list of that name; with the name of a reward or a policy, all about this one.

    Raises:
        RecipeError: there is no such list, reward or policy, or a name where only the list is.
    """
    from laconic.launch import policy_listing, reward_listing
    from laconic.recipes.strict import suggest

    if what != "rewards" and what not in LISTINGS:
        raise RecipeError(f"laconic list {what}: no such list", cure=suggest(what, [*LISTINGS, "rewards"]))
    if what == "rewards":
        reward_listing.print_one(out, name) if name else reward_listing.print_all(out)
    elif what == "policies" and name is not None:
        policy_listing.print_one(out, name)
    elif name is not None:
        message = f"laconic list {what} {name}: only rewards and policies are listed one by one"
        raise RecipeError(message, cure=f"laconic list {what}")
    else:
        out.print(LISTINGS[what](runs_folder))
        if what == "policies":
            out.print("\n`laconic list policies NAME` has the rule, the parameters and what is ours.", markup=False)
