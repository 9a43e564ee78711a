"""What a calibration has to guarantee."""

from __future__ import annotations

import re
from dataclasses import dataclass

from laconic.inference.bounds import Array
from laconic.inference.recording import Replay
from laconic.rewards.errors import RecipeError

_WRITTEN = re.compile(
    r"(?P<net>net )?(?P<what>accuracy drop|drop|error)\s*(?:<=|≤|at most)\s*(?P<limit>\d+(?:\.\d+)?)\s*"
    r"(?P<unit>percentage points?|points?|pp|%)?\s*(?:at|with)\s*(?P<confidence>\d+(?:\.\d+)?)\s*%(?: confidence)?"
)
_CURE = 'write it as "accuracy drop <= 1 point at 95 %", "net accuracy drop <= ..." or "error <= 20 % at 90 %"'


@dataclass(frozen=True, slots=True)
class Target:
    """A limit on a mean loss over questions, and how sure it must be. Exactly one of the two limits is given.

    Raises:
        RecipeError: a number is out of range, or not exactly one limit is given.
    """

    max_drop: float | None = None
    """Accuracy that may be lost against the full run, 0.01 is one point.

    Counted are the questions that stopping made wrong, gains elsewhere not set against them (harm, the paired
    difference clipped at 0). Its mean is at least the drop of accuracy, so the guarantee holds for that too."""
    max_error: float | None = None
    """Error rate at the exit, whatever the full run's is."""
    confidence: float = 0.95
    """Over calibrations: in at least this share of them, the returned threshold keeps the limit on new questions."""
    signed: bool = False
    """Net drop: gains are set against losses. It guarantees the drop of mean accuracy, and no more: many questions may
    be made wrong if as many are made right. The difference ranges over [-1, 1]; bound=betting is made for that."""

    def __post_init__(self) -> None:
        if (self.max_drop is None) == (self.max_error is None):
            raise RecipeError("a target has either max_drop or max_error", cure="give one of the two")
        if not 0.0 < self.limit < 1.0 or not 0.0 < self.confidence < 1.0:
            raise RecipeError(
                f"target: limit {self.limit:g}, confidence {self.confidence:g}", cure="both are in (0, 1)"
            )
        if self.signed and self.max_drop is None:
            raise RecipeError("target: an error rate has no sign", cure="leave signed out, or give max_drop")

    @property
    def limit(self) -> float:
        """The limit that was given."""
        limit = self.max_error if self.max_drop is None else self.max_drop
        assert limit is not None
        return limit

    def losses(self, seen: Replay) -> Array:
        """(n, m): the losses whose mean is limited."""
        if self.max_error is not None:
            return seen.loss
        return seen.drop if self.signed else seen.harm

    def scaled(self, losses: Array) -> tuple[Array, float]:
        """Losses and limit as the bounds need them, in [0, 1]."""
        return ((losses + 1.0) / 2.0, (self.limit + 1.0) / 2.0) if self.signed else (losses, self.limit)

    def unscaled(self, value: float) -> float:
        """A bound's number on the scale of the limit."""
        return 2.0 * value - 1.0 if self.signed else value

    def __str__(self) -> str:
        """As `parse_target` reads it."""
        at = f"at {100 * self.confidence:g} %"
        if self.max_error is not None:
            return f"error <= {100 * self.max_error:g} % {at}"
        points = "point" if self.limit == 0.01 else "points"
        return f"{'net ' * self.signed}accuracy drop <= {100 * self.limit:g} {points} {at}"


def parse_target(text: str) -> Target:
    """Read a target as people write it.

    Raises:
        RecipeError: it cannot be read, or could mean two things.

    >>> parse_target("accuracy drop <= 1 point at 95 %")
    Target(max_drop=0.01, max_error=None, confidence=0.95, signed=False)
    >>> parse_target("error <= 20 % at 90 %").max_error
    0.2
    """
    found = _WRITTEN.fullmatch(" ".join(text.lower().split()))
    if found is None or found["unit"] is None or (found["net"] and found["what"] == "error"):
        raise RecipeError(f"cannot read the target {text!r}", cure=_CURE)
    limit, confidence = (_hundredth(found[name]) for name in ("limit", "confidence"))
    if found["what"] == "error":
        return Target(max_error=limit, confidence=confidence)
    if found["unit"] == "%":
        cure = f'write "{found["limit"]} points": percent could be of all questions or of the accuracy'
        raise RecipeError(f"the target {text!r} could mean two things", cure=cure)
    return Target(max_drop=limit, confidence=confidence, signed=found["net"] is not None)


def _hundredth(number: str) -> float:
    return float(f"{number}e-2")  # as written: 0.01 * 7 is not 0.07
