"""Rewards as TRL reward callables that see whole groups, on any number of processes.

TRL calls reward functions on each process with that process's rows, before it gathers, so the rollouts of one problem
may be split over processes. Here the counts and verdicts of all processes are gathered first (a few numbers per
rollout), rewards are computed on whole groups, and each process returns the part that is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from laconic.inference.trace import TraceReader
from laconic.rewards import registry
from laconic.rewards.answers import judge
from laconic.rewards.errors import DataError
from laconic.rewards.group import Group
from laconic.rewards.records import Problem, Rollout


@dataclass
class _Batch:
    """The generation batch of all processes, and which slice of it this process holds."""

    key: Sequence[Any]
    rollouts: list[Rollout]
    mine: slice


class GroupScorer:
    """Reads, verifies and gathers the rollouts of one generation batch; shared by all rewards of a trainer.

    Args:
        problems: The training problems by id; the dataset carries ``problem_id``.
        tokenizer: Decodes completions and finds where thinking ends.
        eos_ids: Every token that can end a completion; None takes the tokenizer's one.
        num_generations: Group size G.
    """

    def __init__(
        self,
        problems: Mapping[str, Problem],
        tokenizer: PreTrainedTokenizerBase,
        *,
        num_generations: int,
        eos_ids: Collection[int] | None = None,
    ) -> None:
        self.problems = dict(problems)
        self.reader = TraceReader(tokenizer, eos_ids=eos_ids)
        self.num_generations = num_generations
        self._batch: _Batch | None = None

    def batch(self, problem_id: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> _Batch:
        """The whole generation batch. A collective call the first time it sees a batch, on every process alike."""
        if self._batch is None or self._batch.key is not completion_ids:
            local = [self._read(*item) for item in zip(problem_id, completion_ids, strict=True)]
            parts = gather_object([local])
            start = sum(len(part) for part in parts[: _rank()])
            rollouts = [rollout for part in parts for rollout in part]
            self._batch = _Batch(completion_ids, rollouts, slice(start, start + len(local)))
        return self._batch

    def groups(self, rollouts: Sequence[Rollout]) -> Iterator[Sequence[Rollout]]:
        """Split a batch into its groups of G.

        Raises:
            DataError: the rollouts of a problem do not stand together in a multiple of G.
        """
        for problem_id, run in groupby(rollouts, key=lambda rollout: rollout.problem_id):
            members = list(run)
            if len(members) % self.num_generations:
                raise DataError(
                    f"problem {problem_id!r} has {len(members)} rollouts side by side in the generation batch, "
                    f"which is no multiple of num_generations={self.num_generations}",
                    cure="make the generation batch hold whole groups; `laconic plan` shows the arithmetic",
                )
            for start in range(0, len(members), self.num_generations):
                yield members[start : start + self.num_generations]

    def _read(self, problem_id: str, ids: Sequence[int]) -> Rollout:
        problem = self.problems[problem_id]
        trace = self.reader.read(ids)
        verdict = judge(trace.answer_text, problem)
        return Rollout(
            problem_id=problem_id,
            sample=0,
            task=problem.task,
            text=trace.text,
            answer=verdict.answer,
            correct=verdict.correct,
            finished=bool(ids) and ids[-1] in self.reader.eos_ids,
            tokens=trace.tokens,
            think_tokens=trace.think_tokens,
            answer_tokens=trace.answer_tokens,
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_batch": None}


class RewardAdapter:
    """One registered reward as a TRL reward callable.

    Rows whose gold answer cannot be checked get None, so TRL leaves them out of the baseline. Accuracy and lengths
    are logged as metrics of their own (``raw/...``), apart from the shaped reward.

    Args:
        name: Registered name; TRL logs the reward under it.
        parameters: The reward's parameters.
        scorer: Shared between the adapters of one trainer.
        log_raw: Log the ``raw/...`` metrics; one adapter of a trainer does.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any], scorer: GroupScorer, *, log_raw: bool = False) -> None:
        self.__name__ = name
        self.scorer = scorer
        self.log_raw = log_raw
        self._reward = registry.build(name, parameters)

    def __call__(
        self,
        *,
        completion_ids: list[list[int]],
        problem_id: list[str],
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """Rewards of this process's rows, in order."""
        batch = self.scorer.batch(problem_id, completion_ids)
        if self.log_raw and log_metric is not None:
            for metric, value in raw_metrics(batch.rollouts).items():
                log_metric(metric, value)
        rewards = [value for group in self.scorer.groups(batch.rollouts) for value in self._score(group)]
        return rewards[batch.mine]

    def _score(self, group: Sequence[Rollout]) -> list[float | None]:
        if any(rollout.correct is None for rollout in group):
            return [None] * len(group)
        return self._reward(Group.from_rollouts(group)).tolist()


def raw_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Unshaped facts of a generation batch: accuracy, tokens by part and by verdict, truncation."""
    correct = np.array([bool(rollout.correct) for rollout in rollouts])
    tokens = np.array([rollout.tokens for rollout in rollouts], dtype=float)
    metrics = {
        "raw/accuracy": correct.mean(),
        "raw/tokens": tokens.mean(),
        "raw/think_tokens": np.mean([rollout.think_tokens for rollout in rollouts]),
        "raw/truncated": np.mean([not rollout.finished for rollout in rollouts]),
        "raw/unparsable": np.mean([rollout.answer is None for rollout in rollouts]),
    }
    if correct.any():
        metrics["raw/tokens_correct"] = tokens[correct].mean()
    if not correct.all():
        metrics["raw/tokens_wrong"] = tokens[~correct].mean()
    return {name: float(value) for name, value in metrics.items()}


def _rank() -> int:
    from accelerate import PartialState

    return PartialState().process_index
