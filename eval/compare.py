"""Compare policies on one model: ``python -m laconic.eval.compare FOLDER``, as `laconic compare` runs it.

FOLDER holds `compare.json` (what is asked, see `Comparison`) and `problems.jsonl`. Rollouts are kept in `rollouts/` as
they come, so a comparison that was cut goes on where it stopped, and policies can be added later. At the end
`results.json`, `report.md` and the picture are written.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from laconic.data_gen.scorers import find_scorer
from laconic.eval import policy_table
from laconic.eval.cost import budget_grid
from laconic.eval.policy_results import NONE, Prices, measure_policies
from laconic.eval.policy_runs import Questions, check_choice, run_choice, shown
from laconic.eval.provenance import provenance
from laconic.eval.report import images_of, policy_pictures
from laconic.eval.results import Settings
from laconic.inference.engine import Sampling
from laconic.inference.opening import Opened, open_engine, open_named
from laconic.inference.policies.choose import Choice, choice_of
from laconic.inference.retrieval.batching import BatchingRetriever
from laconic.inference.retrieval.opening import open_retriever
from laconic.inference.retrieval.protocol import Retriever
from laconic.recipes.policy_entry import file_name
from laconic.rewards.errors import LaconicError, LaunchError
from laconic.rewards.jsonl import write_atomic
from laconic.rewards.records import Problem, Rollout, read_problems

SETTINGS = "compare.json"
ERROR = "error.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is compared."""

    model: str
    """As `open_engine` takes it."""
    name: str
    """What tables call the model."""
    source: str
    """What the problems are, as the command line named them."""
    policies: tuple[Choice, ...]
    sampling: Sampling
    samples: int
    seed: int
    margin: float
    scorer: str | None
    server: str
    tokenizer: str | None
    retriever: str | None
    """Where policies search."""
    engines: Mapping[str, str]
    """The models of further engines, by the names under which policies ask them."""
    prices: Prices | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The contents of `compare.json`."""
        given: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        given |= {
            "retriever": given.get("retriever"),
            "engines": {name: entry["model"] for name, entry in given.get("engines", {}).items()},
            "policies": tuple(choice_of(entry) for entry in given["policies"]),
            "sampling": Sampling(**given["sampling"]),
            "prices": Prices(**given["prices"]) if given["prices"] else None,
        }
        return cls(**{name: given[name] for name in cls.__slots__})


def compare(folder: Path) -> list[LaunchError]:
    """Ask what is missing, measure, and write everything down.

    Returns:
        What went wrong with single policies, which the results then leave out.

    Raises:
        LaconicError: a model cannot be opened, a policy cannot work with it, or no policy at all did not fail.
    """
    comparison, problems = Comparison.read(folder), list(read_problems(folder / "problems.jsonl"))
    if comparison.scorer is not None:
        _check_scorer(comparison.scorer, problems)
    opened = open_engine(comparison.model, server=comparison.server, tokenizer=comparison.tokenizer)
    engines = open_named(comparison.engines, beside=opened)
    retriever = BatchingRetriever(open_retriever(comparison.retriever)) if comparison.retriever else None
    questions = _questions(comparison, problems, engines, retriever)
    with asyncio.Runner() as runner:
        try:
            asked, failed = _ask(comparison, opened, questions, folder, runner)
        finally:
            for engine in {each.engine for each in (opened, *engines.values())}:
                runner.run(engine.aclose())
            if retriever is not None:
                runner.run(retriever.aclose())
    results = {
        "policies": measure_policies(
            problems, {comparison.name: asked}, _settings(comparison), prices=comparison.prices
        ),
        "provenance": provenance(
            model=comparison.model,
            problems=comparison.source,
            sampling={name: getattr(comparison.sampling, name) for name in Sampling.__slots__},
            seed=comparison.seed,
            scorer=comparison.scorer,
            **({"engines": dict(comparison.engines)} if comparison.engines else {}),
        ),
    }
    _write(folder, comparison, results)
    return failed


def _check_scorer(name: str, problems: Sequence[Problem]) -> None:
    """Before anything is loaded: it can be made for every problem."""
    make = find_scorer(name)
    for problem in problems:
        make(problem)


def _questions(
    comparison: Comparison,
    problems: Sequence[Problem],
    engines: Mapping[str, Opened],
    retriever: Retriever | None,
) -> Questions:
    return Questions(
        problems=problems,
        sampling=comparison.sampling,
        samples=comparison.samples,
        seed=comparison.seed,
        scorer=find_scorer(comparison.scorer) if comparison.scorer else None,
        engines={name: opened.engine for name, opened in engines.items()},
        retriever=retriever,
    )


def _ask(
    comparison: Comparison, opened: Opened, questions: Questions, folder: Path, runner: asyncio.Runner
) -> tuple[dict[str, list[Rollout]], list[LaunchError]]:
    """Rollouts by label, no policy first, and the errors of policies that could not answer everything."""
    given = {"scorer": questions.scorer is not None, "retriever": questions.retriever is not None}
    for choice in comparison.policies:
        check_choice(choice, opened.engine, **given)
    asked, failed = {}, []
    for choice in (Choice("plain", label=NONE), *comparison.policies):
        path = folder / "rollouts" / f"{file_name(choice.label)}.jsonl"
        try:
            asked[choice.label] = run_choice(
                choice, opened, questions, runner=runner, path=path, source=comparison.name
            )
        except LaunchError as error:
            if choice.label == NONE:
                raise
            failed.append(error)
        else:
            print(f"{shown(choice.label)}: {len(asked[choice.label])} answers", flush=True)
    return asked, failed


def _settings(comparison: Comparison) -> Settings:
    return Settings(
        name="compare",
        baseline=NONE,
        samples=comparison.samples,
        budgets=tuple(budget_grid(comparison.sampling.max_tokens)),
        margin=comparison.margin,
        seed=comparison.seed,
    )


def _write(folder: Path, comparison: Comparison, results: dict[str, Any]) -> None:
    pictures = list(policy_pictures(results))
    for picture in pictures:
        for name, png in picture.files().items():
            (folder / name).write_bytes(png)
    facts = results["provenance"]
    further = "".join(f", engine {name} `{model}`" for name, model in comparison.engines.items())
    lines = [
        f"# Policies of {comparison.name}",
        f"Model `{comparison.model}`{further}, problems `{comparison.source}`.",
        policy_table.markdown(results),
        images_of(pictures),
        f"Made on {facts['date']}; more in `results.json`, every answer in `rollouts/`.",
    ]
    write_atomic(folder / "report.md", "\n\n".join(lines) + "\n")
    write_atomic(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""
    folder = Path(arguments[0])
    try:
        failed = compare(folder)
    except LaconicError as error:
        failed = [error]
    if failed:
        message = "\n".join(map(str, failed))
        write_atomic(folder / ERROR, json.dumps({"message": message, "exit_code": 2}) + "\n")
        print(f"error: {message}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
