"""Finite-sample bounds on a mean loss: from what was seen on n independent questions to what holds in general.

Each test gives p-values of "the true mean loss is above the limit" and is valid for every n, however small.

Deviations: n is the number of *questions*. The released code of Conformal Thinking (reasoning_risk_control) hands in
losses that were averaged over questions before, so that its n is the number of thresholds: for 20 questions and 5,000
thresholds it adds 0.015 to the risk where 0.24 is due.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laconic.rewards.errors import DataError, RecipeError

Array: TypeAlias = NDArray[np.generic]
Bound: TypeAlias = Literal["hoeffding_bentkus", "clopper_pearson", "betting"]

# Shares of the largest bet that cannot lose everything; small ones serve losses that vary much.
_BETS = np.geomspace(0.01, 0.99, 24)
_MOST_QUESTIONS = 200_000
_ROUNDING = 1e-9
"""Sums of losses such as 1/3 miss whole numbers by less."""


class PValues(Protocol):
    """A test of "the true mean loss is above the limit"."""

    def __call__(self, losses: Array, limit: float, *, n: int | None = None) -> Array:
        """One p-value per column; small ones speak for a mean of at most the limit.

        Args:
            losses: (questions, m), in [0, 1].
            limit: In (0, 1).
            n: Pretend that as many questions gave losses like these; for planning only.
        """
        ...


def clopper_pearson(losses: Array, limit: float, *, n: int | None = None) -> Array:
    """Exact for losses of 0 and 1: ``P(Binomial(n, limit) <= number of losses)``.

    Raises:
        DataError: some loss is neither.
    """
    if not np.isin(losses, (0.0, 1.0)).all():
        cure = "use bound=hoeffding_bentkus or betting"
        raise DataError("clopper_pearson is for losses of 0 and 1 alone, one run per question", cure=cure)
    n = n or len(losses)
    return binomial_cdf(n, limit)[_events(losses, n)]


def hoeffding_bentkus(losses: Array, limit: float, *, n: int | None = None) -> Array:
    """For any losses in [0, 1] (Bates et al. 2021, arXiv:2101.02703; the default of Learn then Test, arXiv:2110.01052).

    ``min(exp(-n KL(min(mean, limit) || limit)), e P(Binomial(n, limit) <= ceil(n mean)))``.
    """
    n = n or len(losses)
    mean = np.minimum(losses.mean(axis=0), limit)
    bentkus = np.e * binomial_cdf(n, limit)[_events(losses, n)]
    return np.minimum(1.0, np.minimum(np.exp(-n * _divergence(mean, limit)), bentkus))


def betting(losses: Array, limit: float, *, n: int | None = None) -> Array:
    """For any losses in [0, 1]; by far the strongest where they vary little, as paired differences do.

    Betting on "below the limit" (Waudby-Smith and Ramdas, arXiv:2010.09686): if the mean is above it, no bet gains on
    average, so the capital ``prod(1 + bet (limit - loss))`` exceeds x with probability 1/x at most; p = 1 / capital.

    Deviations: the paper adapts its bet from question to question; here the capital is the average over a fixed grid
    of bets, so that the order of the questions does not matter. The grid is ours.
    """
    scale = (n or len(losses)) / len(losses)
    capital = [scale * np.log1p(bet / (1.0 - limit) * (limit - losses)).sum(axis=0) for bet in _BETS]
    return np.exp(-np.maximum(0.0, np.logaddexp.reduce(capital) - math.log(len(_BETS))))


P_VALUES: dict[str, PValues] = {
    "hoeffding_bentkus": hoeffding_bentkus,
    "clopper_pearson": clopper_pearson,
    "betting": betting,
}


def find_bound(name: str) -> PValues:
    """Look a test up.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in P_VALUES:
        raise RecipeError(f"unknown bound {name!r}", cure=f"the bounds are {', '.join(P_VALUES)}")
    return P_VALUES[name]


