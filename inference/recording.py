"""Recordings of unstopped runs: what every threshold would have done, without decoding again.

A stopping policy is run once with its rule switched off. At every place where it could have stopped, the signal it
looks at, the answer it would have given and the tokens it would have cost are written down, one line per run. `replay`
then plays any threshold on them::

    recordings = read_recordings("recordings.jsonl")
    replay(recordings, [0.9, 0.95]).tokens.mean(axis=0)
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import dumps, numbered_rows, write_jsonl

Array: TypeAlias = NDArray[np.generic]
Direction: TypeAlias = Literal["above", "below"]
"""Stop as soon as the signal is at least (a confidence) or at most (an entropy) the threshold."""
ABOUT = "about"
"""Key of a file's first line, if it says what was recorded; see `laconic.inference.about`."""
INTENDED = "intended"
"""Key of lines that say which runs were to be recorded."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place where the run could have stopped."""

    signal: float
    """What the rule compares with its threshold."""
    loss: float
    """Of the answer it would have given here: 0 is right, 1 is wrong."""
    tokens: int
    """Everything it would have generated: the thinking so far, all probes so far (this one too), the answer."""
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """One unstopped run of one question.

    Raises:
        DataError: a loss is not in [0, 1], a signal is not finite, or a count is negative.
    """

    id: str
    """The question's name. The unit of every bound is not it but `question`."""
    loss: float
    """Of the full run."""
    tokens: int
    """Of the full run without a probe: what the plain policy would have generated."""
    probes: int
    """Tokens of all probes: a threshold that is never crossed costs ``tokens + probes``."""
    checkpoints: tuple[Checkpoint, ...] = ()
    sample: int = 0
    """Which run of the question this is."""
    answer: str | None = None
    problem: str = ""
    """Digest of the question and its gold answer, where whoever recorded it gave one."""
    cluster: str = ""
    """Questions that are not independent of each other (one template, one passage) share it."""

    def __post_init__(self) -> None:
        if not all(0.0 <= item.loss <= 1.0 for item in (self, *self.checkpoints)):
            raise DataError(f"recording {self.id!r}: a loss outside 0 to 1", cure="give 1 - correct, or scale it")
        if not all(math.isfinite(item.signal) for item in self.checkpoints):
            raise DataError(f"recording {self.id!r}: a signal that is not a number", cure="leave that checkpoint out")
        if min(self.probes, *(item.tokens for item in (self, *self.checkpoints))) < 0:
            raise DataError(f"recording {self.id!r}: a negative count of tokens", cure="record the run again")

    @property
    def question(self) -> str:
        """What is one observation: the cluster if there is one, else the question by its digest, else the id.

        Several runs of one are averaged, under however many ids they stand.
        """
        return next(f"{name} {value}" for name in ("cluster", "problem", "id") if (value := getattr(self, name)))

    def smoothed(self, alpha: float) -> Recording:
        """The same run with the exponential mean of the signal, for `risk_controlled_stop` with this `alpha`.

        Exact where every checkpoint had a signal; a recording of the policy itself always is.
        """
        # Policies import this module.
        from laconic.inference.policies.risk import ema

        signals = ema([item.signal for item in self.checkpoints], alpha)
        points = (replace(item, signal=signal) for item, signal in zip(self.checkpoints, signals, strict=True))
        return replace(self, checkpoints=tuple(points))

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Build it from one parsed line; missing and unknown keys are a TypeError."""
        return cls(**{**row, "checkpoints": tuple(Checkpoint(**item) for item in row.get("checkpoints", ()))})

    def to_json(self) -> dict[str, Any]:
        """The recording as a JSON object."""
        row = asdict(self)
        return row if self.cluster else {key: value for key, value in row.items() if key != "cluster"}


def read_recordings(path: str | os.PathLike[str]) -> list[Recording]:
    """Read a JSON Lines file; lines that say what was recorded, or was to be, are passed over.

    Raises:
        DataError: a line is not a recording, or a run is there twice.
    """
    found: list[Recording] = []
    for number, row in numbered_rows(path):
        if ABOUT in row or INTENDED in row:
            continue
        try:
            found.append(Recording.from_json(row))
        except TypeError as error:
            known = [item.name for item in fields(Recording)]
            raise DataError(f"{path}:{number}: not a recording ({error})", cure=f"the keys are {known}") from None
    check_distinct(found)
    return found


def write_recordings(path: str | os.PathLike[str], recordings: Iterable[Recording]) -> int:
    """Write a JSON Lines file atomically; returns how many."""
    return write_jsonl(path, (item.to_json() for item in recordings))


def check_distinct(recordings: Iterable[Recording]) -> None:
    """Refuse the same run twice: it would count as evidence twice.

    Raises:
        DataError: names it.
    """
    seen: set[tuple[str, int]] = set()
    for item in recordings:
        if (item.id, item.sample) in seen:
            raise DataError(f"question {item.id!r}, sample {item.sample}: recorded twice", cure="drop one of the two")
        seen.add((item.id, item.sample))


def digest(recordings: Iterable[Recording]) -> str:
    """SHA-256 of the runs, whatever their order."""
    lines = sorted(dumps(item.to_json()) for item in recordings)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def exit_times(signal: ArrayLike, thresholds: ArrayLike, *, direction: Direction = "above") -> Array:
    """The first checkpoint that crosses each threshold (reaching it is enough); their number if none does.

    Deviations: the released code of Conformal Thinking answers the last checkpoint where none crosses (so does
    `laconic.inference.policies.risk.exit_times`), so that a run that went on to its end looks like one that was
    stopped. Here the two differ.

    Args:
        signal: (T,).
        thresholds: (m,).
        direction: Which side stops.

    >>> exit_times([0.2, 0.5, 0.4, 0.9, 0.7], [0.1, 0.5, 0.6, 0.95]).tolist()
    [0, 1, 3, 5]
    """
    sign = 1.0 if direction == "above" else -1.0
    highest = np.maximum.accumulate(sign * np.asarray(signal, dtype=float))
    return np.searchsorted(highest, sign * np.asarray(thresholds, dtype=float), side="left")


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """What m thresholds would have done to n questions; runs of one question are averaged."""

    questions: tuple[str, ...]
    """(n,) ids; of several of one question the first."""
    thresholds: Array
    """(m,)."""
    loss: Array
    """(n, m), at the exit."""
    harm: Array
    """(n, m): the loss that stopping added, gains on other runs not set against it."""
    tokens: Array
    """(n, m), probes included."""
    stopped: Array
    """(n, m): share of runs that were stopped."""
    full_loss: Array
    """(n,), of the runs that were not stopped."""
    full_tokens: Array
    """(n,), without probes: the baseline of every saving."""

    @property
    def drop(self) -> Array:
        """(n, m): the loss that stopping added, net of what it gained."""
        return self.loss - self.full_loss[:, None]

    @property
    def saving(self) -> Array:
        """(m,): share of the plain policy's tokens that was saved, probes counted; negative if probes cost more."""
        return 1.0 - self.tokens.mean(axis=0) / self.full_tokens.mean()


