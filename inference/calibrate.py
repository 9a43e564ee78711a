"""Choose the threshold of a stopping policy so that it keeps a target, with a guarantee that holds for finite samples.

The unstopped policy is run once per question and recorded (`laconic.inference.recording`); then::

    target = parse_target("accuracy drop <= 1 point at 95 %")
    chosen = calibrate(recordings, target, policy="confidence_probe", parameter="threshold")
    chosen.save("calibration.json")

Candidates are all thresholds that behave differently on the recordings. They are tested from the safest on, each at the
full level, up to the first that fails (fixed-sequence testing); of those before it the cheapest is returned. This
controls the chance that any accepted threshold breaks the limit, whether or not the risk is monotone: to accept a bad
one, the first bad one must have been accepted. It also allows for candidates taken from the data: losses change only
where a signal lies, so one candidate between two of them stands for every number there, and all real thresholds are
tested in an order that was fixed before.

The guarantee is for new questions from where the recorded ones came from, and for the policy as it was recorded.

It is for a number of questions that was fixed before. Whoever calibrates, records more because it was refused, and
calibrates again takes several looks, and each is a chance to be lucky: at the full level, six looks at doubling numbers
of questions break a 95 % guarantee in 14 % of calibrations. So the k-th look is taken at `look_level`, and the chance
that any of them breaks the limit stays below 1 - confidence, however many there are (`laconic.inference.looks` counts
them).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from laconic.inference.bounds import Array, Bound, find_bound, questions_needed
from laconic.inference.calibration import Calibration, Check, check
from laconic.inference.recording import Direction, Recording, Replay, digest, replay
from laconic.inference.target import Target
from laconic.rewards.errors import DataError


class Unreachable(DataError):
    """No threshold is shown to keep the target; `questions` would be needed, as far as one can tell."""

    questions: int | None = None
    """To calibrate on, in the next look; None where more of the same would not show it."""


# Thresholds played at once: few enough for memory, and most calibrations stop within the first.
_BLOCK = 512
_NO_CHECKPOINTS = "probe at other places, or so that an answer can be read; for this the policy's rule must be off"


def candidates(recordings: Sequence[Recording], *, direction: Direction = "above") -> Array:
    """Every threshold that changes behaviour, the safest (which never stops) first, the one that always stops last.

    Between two adjacent signals all thresholds behave alike; their midpoint stands for them. Signals that no earlier
    one of their run stays below decide nothing and are left out.
    """
    sign = 1.0 if direction == "above" else -1.0
    runs = [np.array([sign * point.signal for point in item.checkpoints]) for item in recordings]
    records = np.unique(np.concatenate([np.maximum.accumulate(run) for run in runs] or [np.empty(0)]))[::-1]
    if not len(records):
        return np.array([sign * math.inf])
    upper, lower = records[:-1], records[1:]
    middle = lower + (upper - lower) / 2.0
    # Neighbouring floating-point numbers have nothing between them; the upper one stops just itself and what is above.
    middle = np.where(middle > lower, middle, upper)
    return sign * np.concatenate([[math.inf], middle, [-math.inf]])


def fixed_sequence(p_values: ArrayLike, *, level: float) -> int:
    """How many hypotheses, from the first on, are rejected before the first that is not.

    >>> fixed_sequence([0.01, 0.05, 0.2, 0.001], level=0.05)
    2
    """
    kept = np.asarray(p_values) > level
    return int(kept.argmax()) if kept.any() else len(kept)


def cheapest_within(risks: ArrayLike, costs: ArrayLike, *, limit: float) -> int | None:
    """The place of the cheapest of all whose risk is at most the limit, the first of equals; None if there is none.

    The selection of released code. Over several candidates it guarantees nothing, since the luckiest of them is
    picked; `calibrate` does not use it.
    """
    costs = np.where(np.asarray(risks) <= limit, np.asarray(costs, dtype=float), math.inf)
    return int(costs.argmin()) if np.isfinite(costs).any() else None


def calibrate(
    recordings: Sequence[Recording],
    target: Target,
    *,
    policy: str,
    parameter: str,
    direction: Direction = "above",
    bound: Bound = "hoeffding_bentkus",
    model: str = "",
    settings: Mapping[str, Any] | None = None,
    held_out: Sequence[Recording] | None = None,
    look: int | None = None,
) -> Calibration:
    """The cheapest threshold that is shown to keep the target.

    Args:
        recordings: Of the unstopped policy; n is the number of different questions.
        target: The limit and the confidence.
        policy: Name of the policy, for the artefact.
        parameter: Which of its parameters the threshold is.
        direction: Which side of the threshold stops.
        bound: The test. clopper_pearson: losses of 0 and 1 alone; betting: for signed targets.
        model: Name of the model, for the artefact.
        settings: The policy's other parameters, for the artefact.
        held_out: Recordings of other questions, on which the choice is checked afterwards.
        look: Which look at these questions this is, from 1 on, if there may be several: tests and bounds are then at
            `look_level`. None: the only one, at the full level.

    Raises:
        Unreachable: no threshold that stops anything meets the target; the cure says how many questions would be
            needed.
        DataError: the recordings have no checkpoints, no threshold that meets the target is cheaper than the plain
            policy, or a question is on both sides.
    """
    tried = candidates(recordings, direction=direction)
    strict = at_look(target, look)
    accepted, tokens = _walk(recordings, tried, strict, direction, bound)
    if accepted < 2:
        raise _unreachable(recordings, tried[:2], target, direction, bound, accepted, look)
    threshold = float(tried[int(np.argmin(tokens))])
    seen = check(recordings, threshold, strict, direction=direction, bound=bound)
    if seen.tokens >= seen.baseline_tokens:
        message = f"the cheapest threshold that meets the target generates {seen.tokens:.1f} tokens per question, "
        message += f"the plain policy {seen.baseline_tokens:.1f}: probes cost more than stopping saves"
        raise DataError(message, cure="probe less often, loosen the target, or use no policy")
    return Calibration(
        policy,
        parameter,
        threshold,
        direction,
        target,
        bound,
        seen,
        candidates=len(tried),
        accepted=accepted,
        recordings=digest(recordings),
        model=model,
        version=metadata.version("laconic"),
        settings=dict(settings or {}),
        held_out=_checked(recordings, held_out, threshold, strict, direction, bound),
    )


def look_level(confidence: float, look: int) -> float:
    """The level of the k-th look: ``(1 - confidence) / (k (k + 1))``, which sums to 1 - confidence over all k.

    Ours; any series with that sum would do. This one halves the level of the first look.

    >>> [round(look_level(0.95, look), 5) for look in (1, 2, 3)]
    [0.025, 0.00833, 0.00417]
    """
    return (1.0 - confidence) / (look * (look + 1))


def at_look(target: Target, look: int | None) -> Target:
    """The target at the confidence that the k-th look has to reach; itself for an only look."""
    return target if look is None else replace(target, confidence=1.0 - look_level(target.confidence, look))


def what_if(
    recordings: Sequence[Recording], thresholds: ArrayLike | None = None, *, direction: Direction = "above"
) -> list[dict[str, float]]:
    """What thresholds would have done, by default all candidates: one row each, means over questions.

    Rows have ``threshold, loss, harm, drop, tokens, saving, stopped``; nothing in them is a guarantee.
    """
    tried = candidates(recordings, direction=direction) if thresholds is None else np.atleast_1d(thresholds)
    return [row for seen in _blocks(recordings, tried, direction) for row in _rows(seen)]


def split(recordings: Sequence[Recording], *, share: float, seed: int = 0) -> tuple[list[Recording], list[Recording]]:
    """Part the questions: those to calibrate on, and about `share` of them held out.

    Which side a question is on depends on itself alone: it stays there when others are added, and its runs and
    whatever else counts as the same question are on one side.
    """

    def is_apart(item: Recording) -> bool:
        place = hashlib.sha256(f"{seed}:{item.question}".encode()).digest()
        return int.from_bytes(place[:8], "big") < share * 2**64

    return [item for item in recordings if not is_apart(item)], [item for item in recordings if is_apart(item)]


def _walk(
    recordings: Sequence[Recording], tried: Array, target: Target, direction: Direction, bound: Bound
) -> tuple[int, list[float]]:
    """How many candidates are accepted, and their mean tokens."""
    test, tokens = find_bound(bound), []
    for seen in _blocks(recordings, tried, direction):
        passed = fixed_sequence(test(*target.scaled(target.losses(seen))), level=1.0 - target.confidence)
        tokens += seen.tokens.mean(axis=0)[:passed].tolist()
        if passed < len(seen.thresholds):
            break
    return len(tokens), tokens


def _blocks(recordings: Sequence[Recording], tried: Array, direction: Direction) -> Iterator[Replay]:
    return (
        replay(recordings, tried[start : start + _BLOCK], direction=direction) for start in range(0, len(tried), _BLOCK)
    )


def _rows(seen: Replay) -> Iterator[dict[str, float]]:
    columns = {name: getattr(seen, name).mean(axis=0) for name in ("loss", "harm", "drop", "tokens", "stopped")}
    columns |= {"threshold": seen.thresholds, "saving": seen.saving}
    for place in range(len(seen.thresholds)):
        yield {name: float(values[place]) for name, values in columns.items()}


def _unreachable(
    recordings: Sequence[Recording],
    safest: Array,
    target: Target,
    direction: Direction,
    bound: Bound,
    accepted: int,
    look: int | None,
) -> DataError:
    """The refusal: what failed, and how many questions would have been needed."""
    if len(safest) < 2:
        return DataError("the recordings have no checkpoints", cure=_NO_CHECKPOINTS)
    seen = replay(recordings, safest, direction=direction)
    losses, limit = target.scaled(target.losses(seen))
    # Both the run that never stops and the first stop must pass; whoever records more for it looks once more.
    confidence = at_look(target, None if look is None else look + 1).confidence
    needs = [questions_needed(c, limit, confidence=confidence, bound=bound) for c in losses.T[accepted:]]
    message = f"no threshold is shown to keep {str(target)!r} with {len(losses)} questions: "
    message += f"the safest that stops anything has a mean loss of {target.losses(seen)[:, 1].mean():.4f}"
    if None in needs:
        cure = "more questions like these would not show it: loosen the target, or use another signal"
        return Unreachable(message, cure=cure)
    needed = max(needs)  # type: ignore[type-var]
    refusal = Unreachable(message, cure=f"record about {needed} questions if losses stay as they are")
    refusal.questions = needed
    return refusal


def _checked(
    recordings: Sequence[Recording],
    held_out: Sequence[Recording] | None,
    threshold: float,
    target: Target,
    direction: Direction,
    bound: Bound,
) -> Check | None:
    if not held_out:
        return None
    ids, questions = {item.id for item in recordings}, {item.question for item in recordings}
    shared = [item.id for item in held_out if item.id in ids or item.question in questions]
    if shared:
        raise DataError(f"question {min(shared)!r} is held out and calibrated on", cure="part them with `split`")
    return check(held_out, threshold, target, direction=direction, bound=bound)
