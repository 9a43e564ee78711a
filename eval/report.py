"""Write the report of a run: ``python -m laconic.eval.report runs/<recipe> [eval folder ...]``.

Makes ``report/`` in the run folder with `results.json`, `report.md`, `report.html` and the pictures. The folder is
built beside the old one and renamed when it is whole.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from laconic.eval import plots, policy_plot, policy_table, search_plot, search_table, step_time
from laconic.eval.examples import choose
from laconic.eval.gather import Evaluation, Run, Stage, gather
from laconic.eval.headline import Headline, headline
from laconic.eval.page import Picture, render
from laconic.eval.samples import Samples, collect, scorable
from laconic.eval.table import markdown_table
from laconic.eval.theme import DARK, LIGHT
from laconic.rewards.errors import LaconicError

TABLES = ("rows", "paired", "frontier")
POLICY_TABLES = ("rows", "paired")
"""Of policies, and of searches."""


def write_report(run: Path, folders: Sequence[str] = ()) -> Path:
    """Gather a run and write its report.

    Args:
        run: ``runs/<recipe name>``.
        folders: Names of eval stage folders; by default the newest complete one of each name.

    Returns:
        The report folder.

    Raises:
        DataError: there is no complete evaluation, or its files are damaged.
    """
    gathered = gather(run, folders)
    work, target, old = (run / name for name in (".report.partial", "report", ".report.old"))
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    work.mkdir()
    for name, content in _files(gathered).items():
        (work / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if target.exists():
        target.rename(old)
    work.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def _files(run: Run) -> dict[str, str | bytes]:
    """Everything in the report folder, by file name."""
    first = next(stage for stage in run.evaluations if not _is_about_policies(stage, run.evaluations))
    results = merged(run)
    opening = headline(results)
    pictures, curves = list(_pictures(first, opening)), list(_curves(run.stages))
    policies, searches = list(policy_pictures(results)), list(search_pictures(results))
    steps, step_pictures = step_time.step_times(run.stages), list(_step_pictures(run.stages))
    title = str(first.description.get("recipe", run.folder.name))
    page = render(
        title=title,
        headline=opening,
        results=results,
        pictures=pictures,
        curves=curves,
        policies=policies,
        examples=_examples(first, opening),
        searches=searches,
        steps=steps,
        step_pictures=step_pictures,
    )
    drawn = {
        name: png
        for picture in (*pictures, *searches, *policies, *curves, *step_pictures)
        for name, png in picture.files().items()
    }
    return {
        "results.json": json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": _markdown(title, opening, results, pictures, policies, searches, steps, step_pictures),
        "report.html": page,
        **drawn,
    }


def merged(run: Run) -> dict[str, Any]:
    """The results of all evaluations as one `results.json`.

    Where an evaluation with policies asks models some of the problems that another one without asks them too, its rows
    of models alone are left out: they say the same with fewer samples. (`policies` has them as ``"none"``.)

    The provenance is the first evaluation's; with several, ``provenance.evals`` holds each one's under its name.
    """
    parts = [stage.results for stage in run.evaluations]
    of_models = [stage.results for stage in run.evaluations if not _is_about_policies(stage, run.evaluations)]
    tables: dict[str, Any] = {key: [item for part in of_models for item in part[key]] for key in TABLES}
    of_policies = [part["policies"] for part in parts if "policies" in part]
    if of_policies:
        tables["policies"] = {key: [item for part in of_policies for item in part[key]] for key in POLICY_TABLES}
    of_searches = [part["search"] for part in of_models if "search" in part]
    if of_searches:
        tables["search"] = {key: [item for part in of_searches for item in part[key]] for key in POLICY_TABLES}
        tables["search"]["settings"] = of_searches[0]["settings"]
    facts = {**of_models[0]["provenance"], "stages": [stage.facts() for stage in (*run.stages, *run.evaluations)]}
    if len(parts) > 1:
        facts["evals"] = {stage.name: stage.results["provenance"] for stage in run.evaluations}
    return {**tables, "provenance": facts}


def _is_about_policies(stage: Evaluation, every: Sequence[Evaluation]) -> bool:
    """Whether another evaluation says of models alone what this one says, on the same problems or more."""
    if "policies" not in stage.results:
        return False
    asked = {problem.id for problem in stage.problems}
    return any(
        "policies" not in other.results
        and set(stage.models) <= set(other.models)
        and asked <= {problem.id for problem in other.problems}
        for other in every
    )


def _examples(stage: Evaluation, opening: Headline) -> list[Any]:
    only = stage.models[-1]
    model, baseline = (opening.pair["model"], opening.pair["baseline"]) if opening.pair else (only, only)
    samples = stage.results["rows"][0]["n_samples"]
    return choose(stage.problems, stage.rollouts, baseline=baseline, model=model, samples=samples)


def _samples(stage: Evaluation) -> dict[str, Samples]:
    kept = scorable(stage.problems, stage.rollouts)
    samples = stage.results["rows"][0]["n_samples"]
    return {name: collect(rows, kept, samples=samples, source=name) for name, rows in stage.rollouts.items()}


def _pictures(stage: Evaluation, opening: Headline) -> Iterator[Picture]:
    rows = [row for row in stage.results["rows"] if row["task"] == stage.results["rows"][0]["task"]]
    models = _samples(stage)
    yield Picture(
        "accuracy_tokens",
        "Accuracy against tokens",
        "Up and to the left is better. Bars are 95 % intervals; models on the dashed line are beaten by no other.",
        *(plots.accuracy_against_tokens(rows, theme) for theme in (LIGHT, DARK)),
    )
    yield Picture(
        "accuracy_budget",
        "Accuracy at a token budget",
        "How often a model is right if every answer is cut at the budget. Curves that rise early are frugal.",
        *(plots.accuracy_at_budgets(models, theme) for theme in (LIGHT, DARK)),
    )
    yield Picture(
        "lengths",
        "Lengths before and after",
        "Share of answers by length. Full colour: right; pale: wrong. The vertical line is the mean.",
        *(plots.length_histograms(models, theme) for theme in (LIGHT, DARK)),
    )

    if opening.pair is not None:
        model, base = opening.pair["model"], opening.pair["baseline"]
        yield Picture(
            "problems",
            "Problem by problem",
            f"One dot per problem. Below the dashed line {model} is shorter than {base} on it.",
            *(plots.problem_by_problem(model, base, models, theme) for theme in (LIGHT, DARK)),
        )


def _curves(stages: Sequence[Stage]) -> Iterator[Picture]:
    for stage in stages:
        light, dark = (plots.training_curves(stage.kind, stage.metrics, theme) for theme in (LIGHT, DARK))
        if light and dark:
            yield Picture(f"training_{stage.name}", f"Training: {stage.name}", "", light, dark)


def _step_pictures(stages: Sequence[Stage]) -> Iterator[Picture]:
    for stage in stages:
        if stage.kind == "grpo":
            light, dark = (step_time.step_seconds(stage.metrics, theme) for theme in (LIGHT, DARK))
            if light and dark:
                note = "Moving average over a tenth of the run."
                yield Picture(f"seconds_{stage.name}", f"Seconds of a step: {stage.name}", note, light, dark)


def policy_pictures(results: Mapping[str, Any]) -> Iterator[Picture]:
    """One picture for every model that was tried with policies."""
    for block in policy_table.blocks(results):
        yield Picture(
            f"policies_{block.name}",
            f"Policies of {block.title}: accuracy against tokens",
            "All tokens count, those of probes and of discarded traces too. Policies on the dashed line are beaten by "
            "no other; bars are 95 % intervals.",
            *(policy_plot.policies(block.rows, theme) for theme in (LIGHT, DARK)),
        )


def search_pictures(results: Mapping[str, Any]) -> Iterator[Picture]:
    """Of models that search."""
    rows = search_table.first_rows(results)
    if not rows:
        return
    yield Picture(
        "accuracy_searches",
        "Accuracy against searches",
        "Up and to the left is better. Large: as the model searches by itself, with 95 % intervals. Small: held to "
        "0, 1, 2 and 3 searches.",
        *(search_plot.accuracy_against_searches(rows, theme) for theme in (LIGHT, DARK)),
    )
    if any(row["closed_book"] for row in rows):
        yield Picture(
            "searches_knowledge",
            "Searches against knowledge",
            "Who knows when not to search falls from the upper left to the lower right.",
            *(search_plot.searches_against_knowledge(rows, theme) for theme in (LIGHT, DARK)),
        )


def _markdown(
    title: str,
    opening: Headline,
    results: Mapping[str, Any],
    pictures: Sequence[Picture],
    policies: Sequence[Picture],
    searches: Sequence[Picture],
    steps: Sequence[step_time.StepTime],
    step_pictures: Sequence[Picture],
) -> str:
    facts = results["provenance"]
    images = images_of(pictures)
    lines = [f"# {title}", f"**{opening.sentence}**", opening.caveat, markdown_table(results), images]
    if searches:
        lines += ["## Searches", search_table.markdown(results), images_of(searches)]
    if policies:
        lines += ["## Policies", policy_table.markdown(results), images_of(policies)]
    if steps:
        lines += ["## Where the seconds of a step went", step_time.markdown(steps), images_of(step_pictures)]
    made = f"Made by `{facts['command']}` on {facts['date']}; more in `results.json` and `report.html`."
    return "\n\n".join(line for line in (*lines, made) if line) + "\n"


def images_of(pictures: Sequence[Picture]) -> str:
    """The pictures as Markdown shows them."""
    return "\n\n".join(f"![{picture.title}]({picture.name}.png)" for picture in pictures)


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    try:
        print(write_report(Path(arguments[0]), arguments[1:]) / "report.html")
    except LaconicError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
