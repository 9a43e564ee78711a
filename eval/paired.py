"""One model against the baseline on the same problems, with intervals that respect the pairing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from laconic.eval.accuracy import accuracy
from laconic.eval.cost import AesWeights, aes, budget_area
from laconic.eval.samples import Array, Samples
from laconic.eval.stats import (
    FEW,
    bounded_interval,
    clustered_se,
    count_clusters,
    difference_p,
    holm,
    interval,
    non_inferiority,
)

Means = dict[str, Array]
"""``accuracy``, ``tokens`` and ``area`` of one model: (n,) per-question values, or (B,) bootstrap replicates."""


def compare(
    model: Samples, base: Samples, *, replicates: tuple[Means, Means], margin: float, weights: AesWeights, limit: int
) -> dict[str, Any]:
    """Compare a model with the baseline.

    Args:
        model: Samples of the model.
        base: Samples of the baseline on the same problems in the same order.
        replicates: Bootstrap replicates of both, from the same resamples.
        margin: Largest accepted loss of accuracy, in [0, 1].
        weights: Coefficients of AES.
        limit: Upper end of the budgets that the area averages over.

    Returns:
        Differences are model minus baseline, ratios model over baseline; intervals are two-sided 95 %,
        `non_inferiority_bound` is one-sided 95 % and holds for every number of problems. Below `FEW` clusters p-values
        are 1, and ratios and scores have no interval (None). Differences then have one that holds for every number, as
        where the differences have no spread, from which no error can be estimated (`d_accuracy_se` None).
    """
    assert model.problem_ids == base.problem_ids
    mine, theirs = means_of(model, limit), means_of(base, limit)
    mine_b, theirs_b = replicates
    many = count_clusters(len(base.clusters), base.clusters) >= FEW
    change = {name: mine[name] - theirs[name] for name in ("accuracy", "area")}
    intervals = {name: _interval(values, mine_b[name] - theirs_b[name], base) for name, values in change.items()}
    test = non_inferiority(change["accuracy"], margin=margin, clusters=base.clusters)
    return {
        "d_accuracy": float(change["accuracy"].mean()),
        "d_accuracy_ci": intervals["accuracy"],
        "d_accuracy_se": clustered_se(change["accuracy"], base.clusters),
        "p_value": difference_p(change["accuracy"], clusters=base.clusters),
        "token_ratio": float(model.tokens.mean() / base.tokens.mean()),
        "token_ratio_ci": interval(mine_b["tokens"] / theirs_b["tokens"]) if many else None,
        "margin": margin,
        "non_inferior": test.shown,
        "non_inferiority_bound": test.bound,
        "non_inferiority_p": test.p_value,
        **_aes(mine, theirs, replicates if many else None, weights),
        "d_budget_area": float(change["area"].mean()),
        "d_budget_area_ci": intervals["area"],
    }


def _interval(differences: Array, drawn: Array, base: Samples) -> tuple[float, float] | None:
    """Of the bootstrap, but from few clusters or without spread of what holds for every number."""
    few = count_clusters(len(differences), base.clusters) < FEW
    if few or clustered_se(differences, base.clusters) is None:
        return bounded_interval(differences, clusters=base.clusters)
    return interval(drawn)


def means_of(samples: Samples, limit: int) -> Means:
    """Per-question values, each (n,): what is averaged, and resampled, in a comparison."""
    return {
        "accuracy": accuracy(samples.correct),
        "tokens": samples.tokens.mean(axis=1),
        "area": budget_area(samples.correct, samples.tokens, limit),
    }


def _aes(mine: Means, theirs: Means, replicates: tuple[Means, Means] | None, weights: AesWeights) -> dict[str, Any]:
    """The score, its interval and its coefficients; None where the baseline is never right, or without replicates."""
    score = float(_score(_average(mine), _average(theirs), weights))
    return {
        "aes": None if math.isnan(score) else score,
        "aes_ci": interval(_score(*replicates, weights)) if replicates else None,
        "aes_coefficients": asdict(weights),
    }


def _score(mine: Means, theirs: Means, weights: AesWeights) -> Array:
    return aes(mine["tokens"], mine["accuracy"], theirs["tokens"], theirs["accuracy"], weights)


def _average(values: Means) -> Means:
    return {name: column.mean() for name, column in values.items()}


def adjust(pairs: Sequence[dict[str, Any]]) -> None:
    """Add `p_holm` to comparisons that are read as one family."""
    for pair, p_value in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
        pair["p_holm"] = p_value
