"""One row of results: everything measured about one model on one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laconic.eval.accuracy import accuracy, majority_at_k, pass_at_k
from laconic.eval.cost import accuracy_at_budget, budget_area, token_summary
from laconic.eval.frontier import hypervolume, pareto
from laconic.eval.samples import Array, Samples
from laconic.eval.stats import clustered_se


def row(model: str, task: str, samples: Samples, *, budgets: Sequence[int]) -> dict[str, Any]:
    """Measure one model on one task.

    Args:
        model: Name of the stage that made it, or ``base``.
        task: A task, or ``"all"``.
        samples: Of that task only.
        budgets: Ascending token budgets; the last is the limit of the area.

    Returns:
        Plain numbers, ready for JSON. Rates and accuracies are in [0, 1]; `n_samples` is K, per problem.
    """
    right, tokens = samples.correct, samples.tokens
    return {
        "model": model,
        "policy": "none",
        "task": task,
        "n_problems": samples.shape[0],
        "n_samples": samples.shape[1],
        "accuracy": float(right.mean()),
        "accuracy_se": clustered_se(accuracy(right), samples.clusters),
        **token_summary(samples),
        "tokens_se": clustered_se(tokens.mean(axis=1), samples.clusters),
        "truncated": float((~samples.finished).mean()),
        "unparsable": float((~samples.parsed).mean()),
        "accuracy_finished": _accuracy_finished(samples),
        **_repeated(samples),
        "accuracy_at_budget": dict(
            zip(map(str, budgets), accuracy_at_budget(right, tokens, budgets).tolist(), strict=True)
        ),
        "budget_area": float(budget_area(right, tokens, budgets[-1]).mean()),
        "budget_limit": budgets[-1],
    }


def _accuracy_finished(samples: Samples) -> float | None:
    """Accuracy given that the answer ended before the token limit; None if none did."""
    return float(samples.correct[samples.finished].mean()) if samples.finished.any() else None


def _repeated(samples: Samples) -> dict[str, dict[str, float]]:
    """Pass@k and maj@k by k (as text, since JSON keys are), and the tokens that one such vote costs."""
    ks = powers_of_two(samples.shape[1])
    mean_tokens = float(samples.tokens.mean())
    return {
        "pass_at_k": {str(k): float(pass_at_k(samples.correct, k).mean()) for k in ks},
        "maj_at_k": {str(k): float(majority_at_k(samples.votes, k).mean()) for k in ks},
        "tokens_at_k": {str(k): k * mean_tokens for k in ks},
    }


def powers_of_two(samples: int) -> list[int]:
    """The k that pass@k and maj@k are given for: 1, 2, 4, ... and K itself."""
    return sorted({2**step for step in range(samples.bit_length())} | {samples})


def frontier(
    rows: Mapping[str, dict[str, Any]], replicates: Mapping[str, Array], *, reference: float
) -> dict[str, Any]:
    """Mark which rows of one task lie on the Pareto front, and describe the front.

    Args:
        rows: By model; gains `pareto` and `pareto_frequency`, the share of bootstrap replicates that agree it is on
            the front.
        replicates: ``accuracy`` and ``tokens``, each (B, m) in the order of `rows`.
        reference: Tokens at which the hypervolume ends.
    """
    tokens, scores = ([item[key] for item in rows.values()] for key in ("tokens", "accuracy"))
    shares = pareto(replicates["tokens"], replicates["accuracy"]).mean(axis=0)
    for item, on_front, share in zip(rows.values(), pareto(tokens, scores), shares, strict=True):
        item["pareto"] = bool(on_front)
        item["pareto_frequency"] = float(share)
    return {
        "models": [name for name, item in rows.items() if item["pareto"]],
        "hypervolume": hypervolume(tokens, scores, reference),
        "reference_tokens": reference,
    }
