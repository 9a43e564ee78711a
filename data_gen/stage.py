"""The generate stage: problems in, verified rollouts and training rows out.

    python -m laconic.data_gen.stage runs/quickstart/03-pairs-1a2b3c4d/stage.yaml

Writes `problems.jsonl` (those used), `rollouts.jsonl`, `rows.jsonl` and `summary.json` into the stage folder. A killed
stage goes on where it stopped: the rollouts that are on disk are kept.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.data_gen import pairs, select
from laconic.data_gen.clean import Cleaned, deduplicate, pass_rate_filter
from laconic.data_gen.rollouts import sample_rollouts, write_ordered
from laconic.data_gen.sources import load_problems, training_problems, validate_golds
from laconic.data_gen.world.practice import Practice, practice
from laconic.inference.sampling import EngineSampler
from laconic.inference.trace import TraceReader
from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import write_atomic, write_jsonl
from laconic.rewards.records import Problem, Rollout

if TYPE_CHECKING:
    from laconic.recipes.entry import Opened
    from laconic.recipes.stages import GenerateStage

Row = dict[str, Any]


def main(opened: Opened) -> dict[str, Any]:
    """Run an opened generate stage.

    Returns:
        Facts for the manifest: how many rollouts, rows and generated tokens.

    Raises:
        DataError: the problems cannot be used, or not a single row came out.
        ModelError: the model cannot be loaded or sampled from.
    """
    config: GenerateStage = opened.stage.config
    used = _problems(opened)
    practised = _practised(opened, used.kept)
    problems = validate_golds(practised.problems, opened.stage.problems)
    write_jsonl(opened.work / "problems.jsonl", (problem.to_json() for problem in problems))
    rollouts = _rollouts(opened, replace(practised, problems=problems))
    kept = _by_pass_rate(config, problems, rollouts)
    chosen = _rule(config.keep)(rollouts, {problem.id: problem for problem in kept.kept})
    again = [row for row in chosen if row["problem_id"] in practised.repeated]
    selected = deduplicate([row for row in chosen if row["problem_id"] not in practised.repeated])
    if not (selected.kept or again):
        raise _no_rows(config, problems, kept.kept, rollouts)
    # What is known is repeated on purpose.
    rows = [*_asked(opened, [*selected.kept, *again], problems), *_closed_book(opened)]
    write_jsonl(opened.work / "rows.jsonl", rows)
    dropped = {"decontaminate": used.counts, "pass_rate": kept.counts, "repeats": selected.counts}
    summary = summarise(problems, rollouts, rows, dropped)
    write_atomic(opened.work / "summary.json", json.dumps(summary, indent=2) + "\n")
    print(f"{config.name}: {summary['rows']} rows from {summary['rollouts']} rollouts of {len(problems)} problems")
    return {key: summary[key] for key in ("rollouts", "rows", "tokens")}


def _asked(opened: Opened, rows: Sequence[Row], problems: Sequence[Problem]) -> list[Row]:
    """The rows with the prompt that their models are asked with."""
    stage, teacher, closed = opened.stage, opened.stage.config.teacher, frozenset[int]()
    search = stage.search
    if search is None:
        return list(rows)
    if teacher is not None and teacher.closed_book:
        from laconic.data_gen.world.closed_book import asked_from_memory

        by_id = {problem.id: problem for problem in problems}
        closed = asked_from_memory(rows, by_id, share=teacher.closed_book, seed=str(stage.seed))
    return [
        row | {"prompt": search.prompt(row["prompt"], searches_enabled=at not in closed)} for at, row in enumerate(rows)
    ]


def _closed_book(opened: Opened) -> list[Row]:
    """Statements of what a world's model is to know without searching."""
    stage, teacher = opened.stage, opened.stage.config.teacher
    if teacher is None or not teacher.statements:
        return []
    from laconic.data_gen.world.lessons import stated

    return stated(stage.problems.world(stage.problems_seed), repeats=teacher.statements)


