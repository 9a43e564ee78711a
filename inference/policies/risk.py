"""Risk-controlled stopping: any signal, an upper threshold to stop at, a rising lower one to give up at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from laconic.inference.engine import check_capabilities
from laconic.inference.policies.base import Answer, Ask, find, policy
from laconic.inference.policies.probing import NEEDS, Probing, Verdict, stop_early
from laconic.rewards.errors import RecipeError

SIGNALS = ("confidence_probe", "adaptive_think_entropy", "answer_consistency", "es_cot", "certaindex")
"""The policies whose signal can be thresholded."""


def exit_times(signal: Sequence[float], thresholds: Sequence[float], *, rising: bool = True) -> list[int]:
    """For each threshold, the first place where the signal is at or above it; the last place if it never is.

    Args:
        signal: One value per checkpoint.
        thresholds: In any order.
        rising: False: at or below it.

    >>> exit_times([0.2, 0.5, 0.4, 0.9, 0.7], [0.1, 0.5, 0.6, 0.95]), exit_times([0.2, 0.5], [0.1], rising=False)
    ([0, 1, 3, 4], [1])
    """
    last = max(len(signal) - 1, 0)
    met = (lambda value, bar: value >= bar) if rising else (lambda value, bar: value <= bar)
    return [next((place for place, value in enumerate(signal) if met(value, bar)), last) for bar in thresholds]


def exit_below(signal: Sequence[float], curve: Sequence[float]) -> int:
    """The first place where the signal is at or below a curve; the last place if it never is."""
    pairs = zip(signal, curve, strict=True)
    return next((place for place, (value, bar) in enumerate(pairs) if value <= bar), max(len(signal) - 1, 0))


def ema(values: Sequence[float], alpha: float = 0.95) -> list[float]:
    """Causal exponential mean: y[t] = alpha x[t] + (1 - alpha) y[t - 1], from y[0] = x[0].

    >>> [round(value, 4) for value in ema([0.2, 0.5, 0.4], 0.2)]
    [0.2, 0.26, 0.288]
    """
    smooth: list[float] = []
    for value in values:
        smooth.append(alpha * value + (1 - alpha) * smooth[-1] if smooth else value)
    return smooth


def lower_threshold(
    tokens: float, *, slope: float = 0.1, shift: float = 0.0, upper: float = 1.0, lower: float = 0.0
) -> float:
    """The rising bar under which one gives up: lower + (upper - lower) / (1 + exp(-slope (tokens - shift))).

    Args:
        tokens: Of the trace so far.
        slope: Per token.
        shift: Tokens at which it is half way up.
        upper: Where it ends.
        lower: Where it begins.

    >>> lower_threshold(100, shift=100, upper=0.8), round(lower_threshold(0, shift=100, upper=0.8), 6)
    (0.4, 3.6e-05)
    """
    x = slope * (tokens - shift)
    # Both forms are the same number; each overflows where the other does not.
    rise = 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
    return rise * (upper - lower) + lower


def lower_threshold_curve(tokens: Sequence[float], **shape: float) -> list[float]:
    """`lower_threshold` at several places."""
    return [lower_threshold(count, **shape) for count in tokens]


@policy(paper="Conformal Thinking (ICML 2026)", requires=NEEDS)
@dataclass(frozen=True, kw_only=True)
class RiskControlledStop:
    """Stop when a smoothed signal reaches an upper threshold, or give up when it is under a rising lower one.

    The signal is another probing policy's; its parameters also say when and how to probe. Giving up closes the
    thinking early on a question that will not be solved; the model still writes an answer unless the policy `abstains`.
    A checkpoint without a signal repeats the last one, and none before the first does anything.

    Source: Conformal Thinking (code: xidulu/reasoning_risk_control): exponential mean with 0.95, lower bar with slope
    0.1, shift 0, from 0 to 1. Thresholds are to be calibrated, so `threshold` has no default that does anything: as
    long as none is given, it never stops. The lower bar is off unless `slope` is given.

    Deviations: the released calibration corrects for the number of thresholds instead of the number of questions; its
    thresholds are not to be used. Where both bars are met, stopping wins (ours).

    Args:
        threshold: Signal at which thinking stops.
        signal: The policy whose signal it is: one of `SIGNALS`.
        parameters: Of that policy; its own threshold is not looked at.
        alpha: Weight of the newest signal in the exponential mean; 1 for no smoothing.
        slope: Of the lower bar, per token; None: never give up.
        shift: Tokens at which the lower bar is half way up.
        upper: Where the lower bar ends.
        lower: Where it begins.
        abstains: Give no answer after giving up.
    """

    threshold: float = math.inf
    signal: str = "confidence_probe"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    alpha: float = 0.95
    slope: float | None = None
    shift: float = 0.0
    upper: float = 1.0
    lower: float = 0.0
    abstains: bool = False

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            cure = f"use one of {', '.join(SIGNALS)}"
            raise RecipeError(f"risk_controlled_stop: signal={self.signal!r}", cure=cure)
        if not 0 < self.alpha <= 1:
            raise RecipeError(f"risk_controlled_stop: alpha={self.alpha}", cure="give a weight above 0, at most 1")
        if self.slope is not None and (self.slope <= 0 or self.lower > self.upper):
            raise RecipeError(
                f"risk_controlled_stop: slope={self.slope}, lower={self.lower}, upper={self.upper}",
                cure="a lower bar rises: give a slope above 0, and an upper end that is not below the lower",
            )
        self.probing()

    def probing(self) -> Probing:
        """The policy that gives the signal.

        Raises:
            RecipeError: its parameters are wrong.
        """
        chosen = find(self.signal).build({**self.parameters, "threshold": math.inf})
        assert isinstance(chosen, Probing)
        return chosen

    def smoothed(self, signals: Sequence[float | None]) -> list[float | None]:
        """What is compared with the threshold at every checkpoint; None before the first signal."""
        known = [value for value in _repeated(signals) if value is not None]
        return [None] * (len(signals) - len(known)) + ema(known, self.alpha)

    def verdict(self, signals: Sequence[float | None], places: Sequence[int]) -> Verdict:
        """The rule, from all signals so far and the tokens before each."""
        smooth = self.smoothed(signals)[-1]
        if smooth is None:
            return "go on"
        if smooth >= self.threshold:
            return "stop"
        if self.slope is None:
            return "go on"
        bar = lower_threshold(places[-1], slope=self.slope, shift=self.shift, upper=self.upper, lower=self.lower)
        return "give up" if smooth <= bar else "go on"

    async def run(self, ask: Ask) -> Answer:
        """Think, probing as one goes, until one of the bars is met."""
        check_capabilities(ask.engine, find(self.signal).requires, who=f"risk_controlled_stop on {self.signal}")
        return await stop_early(ask, self.probing(), self.verdict, abstains=self.abstains)


def _repeated(signals: Sequence[float | None]) -> list[float | None]:
    """Every missing signal replaced by the last one before it."""
    return list(accumulate(signals, lambda last, value: last if value is None else value))