def replay(recordings: Sequence[Recording], thresholds: ArrayLike, *, direction: Direction = "above") -> Replay:
    """Play thresholds on recorded runs.

    Args:
        recordings: At least one.
        thresholds: (m,), infinities included.
        direction: Which side stops.

    Raises:
        DataError: there is nothing to play, or a run is there twice.
    """
    if not recordings:
        raise DataError("no recordings", cure="record the unstopped policy on some questions first")
    check_distinct(recordings)
    at = np.atleast_1d(np.asarray(thresholds, dtype=float))
    row_of = {question: row for row, question in enumerate(dict.fromkeys(item.question for item in recordings))}
    rows = np.array([row_of[item.question] for item in recordings])
    questions = tuple(recordings[place].id for place in np.unique(rows, return_index=True)[1])
    counts = np.bincount(rows)

    def averaged(values: Array) -> Array:
        total = np.zeros((len(questions), *values.shape[1:]))
        np.add.at(total, rows, values)
        return total / counts.reshape(-1, *[1] * (values.ndim - 1))

    exits = [exit_times([point.signal for point in item.checkpoints], at, direction=direction) for item in recordings]
    loss = _taken(recordings, exits, "loss", [item.loss for item in recordings])
    full = np.array([item.loss for item in recordings])
    return Replay(
        questions,
        at,
        loss=averaged(loss),
        harm=averaged(np.maximum(0.0, loss - full[:, None])),
        tokens=averaged(_taken(recordings, exits, "tokens", [item.tokens + item.probes for item in recordings])),
        stopped=averaged(np.array([e < len(item.checkpoints) for e, item in zip(exits, recordings, strict=True)])),
        full_loss=averaged(full),
        full_tokens=averaged(np.array([item.tokens for item in recordings])),
    )


def _taken(recordings: Sequence[Recording], exits: Sequence[Array], name: str, at_end: Sequence[float]) -> Array:
    """(runs, m): a column of the checkpoints at the exits, `at_end` where the run was not stopped."""
    columns = ([getattr(point, name) for point in item.checkpoints] for item in recordings)
    return np.array([np.array([*column, end])[e] for column, end, e in zip(columns, at_end, exits, strict=True)], float)
