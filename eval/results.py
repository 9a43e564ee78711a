"""From rollouts to `results.json`: rows, paired comparisons, fronts, provenance.

The layout, which other programs read::

    {"rows":     [{"eval", "model", "policy", "task", "n_problems", "n_samples", "accuracy", "accuracy_se", "tokens",
                   "tokens_se", "truncated", ...}],
     "paired":   [{"eval", "model", "baseline", "task", "d_accuracy", "d_accuracy_ci", "token_ratio",
                   "token_ratio_ci", "non_inferior", ...}],
     "frontier": [{"eval", "task", "models", "hypervolume", "reference_tokens"}],
     "provenance": {...}}

With several tasks there is a row per task and one with task ``"all"``. What cannot be computed is null. An evaluation
with policies has one more key, ``"policies"`` (`policy_results`): rows above are always without any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from laconic.eval.cost import AesWeights
from laconic.eval.paired import Means, adjust, compare, means_of
from laconic.eval.rows import frontier, row
from laconic.eval.samples import Samples, collect, scorable
from laconic.eval.stats import bootstrap_means
from laconic.rewards.records import Problem, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an evaluation is asked to compute."""

    name: str
    """Of the eval stage; tells rows of several evaluations apart."""
    baseline: str
    samples: int
    """K, rollouts per problem."""
    budgets: tuple[int, ...]
    """Ascending token budgets; the last one bounds the area under the curve."""
    margin: float = 0.01
    weights: AesWeights = field(default_factory=AesWeights)
    seed: int = 0
    """Of the bootstrap."""
    repetitions: int = 10_000


def build_results(
    problems: Sequence[Problem],
    rollouts: Mapping[str, Sequence[Rollout]],
    settings: Settings,
    *,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure all models on all tasks.

    Args:
        problems: Those that were asked.
        rollouts: By model, in the order of the recipe; the baseline is among them.
        settings: What to compute.
        provenance: Passed through, with the count of problems that no verifier could judge added.

    Raises:
        DataError: rollouts are missing or doubled, or no problem can be scored.
    """
    kept = scorable(problems, rollouts)
    models = {
        name: collect(rows, kept, samples=settings.samples, source=f"rollouts of {name}")
        for name, rows in rollouts.items()
    }
    parts = [_measure(task, models, settings) for task in tasks_of(kept)]
    results: dict[str, Any] = {key: [item for part in parts for item in part[key]] for key in parts[0]}
    adjust(parts[0]["paired"])  # one family is the headline comparisons, the other all single tasks
    adjust([pair for part in parts[1:] for pair in part["paired"]])
    results["provenance"] = {**provenance, "unscorable_problems": len(problems) - len(kept)}
    return results


def tasks_of(problems: Sequence[Problem]) -> list[str]:
    """``all`` first if there are several; the first task is what a headline speaks of."""
    tasks = sorted({problem.task for problem in problems})
    return tasks if len(tasks) == 1 else ["all", *tasks]


def _measure(task: str, models: Mapping[str, Samples], settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Rows, comparisons and front of one task."""
    part = {name: samples.of_task(task) for name, samples in models.items()}
    rows = {name: row(name, task, samples, budgets=settings.budgets) for name, samples in part.items()}
    drawn = replicates(part, settings)
    stacked = {key: np.stack([means[key] for means in drawn.values()], axis=1) for key in ("tokens", "accuracy")}
    reference = max(item["tokens"] for item in rows.values())
    front = frontier(rows, stacked, reference=reference)
    base = settings.baseline
    pairs = [
        {
            "model": name,
            "baseline": base,
            "task": task,
            **compare(
                samples,
                part[base],
                replicates=(drawn[name], drawn[base]),
                margin=settings.margin,
                weights=settings.weights,
                limit=settings.budgets[-1],
            ),
        }
        for name, samples in part.items()
        if name != base
    ]
    tagged = {"rows": list(rows.values()), "paired": pairs, "frontier": [{"task": task, **front}]}
    return {key: [{"eval": settings.name, **item} for item in items] for key, items in tagged.items()}


def replicates(part: Mapping[str, Samples], settings: Settings) -> dict[str, Means]:
    """Bootstrap replicates of every model from the same resampled questions."""
    values = {name: means_of(samples, settings.budgets[-1]) for name, samples in part.items()}
    columns = np.stack([column for means in values.values() for column in means.values()], axis=1)
    clusters = next(iter(part.values())).clusters
    drawn = iter(bootstrap_means(columns, seed=settings.seed, repetitions=settings.repetitions, clusters=clusters).T)
    return {name: {key: next(drawn) for key in means} for name, means in values.items()}