def _problems(opened: Opened) -> Cleaned[Problem]:
    """The problems of the stage's split, less those that the test problems give away."""
    stage, config = opened.stage, opened.stage.config
    if config.split == "test":
        return Cleaned(load_problems(stage.problems, "test", stage.problems_seed), [])
    return training_problems(stage.problems, stage.problems_seed, decontaminated=config.decontaminate)


def _practised(opened: Opened, found: list[Problem]) -> Practice:
    """The problems that are not left out, and what a world's teacher asks besides."""
    stage, config = opened.stage, opened.stage.config
    problems = found[config.skip :][: config.limit]
    if not problems:
        raise DataError(
            f"{config.name}: skip: {config.skip} leaves none of {len(found)} problems", cure="skip fewer, or draw more"
        )
    asked = {} if config.teacher is None else config.teacher.model_dump(include={"taught_questions", "recalls"})
    if not any(asked.values()):
        return Practice(problems, {problem.id: config.samples for problem in problems}, frozenset())
    return practice(
        stage.problems.world(stage.problems_seed),
        problems,
        samples=config.samples,
        seed=stage.seed,
        left_out=frozenset(problem.id for problem in found[: config.skip]),
        **asked,
    )


def _rollouts(opened: Opened, practised: Practice) -> list[Rollout]:
    stage, config, path = opened.stage, opened.stage.config, opened.work / "rollouts.jsonl"
    problems = practised.problems
    if config.teacher is None:
        return _sampled(opened, problems, path) if stage.search is None else _searched(opened, problems, path)
    if stage.problems.source == "world":
        return write_ordered(path, _taught_episodes(opened, practised))
    # Imported here: a stage that samples a model needs no teachers.
    from laconic.data_gen.lessons import golden, taught

    if config.teacher.source == "gold":
        return write_ordered(path, golden(problems))
    teacher = {"styles": config.teacher.styles, "redundancy": config.teacher.redundancy}
    return write_ordered(path, taught(problems, **teacher, samples=config.samples, seed=stage.seed))


def _sampled(opened: Opened, problems: Sequence[Problem], path: Path) -> list[Rollout]:
    # torch takes seconds to import, and a teacher does not need it.
    from laconic.inference.engines.loading import load_model
    from laconic.inference.engines.transformers import TICKS_IN_A_ROW, TransformersEngine

    stage, config = opened.stage, opened.stage.config
    given = stage.model.model_dump(include={"dtype", "attn_implementation"})
    model, tokenizer = load_model(opened.model_dir(), revision=opened.revision(), **given)
    engine = TransformersEngine(model, tokenizer, signals=False, ticks_in_a_row=TICKS_IN_A_ROW)
    reader = TraceReader(tokenizer, eos_ids=engine.eos_ids)
    with EngineSampler(engine) as sampler:
        rollouts = sample_rollouts(
            sampler,
            reader,
            problems,
            samples=config.samples,
            sampling=config.sampling.build(),
            seed=stage.seed,
            path=path,
            source=config.model or opened.model_dir(),
        )
    return [*rollouts, *_gold(problems, reader, sample=config.samples)] if config.gold else rollouts


def _searched(opened: Opened, problems: Sequence[Problem], path: Path) -> list[Rollout]:
    from laconic.data_gen.episode_rollouts import sample_episodes
    from laconic.data_gen.retrievers import open_for
    from laconic.inference.opening import open_engine

    stage, config = opened.stage, opened.stage.config
    given = {"revision": opened.revision(), "dtype": stage.model.dtype, "signals": False}
    return sample_episodes(
        open_engine(opened.model_dir(), **given),
        open_for(opened),
        problems,
        search=stage.search,
        samples=config.samples,
        sampling=config.sampling.build(),
        seed=stage.seed,
        path=path,
        source=config.model or opened.model_dir(),
        model=stage.model,
    )


