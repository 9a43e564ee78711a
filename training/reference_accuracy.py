"""How often a model was right before training, by problem: the column `reference_accuracy`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem, read_rollouts


def with_reference_accuracy(problems: Sequence[Problem], folder: Path) -> list[Problem]:
    """Problems that know the share of a model's samples that were right.

    Samples that the token limit cut count as they were judged. A problem whose answer nobody could check has no share,
    and no reward either.

    Args:
        problems: Of the grpo stage.
        folder: Of the generate stage that sampled the model.

    Raises:
        DataError: some of the problems were not asked there.
    """
    verdicts: dict[str, list[bool | None]] = defaultdict(list)
    for rollout in read_rollouts(folder / "rollouts.jsonl"):
        verdicts[rollout.problem_id].append(rollout.correct)
    asked = [problem.id for problem in problems if problem.id in verdicts]
    if len(asked) < len(problems):
        raise DataError(
            f"reference: {len(problems) - len(asked)} of {len(problems)} training problems were not asked in {folder}",
            cure="give that stage the limit and decontaminate of this one, and no skip",
        )
    return [_known(problem, [one for one in verdicts[problem.id] if one is not None]) for problem in problems]


def _known(problem: Problem, verdicts: Sequence[bool]) -> Problem:
    if not verdicts:
        return problem
    return replace(problem, meta=problem.meta | {"reference_accuracy": sum(verdicts) / len(verdicts)})
