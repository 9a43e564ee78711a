"""The two records that every part of Laconic exchanges: a problem and a rollout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import read_jsonl


class _Record:
    """To and from a JSON object; unknown keys are refused, so that a typo cannot lose a column."""

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """Build the record from one parsed line.

        Raises:
            DataError: a key is unknown or a required one is missing.
        """
        known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(row) - known):
            raise DataError(f"{cls.__name__}: unknown key {unknown[0]!r}", cure=f"the keys are {sorted(known)}")
        try:
            return cls(**row)
        except TypeError as error:
            raise DataError(f"{cls.__name__}: {error}", cure=f"the keys are {sorted(known)}") from None

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True)
class Problem(_Record):
    """One question with a checkable answer."""

    id: str
    prompt: str
    """The text the user message holds; the chat template is applied later."""
    answer: str
    """The gold answer. Its own verifier accepts it (checked before anything trains on it)."""
    task: str
    """Names the verifier: a procedural family (`chain_sum`), `math`, or `exact`."""
    difficulty: float | None = None
    """Grows with the work the problem needs; comparable only within one task."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What verifiers and teachers of the task need (operands, a grid, a gold solution)."""


@dataclass(frozen=True, slots=True)
class Rollout(_Record):
    """One sampled completion of a problem, with its counts and verdict.

    Token counts are generated tokens of the model's own tokenizer, end-of-sequence included;
    ``think_tokens + answer_tokens == tokens``. The thinking part ends with ``</think>``.
    """

    problem_id: str
    sample: int
    """Which of the problem's samples this is, from 0; (problem_id, sample) is unique in a file."""
    task: str
    text: str
    """What was generated, special tokens of the chat format left out."""
    answer: str | None
    """The answer that was read from the text; None when there was none to read."""
    correct: bool | None
    """The verifier's verdict; None when the gold answer itself cannot be checked."""
    finished: bool
    """An end-of-sequence token was generated before the token limit."""
    tokens: int
    think_tokens: int
    answer_tokens: int
    source: str = ""
    """The model (a stage name) or the teacher style that wrote it."""
    seed: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def read_problems(path: str | os.PathLike[str]) -> Iterator[Problem]:
    """Read a `problems.jsonl`."""
    return map(Problem.from_json, read_jsonl(path))


def read_rollouts(path: str | os.PathLike[str]) -> Iterator[Rollout]:
    """Read a `rollouts.jsonl`."""
    return map(Rollout.from_json, read_jsonl(path))