def upper_bound(losses: ArrayLike, *, confidence: float = 0.95, bound: Bound = "hoeffding_bentkus") -> float:
    """What the true mean does not exceed, with this confidence: the smallest limit that the test accepts.

    Args:
        losses: (questions,), in [0, 1].
        confidence: Of one such statement.
        bound: Which test.
    """
    column = np.asarray(losses, dtype=float)[:, None]
    test = find_bound(bound)
    if confidence <= 0.0 or column.mean() >= 1.0:
        return 1.0
    return _smallest(lambda limit: test(column, limit)[0] <= 1.0 - confidence, low=float(column.mean()), high=1.0)


def lower_bound(losses: ArrayLike, *, confidence: float = 0.95, bound: Bound = "hoeffding_bentkus") -> float:
    """What the true mean does not fall below, with this confidence."""
    return 1.0 - upper_bound(1.0 - np.asarray(losses, dtype=float), confidence=confidence, bound=bound)


def questions_needed(
    losses: ArrayLike, limit: float, *, confidence: float = 0.95, bound: Bound = "hoeffding_bentkus"
) -> int | None:
    """About how many questions with losses like these would show a mean of at most the limit; None if none would.

    Exact for losses that are all zero.

    Args:
        losses: (questions,), in [0, 1].
        limit: In (0, 1).
        confidence: Of the statement.
        bound: Which test.
    """
    column = np.asarray(losses, dtype=float)[:, None]
    if column.mean() >= limit:
        return None
    test = find_bound(bound)

    def shown(n: int) -> bool:
        return bool(test(column, limit, n=n)[0] <= 1.0 - confidence)

    high = 1
    while not shown(high):
        if high >= _MOST_QUESTIONS:
            return None
        high *= 2
    low = high // 2  # not enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def binomial_cdf(n: int, p: float) -> Array:
    """P(Binomial(n, p) <= k) for k = 0..n, shape (n + 1,).

    >>> binomial_cdf(2, 0.5).round(6).tolist()
    [0.25, 0.75, 1.0]
    """
    k = np.arange(n + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_pmf = factorials[n] - factorials - factorials[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    return np.minimum(1.0, np.cumsum(np.exp(log_pmf)))


def hoeffding_margin(n: int, *, delta: float = 0.1) -> float:
    """What Hoeffding's inequality adds to a mean over n questions: ``sqrt(ln(1 / delta) / (2 n))``."""
    return math.sqrt(math.log(1.0 / delta) / (2.0 * n))


def adjusted_risk(
    means: ArrayLike, n: int, *, method: Literal["naive", "crc", "ucb"] = "ucb", delta: float = 0.1
) -> Array:
    """The corrections of Conformal Thinking's released code, for comparison: calibration does not use them.

    naive: the mean; crc (conformal risk control, arXiv:2208.02814): ``(n mean + 1) / (n + 1)``, which bounds the
    expected loss but says nothing about one calibration; ucb: `hoeffding_margin` added, valid for one threshold that
    was fixed in advance.

    Args:
        means: (m,) mean losses over questions.
        n: Number of questions. Deviations: the released code takes the number of thresholds.
        method: Which correction.
        delta: 1 - confidence, of ucb.
    """
    seen = np.asarray(means, dtype=float)
    if method == "crc":
        return (n * seen + 1.0) / (n + 1.0)
    return seen + (hoeffding_margin(n, delta=delta) if method == "ucb" else 0.0)


def _events(losses: Array, n: int) -> Array:
    return np.ceil(losses.mean(axis=0) * n - _ROUNDING * n).clip(0, n).astype(int)


def _divergence(mean: Array, limit: float) -> Array:
    """Kullback-Leibler divergence of two coins."""
    with np.errstate(divide="ignore", invalid="ignore"):
        heads = np.where(mean > 0.0, mean * np.log(mean / limit), 0.0)
        tails = np.where(mean < 1.0, (1.0 - mean) * np.log((1.0 - mean) / (1.0 - limit)), 0.0)
    return heads + tails


def _smallest(holds: Callable[[float], bool], *, low: float, high: float) -> float:
    """Where a condition begins to hold between two numbers, from the side on which it holds."""
    while high - low > 1e-9:
        middle = (low + high) / 2.0
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
