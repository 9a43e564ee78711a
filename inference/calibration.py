"""The artefact of a calibration: a threshold, what it guarantees, and what it was made from."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from laconic.inference.bounds import Bound, lower_bound, upper_bound
from laconic.inference.recording import Direction, Recording, digest, replay
from laconic.inference.target import Target
from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import write_atomic

FORMAT = 2
_AGAIN = "calibrate again; a calibration is not to be edited"


@dataclass(frozen=True, slots=True)
class Check:
    """A threshold on questions, those it was chosen on or others. Bounds are one-sided, at the target's confidence; for
    one of several looks at that of the look.
    """

    questions: int
    loss: float
    """Mean, as the target counts it."""
    lower: float
    upper: float
    tokens: float
    """Mean per question, probes included."""
    baseline_tokens: float
    """Mean per question of the plain policy."""
    accuracy: float
    baseline_accuracy: float
    saving_interval: tuple[float, float] | None
    """95 %, two-sided, of `saving` (delta method); for a threshold that was chosen on these very questions it says too
    much. None for a single question."""
    verdict: Literal["confirmed", "open", "contradicted"]
    """confirmed: the upper bound keeps the limit; contradicted: the lower bound exceeds it; open: too few to tell."""

    @property
    def saving(self) -> float:
        """Share of the plain policy's tokens that was saved."""
        return 1.0 - self.tokens / self.baseline_tokens


def check(
    recordings: Sequence[Recording],
    threshold: float,
    target: Target,
    *,
    direction: Direction = "above",
    bound: Bound = "hoeffding_bentkus",
) -> Check:
    """Play one threshold on recordings and hold it against a target."""
    seen = replay(recordings, [threshold], direction=direction)
    losses = target.losses(seen)[:, 0]
    scaled, _ = target.scaled(losses)
    lower, upper = (
        target.unscaled(side(scaled, confidence=target.confidence, bound=bound)) for side in (lower_bound, upper_bound)
    )
    verdict = "confirmed" if upper <= target.limit else "contradicted" if lower > target.limit else "open"
    return Check(
        questions=len(losses),
        loss=float(losses.mean()),
        lower=lower,
        upper=upper,
        tokens=float(seen.tokens.mean()),
        baseline_tokens=float(seen.full_tokens.mean()),
        accuracy=1.0 - float(seen.loss.mean()),
        baseline_accuracy=1.0 - float(seen.full_loss.mean()),
        saving_interval=_saving_interval(seen.tokens[:, 0].tolist(), seen.full_tokens.tolist()),
        verdict=verdict,
    )


def _saving_interval(tokens: Sequence[float], baseline: Sequence[float]) -> tuple[float, float] | None:
    """Of one minus a ratio of means, questions being the unit."""
    if len(tokens) < 2 or not sum(baseline):
        return None
    ratio = sum(tokens) / sum(baseline)
    spread = statistics.stdev(one - ratio * other for one, other in zip(tokens, baseline, strict=True))
    margin = 1.959964 * spread / math.sqrt(len(tokens)) / statistics.fmean(baseline)
    return 1.0 - ratio - margin, 1.0 - ratio + margin


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibrated threshold. `save` writes it, `load` verifies it."""

    policy: str
    parameter: str
    """Which of the policy's parameters the threshold is."""
    threshold: float
    direction: Direction
    target: Target
    bound: Bound
    seen: Check
    """The threshold on the questions that it was chosen on."""
    candidates: int
    """Thresholds that behave differently on them."""
    accepted: int
    """How many, from the safest on, were shown to meet the target."""
    recordings: str
    """SHA-256 of what it was chosen on."""
    model: str
    version: str
    """Of Laconic."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The policy's other parameters while it was recorded: the guarantee is for these."""
    held_out: Check | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How it was recorded: the problems and their digest, the sampling, the seed."""

    def parameters(self) -> dict[str, Any]:
        """What to build the policy with."""
        return {**self.settings, self.parameter: self.threshold}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, with a checksum."""
        content = {"format": FORMAT, **asdict(self), "threshold": _plain(self.threshold)}
        content |= {name: _written(getattr(self, name)) for name in ("seen", "held_out")}
        write_atomic(path, json.dumps({**content, "sha256": _checksum(content)}, indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        policy: str | None = None,
        model: str | None = None,
        recordings: Sequence[Recording] | None = None,
    ) -> Self:
        """Read it and verify that it is whole, and that it is about what it is wanted for.

        Args:
            path: What `save` wrote.
            policy: The policy it must be of.
            model: The model it must be of.
            recordings: The recordings it must have been chosen on.

        Raises:
            DataError: it is missing, damaged or edited, or about something else.
        """
        found = cls._read(Path(path))
        for what, wanted in (("policy", policy), ("model", model)):
            if wanted not in (None, getattr(found, what)):
                message = f"{path}: made for {what} {getattr(found, what)!r}, not {wanted!r}"
                raise DataError(message, cure="a threshold holds for what it was calibrated on; calibrate again")
        if recordings is not None and digest(recordings) != found.recordings:
            raise DataError(f"{path}: made from other recordings", cure="give those it was made from")
        return found

    @classmethod
    def _read(cls, path: Path) -> Self:
        if not path.is_file():
            raise DataError(f"{path}: no such file", cure="check the path; it is relative to the current folder")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            written = content.pop("sha256")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path}: not a calibration", cure=_AGAIN) from None
        if content.get("format") != FORMAT:
            raise DataError(f"{path}: format {content.get('format')}, this version reads {FORMAT}", cure=_AGAIN)
        if written != _checksum(content):
            raise DataError(f"{path}: it was edited after it was written", cure=_AGAIN)
        del content["format"]
        checks = {name: _read_check(content[name]) for name in ("seen", "held_out")}
        target, threshold = Target(**content["target"]), float(content["threshold"])
        return cls(**{**content, **checks, "target": target, "threshold": threshold})


def _written(one: Check | None) -> dict[str, Any] | None:
    """With the saving, for whoever reads the file."""
    if one is None:
        return None
    interval = one.saving_interval and list(one.saving_interval)
    return {**asdict(one), "saving_interval": interval, "saving": one.saving}


def _read_check(written: Mapping[str, Any] | None) -> Check | None:
    if written is None:
        return None
    known = {key: value for key, value in written.items() if key != "saving"}
    return Check(**{**known, "saving_interval": known["saving_interval"] and tuple(known["saving_interval"])})


def _plain(threshold: float) -> float | str:
    return threshold if math.isfinite(threshold) else str(threshold)  # JSON has no infinity


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
