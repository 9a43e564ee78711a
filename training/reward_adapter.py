"""Rewards as TRL reward callables that see whole groups, on any number of processes.

Every process computes the rewards of the whole generation batch and returns the part that is its own; so rewards with
memory remember the same on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import TrainerState

from laconic.rewards import registry
from laconic.rewards.compose import compose
from laconic.rewards.group import Batch, Progress
from laconic.rewards.records import Rollout
from laconic.training.group_scorer import Generation, GroupScorer
from laconic.training.prompt_budgets import budget_metrics
from laconic.training.search_metrics import search_metrics


class RewardAdapter:
    """One entry of a recipe's ``rewards:`` list as a TRL reward callable.

    Rows whose gold answer cannot be checked get None, so TRL leaves them out of the baseline; so do rows from which
    the reward abstains. Accuracy and lengths are logged as metrics of their own (``raw/...``), apart from the shaped
    reward.

    Args:
        entry: The reward's name and parameters, and when and for whom it counts; see `laconic.rewards.compose`. Its
            weight is TRL's to apply.
        scorer: Shared between the adapters of one trainer.
        log_raw: Log the ``raw/...`` metrics; one adapter of a trainer does.
    """

    def __init__(self, entry: Mapping[str, Any], scorer: GroupScorer, *, log_raw: bool = False) -> None:
        self.__name__ = entry["name"]
        self.scorer = scorer
        self.log_raw = log_raw
        self._reward = compose(entry)
        self._judge = scorer.serve(entry)
        self._judged = registry.find(entry["name"]).judged

    def __call__(
        self,
        *,
        completion_ids: list[list[int]],
        problem_id: list[str],
        trainer_state: TrainerState | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **carried: Any,
    ) -> list[float | None]:
        """Rewards of this process's rows, in order."""
        progress = Progress(trainer_state.global_step, trainer_state.max_steps) if trainer_state else Progress()
        generation = self.scorer.generation(problem_id, completion_ids, progress, carried)
        if self.log_raw and log_metric is not None:
            for metric, value in raw_metrics(generation.rollouts).items():
                log_metric(metric, value)
        rewards = np.full(len(generation.rollouts), np.nan)
        if generation.batch.groups:
            rewards[generation.checked] = self._reward(self._batch(generation))
        return registry.abstentions_as_none(rewards[generation.mine])

    def state_dict(self) -> dict[str, Any]:
        """The reward's memory, the same on every process; {} without one."""
        return self._reward.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a memory."""
        self._reward.load_state_dict(state)

    def _batch(self, generation: Generation) -> Batch:
        if self._judge is None:
            return generation.batch
        return generation.judged(self._judge, self._judged.column)


def raw_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Unshaped facts of a generation batch: accuracy, tokens by part and by verdict, truncation, searches, budgets."""
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
    metrics |= search_metrics(rollouts) | budget_metrics(rollouts)
    return {name: float(value) for name, value in metrics.items()}
