"""`Group`: all rollouts of one problem in one batch, as arrays; what a reward looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from laconic.rewards.errors import DataError
from laconic.rewards.records import Rollout

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Group:
    """Rollouts of one problem; every array has shape (G,), in the same order.

    Lengths are generated tokens of the model's own tokenizer, end-of-sequence included. The optional columns are
    None when the rollouts do not carry them; a reward that needs one says so in its registration and is refused
    before it runs.
    """

    correct: Array
    """bool: the verifier's verdict."""
    length: Array
    """float: generated tokens."""
    finished: Array
    """bool: an end-of-sequence token came before the token limit."""
    think_length: Array | None = None
    """float: tokens up to and including ``</think>``."""
    text: tuple[str, ...] | None = None
    """The completions; for rewards whose formula is about text."""

    def __post_init__(self) -> None:
        size = len(self.correct)
        for item in fields(self):
            column = getattr(self, item.name)
            if column is not None and len(column) != size:
                raise DataError(f"Group: {item.name} has {len(column)} entries, correct has {size}")

    @property
    def size(self) -> int:
        """G, the number of rollouts."""
        return len(self.correct)

    @classmethod
    def of(
        cls,
        correct: Sequence[bool],
        length: Sequence[float],
        finished: Sequence[bool] | None = None,
        think_length: Sequence[float] | None = None,
        text: Sequence[str] | None = None,
    ) -> Group:
        """Build a group from plain sequences of length G; `finished` defaults to all true."""
        return cls(
            correct=np.asarray(correct, dtype=bool),
            length=np.asarray(length, dtype=float),
            finished=np.ones(len(correct), dtype=bool) if finished is None else np.asarray(finished, dtype=bool),
            think_length=None if think_length is None else np.asarray(think_length, dtype=float),
            text=None if text is None else tuple(text),
        )

    @classmethod
    def from_rollouts(cls, rollouts: Sequence[Rollout]) -> Group:
        """Build a group from the rollouts of one problem.

        Raises:
            DataError: the rollouts belong to several problems, or one of them has no verdict.
        """
        if len({rollout.problem_id for rollout in rollouts}) != 1:
            raise DataError("Group: rollouts of several problems (or of none)", cure="group them by problem_id first")
        if any(rollout.correct is None for rollout in rollouts):
            raise DataError(f"Group: problem {rollouts[0].problem_id!r} has rollouts without a verdict")
        return cls.of(
            correct=[bool(rollout.correct) for rollout in rollouts],
            length=[rollout.tokens for rollout in rollouts],
            finished=[rollout.finished for rollout in rollouts],
            think_length=[rollout.think_tokens for rollout in rollouts],
            text=[rollout.text for rollout in rollouts],
        )
