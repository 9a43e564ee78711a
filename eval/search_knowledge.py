"""Whether a model searches where it does not know: its searches against what it answers with the book closed.

Every question has a closed-book accuracy, the share of closed-book samples that were right. MASH takes that of the base
model, with 10 samples; here it is the measured model's own, with as many samples as the stage draws.

- ``curve``: episodes that search, by closed-book accuracy; ``intercept`` is that share where the closed book is always
  wrong, ``slope`` how much lower it is where it is always right (MASH);
- with a question counted as known from a closed-book accuracy of one half on (ours): ``search_precision`` and
  ``search_recall`` of searching where it is not known, MASH's abstention; ``f1_aware`` of not searching where it is
  known (AdaSearch).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from laconic.eval.samples import Array
from laconic.eval.search_metrics import Episodes, Measured, Ratio, span

KNOWN = 0.5
"""Closed-book accuracy from which on a question counts as known."""
_BUCKET, _RIGHT = "bucket ", "right "


def knowledge_ratios(episodes: Episodes, closed_book: Array) -> dict[str, Ratio]:
    """Everything but the slope.

    Args:
        episodes: Of the model.
        closed_book: (n, K) whether closed-book samples on the same problems were right.
    """
    m, right = episodes.columns["searches"], episodes.columns["right"]
    searched, ones = (m > 0).astype(float), np.ones_like(m)
    accuracy = closed_book.mean(axis=1, keepdims=True)
    known = (accuracy >= KNOWN) * ones
    found: dict[str, Ratio] = {
        "closed_book_accuracy": (accuracy * ones, ones),
        "search_precision": (searched * (1 - known), searched),
        "search_recall": (searched * (1 - known), 1 - known),
        "f1_aware": (2 * (1 - searched) * known, (1 - searched) + known),
    }
    for level in range(closed_book.shape[1] + 1):
        inside = (np.rint(accuracy * closed_book.shape[1]) == level) * ones
        found[f"{_BUCKET}{level}"] = (searched * inside, inside)
        found[f"{_RIGHT}{level}"] = (right * inside, inside)
    return found


def knowledge(measured: Measured, closed_book: Array) -> dict[str, Any]:
    """The numbers as a results file has them.

    Args:
        measured: Of `knowledge_ratios`.
        closed_book: As there.
    """
    samples = closed_book.shape[1]
    counts = np.bincount(closed_book.sum(axis=1).astype(int), minlength=samples + 1)
    values, intervals = measured.values, measured.intervals
    curve = [
        {
            "closed_book": level / samples,
            "problems": int(counts[level]),
            "searched": values[f"{_BUCKET}{level}"],
            "searched_ci": intervals[f"{_BUCKET}{level}"],
            "accuracy": values[f"{_RIGHT}{level}"],
            "accuracy_ci": intervals[f"{_RIGHT}{level}"],
        }
        for level in range(samples + 1)
    ]
    single = {name: found for name, found in measured.flat().items() if not name.startswith((_BUCKET, _RIGHT))}
    low, high = f"{_BUCKET}0", f"{_BUCKET}{samples}"
    both = values[low] is not None and values[high] is not None
    return single | {
        "closed_book_samples": samples,
        "curve": curve,
        "intercept": values[low],
        "intercept_ci": intervals[low],
        "slope": values[low] - values[high] if both else None,
        "slope_ci": _span(measured, low, high) if both else None,
    }


def _span(measured: Measured, low: str, high: str) -> tuple[float, float] | None:
    return span(measured.replicates[low] - measured.replicates[high], clusters=measured.clusters)
