"""The thresholds of a cascade that answer best under a budget, found by looking at all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laconic.inference.policies.cascade import cascade_stage
from laconic.rewards.errors import RecipeError


@dataclass(frozen=True, slots=True)
class CascadeFit:
    """Thresholds of a cascade and what they come to on the questions they were fitted on (no guarantee for others)."""

    thresholds: tuple[float, ...]
    """One per stage but the last."""
    accuracy: float
    cost: float
    """Mean per question."""
    stages: tuple[int, ...]
    """Which stage answered each question."""


def fit_cascade(correct: ArrayLike, cumulative_cost: ArrayLike, scores: ArrayLike, *, budget: float) -> CascadeFit:
    """The thresholds of highest accuracy whose mean cost keeps a budget, by exact enumeration.

    Of equally accurate ones the cheapest is taken. For k stages and n questions there are at most ``(n + 1)**(k - 1)``
    chains that behave differently, one threshold between any two adjacent scores; all are looked at.

    Deviations: FrugalGPT's released code searches 40 quantiles per stage and polishes the best with a simplex. On its
    own inputs it returns a chain over the budget (mean cost 5.4 for a budget of 2) and misses the best one (accuracy
    0.625 at cost 6.6 where 0.75 costs 3.5). With no chain in the budget it answers -999; this raises.

    Args:
        correct: (n, k), 1 where the stage's answer is right.
        cumulative_cost: (k,) or (n, k), of answering with a stage, all stages before it included.
        scores: (n, k); the last column is not looked at.
        budget: Mean cost per question at most.

    Raises:
        RecipeError: no chain keeps the budget, or the shapes do not fit.
    """
    right, score = np.asarray(correct, dtype=float), np.asarray(scores, dtype=float)
    if right.ndim != 2 or right.shape != score.shape or not right.size:
        cure = "give both as questions x stages"
        raise RecipeError(f"fit_cascade: shapes {right.shape} and {score.shape}", cure=cure)
    cost = np.broadcast_to(np.asarray(cumulative_cost, dtype=float), right.shape)
    # A hair of slack, so that sums of decimal costs keep a budget that they equal.
    search = _Search(right, cost, score, budget * len(right) * (1.0 + 1e-12))
    search.descend(np.arange(len(right)), (), 0.0, 0.0)
    if search.best is None:
        message = f"fit_cascade: no chain keeps a mean cost of {budget:g}"
        raise RecipeError(message, cure=f"the first stage alone costs {cost[:, 0].mean():g} per question")
    thresholds = search.best[2]
    stages = tuple(cascade_stage(row, thresholds) for row in score.tolist())
    rows = np.arange(len(right))
    return CascadeFit(thresholds, float(right[rows, stages].mean()), float(cost[rows, stages].mean()), stages)


@dataclass
class _Search:
    """All chains, stage by stage: which questions go on, and what those that were accepted come to."""

    right: NDArray[Any]
    cost: NDArray[Any]
    score: NDArray[Any]
    total: float
    """Budget of all questions together."""
    best: tuple[float, float, tuple[float, ...]] | None = None
    """Right answers, minus the cost, thresholds."""

    def descend(self, rows: NDArray[Any], thresholds: tuple[float, ...], right: float, cost: float) -> None:
        """Try all thresholds of the next stage on the questions that reached it."""
        stage = len(thresholds)
        order = rows[np.argsort(-self.score[rows, stage], kind="stable")]
        values = self.score[order, stage]
        # Accepting the first `cut` of them: a cut between equal scores is none.
        cuts = np.unique([0, *(np.flatnonzero(np.diff(values)) + 1), len(order)])
        gained = right + _sums(self.right[order, stage])
        spent = cost + _sums(self.cost[order, stage])
        if stage == self.score.shape[1] - 2:
            # All that this stage does not accept, the last one does.
            gained += self.right[order, -1].sum() - _sums(self.right[order, -1])
            spent += self.cost[order, -1].sum() - _sums(self.cost[order, -1])
            self._offer(thresholds, values, cuts, gained, spent)
            return
        for cut in cuts:
            self.descend(order[cut:], (*thresholds, _between(values, cut)), float(gained[cut]), float(spent[cut]))

    def _offer(
        self,
        thresholds: tuple[float, ...],
        values: NDArray[Any],
        cuts: NDArray[Any],
        gained: NDArray[Any],
        spent: NDArray[Any],
    ) -> None:
        """Keep the best chain of those that differ in the last threshold, if it is better than the best so far."""
        kept = cuts[spent[cuts] <= self.total]
        if not len(kept):
            return
        cut = kept[np.lexsort((spent[kept], -gained[kept]))[0]]
        if self.best is None or (gained[cut], -spent[cut]) > self.best[:2]:
            self.best = (float(gained[cut]), -float(spent[cut]), (*thresholds, _between(values, int(cut))))


def _sums(values: NDArray[Any]) -> NDArray[Any]:
    """Of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _between(values: NDArray[Any], cut: int) -> float:
    """A threshold that the first `cut` of descending scores reach and the others do not."""
    if cut == 0:
        return math.inf
    if cut == len(values):
        return -math.inf
    middle = values[cut] + (values[cut - 1] - values[cut]) / 2.0
    return float(middle if middle > values[cut] else values[cut - 1])