def _taught_episodes(opened: Opened, practised: Practice) -> list[Rollout]:
    from laconic.data_gen.retrievers import open_for
    from laconic.data_gen.world.lessons import taught_episodes

    stage, config = opened.stage, opened.stage.config
    return taught_episodes(
        stage.problems.world(stage.problems_seed),
        practised.problems,
        search=stage.search,
        retriever=open_for(opened),
        styles=config.teacher.styles,
        samples=practised.samples,
        seed=stage.seed,
    )


def _gold(problems: Sequence[Problem], reader: TraceReader, *, sample: int) -> list[Rollout]:
    """The data set's own solutions, their lengths counted in the model's tokens like those of its samples."""
    from laconic.data_gen.lessons import golden

    tokenizer, counted = reader.tokenizer, []
    for rollout in golden(problems):
        trace = reader.read([*tokenizer.encode(rollout.text, add_special_tokens=False), tokenizer.eos_token_id])
        lengths = {"tokens": trace.tokens, "think_tokens": trace.think_tokens, "answer_tokens": trace.answer_tokens}
        counted.append(replace(rollout, sample=sample, **lengths))
    return counted


def _by_pass_rate(config: GenerateStage, problems: list[Problem], rollouts: list[Rollout]) -> Cleaned[Problem]:
    if config.pass_rate is None:
        return Cleaned(problems, [])
    low, high = config.pass_rate
    return pass_rate_filter(problems, rollouts, low=low, high=high)


def _rule(keep: str) -> select.Selector:
    return pairs.PAIRINGS[keep] if keep in pairs.PAIRINGS else select.SELECTORS[keep]


def _no_rows(
    config: GenerateStage, problems: Sequence[Problem], kept: Sequence[Problem], rollouts: Sequence[Rollout]
) -> DataError:
    """Say what was missing, with the counts that tell why."""
    counts = f"of {len(rollouts)} rollouts {_right(rollouts)} are correct, {_finished(rollouts)} finished"
    if not kept:
        low, high = config.pass_rate or (0.0, 1.0)
        message = f"0 of {len(problems)} problems have a pass rate in [{low}, {high}]"
        cure = "widen pass_rate, or raise samples"
    else:
        needs = (select.NEEDS | pairs.NEEDS)[config.keep]
        message = f"keep: {config.keep}: 0 of {len(kept)} problems have {needs}"
        cure = "raise samples, limit or sampling.max_tokens, or train the model further before this stage"
    return DataError(f"stage {config.name}: {message} ({counts})", cure=cure)


def summarise(
    problems: Sequence[Problem],
    rollouts: Sequence[Rollout],
    rows: Sequence[Row],
    dropped: dict[str, dict[str, int]],
) -> dict[str, Any]:
    """The counts of a stage, as summary.json has them.

    Args:
        problems: Those used.
        rollouts: All of them.
        rows: What came out.
        dropped: By cleaning step and reason, how many were left out.
    """
    tokens = sum(rollout.tokens for rollout in rollouts)
    return {
        "problems": len(problems),
        "rollouts": len(rollouts),
        "correct": _right(rollouts),
        "finished": _finished(rollouts),
        "unverifiable": sum(rollout.correct is None for rollout in rollouts),
        "tokens": tokens,
        "tokens_per_rollout": tokens / max(1, len(rollouts)),
        "sources": dict(Counter(rollout.source for rollout in rollouts)),
        "rows": len(rows),
        "problems_with_rows": len({row["problem_id"] for row in rows}),
        "dropped": dropped,
    }


def _right(rollouts: Sequence[Rollout]) -> int:
    return sum(rollout.correct is True for rollout in rollouts)


def _finished(rollouts: Sequence[Rollout]) -> int:
    return sum(rollout.finished for rollout in rollouts)


if __name__ == "__main__":
    from laconic.recipes.entry import run_stage

    run_stage("generate", main, sys.argv[1:])
