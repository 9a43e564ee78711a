"""What a generation batch of search episodes did, unshaped: the metrics that show a policy collapse before the reward
does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from laconic.rewards.records import Rollout

__all__ = ["search_metrics"]


def search_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Metrics by name; {} where the rollouts are no search episodes.

    Returns:
        ``raw/searches``: executed ones, mean; ``raw/searching``: share of rollouts with at least one;
        ``raw/at_limit``: share with as many as are allowed. These three are over rollouts that could search;
        ``raw/accuracy_disabled``: of those that could not, if there are any;
        ``raw/searches_correct``: mean of the right ones among those that could, if there are any;
        ``raw/invalid_actions``: mean; ``raw/invalid``: share of rollouts with one;
        ``raw/refused``: searches that were not carried out, mean;
        ``raw/retrieved_tokens`` and ``raw/forced_tokens``: mean.
    """
    if not all("search" in rollout.meta for rollout in rollouts):
        return {}
    facts, correct = [rollout.meta["search"] for rollout in rollouts], np.array([bool(r.correct) for r in rollouts])
    limit = np.array([fact["limit"] for fact in facts])
    able, searches = limit > 0, np.array([rollout.meta["searches"] for rollout in rollouts], dtype=float)
    invalid = np.array([rollout.meta["invalid_actions"] for rollout in rollouts])
    metrics = {
        "raw/invalid_actions": invalid.mean(),
        "raw/invalid": (invalid > 0).mean(),
        "raw/refused": np.mean([fact["refused"] for fact in facts]),
        "raw/retrieved_tokens": np.mean([fact["retrieved_tokens"] for fact in facts]),
        "raw/forced_tokens": np.mean([fact["forced_tokens"] for fact in facts]),
    }
    if able.any():
        metrics["raw/searches"] = searches[able].mean()
        metrics["raw/searching"] = (searches[able] > 0).mean()
        metrics["raw/at_limit"] = (searches[able] >= limit[able]).mean()
    if (able & correct).any():
        metrics["raw/searches_correct"] = searches[able & correct].mean()
    if not able.all():
        metrics["raw/accuracy_disabled"] = correct[~able].mean()
    return {name: float(value) for name, value in metrics.items()}
