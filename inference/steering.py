"""Directions in activation space that make a model think shorter: extracted from traces, saved, checked before use.

The sign: a direction points from long to short (from reflecting to executing), and a positive strength adds it. Layers
are counted as in `Internals.hidden`: the output of layer L, from 1 on; 0 is the embedding. The code released with ASC
subtracts what it extracted, and edits the layer next to the one it extracted from; neither is followed here.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, cast

import numpy as np

from laconic.inference.engine import Array, Branch, Capability, Engine, Internals, Prompt, Steering, check_capabilities
from laconic.inference.ledger import Ledger
from laconic.rewards.errors import DataError, ModelError, RecipeError

Method: TypeAlias = Literal["asc", "efficiency", "seal"]

FORMAT = 1
SEPARATOR = "\n\n"
"""What ends a step in SEAL."""
REFERENCE_PROMPT = "What is 1 + 1?"
SAME_MODEL = 0.95
"""Cosine of the reference state and the one found, from which on a model counts as the direction's own. Ours."""
TRANSITIONS = (
    "alternatively",
    "think differently",
    "another way",
    "another approach",
    "another method",
    "another solution",
    "another strategy",
    "another technique",
)
REFLECTIONS = (
    "wait",
    "verify",
    "make sure",
    "hold on",
    "think again",
    "'s correct",
    "'s incorrect",
    "let me check",
    "seems right",
)
"""What begins or marks a thought of that kind, in SEAL."""


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """A direction, where it belongs, and what it was made from."""

    vector: Array
    """Shape (hidden,), float32."""
    layer: int
    method: Method
    samples: int
    """Pairs, or for ``seal`` step boundaries, that it is a mean over."""
    model: str
    """The name of the model it is from; for people, `check_fits` compares states."""
    reference: Array
    """The layer's state at the end of `reference_prompt`, shape (hidden,): by it the model is known again."""
    reference_prompt: str = REFERENCE_PROMPT
    source: str = ""
    """Where the traces are from, in words."""
    strength: float | None = None
    """Calibrated; None: not yet."""
    kl: float | None = None
    """Mean per token at that strength, in nats."""
    kl_bound: float | None = None
    kl_tokens: int = 0
    """Tokens that `kl` is a mean over."""
    separator: str = SEPARATOR
    """What ends a step, for ``seal``."""

    @property
    def at_boundaries(self) -> bool:
        """Whether it is for step boundaries alone."""
        return self.method == "seal"

    def steering(self, strength: float) -> Steering:
        """What branches take."""
        return Steering(self.layer, self.vector, strength)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as ``.npz``, which needs nothing but numpy to read.

        Raises:
            DataError: the path does not end in ``.npz``.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise DataError(f"{path}: not the name of a direction", cure="end it in .npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.stem + ".part.npz")
        fields = {key: value for key, value in asdict(self).items() if value is not None}
        np.savez(part, allow_pickle=False, format=FORMAT, **fields)
        part.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: it is missing, or no direction.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such direction", cure="extract one first, or mend the path")
        try:
            with np.load(path, allow_pickle=False) as found:
                content = {key: _plain(found[key]) for key in found.files}
            assert content.pop("format") == FORMAT
            direction = cls(**content)
        except (ValueError, KeyError, TypeError, AssertionError, OSError, zipfile.BadZipFile):
            raise DataError(f"{path}: not a direction of this version", cure="extract it again") from None
        return direction


def long_to_short(long: Array, short: Array, *, unit: bool = False) -> Array:
    """The mean of the differences short - long, as float32; of length 1 if asked for.

    >>> long_to_short(np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 0.0]])).tolist()
    [-2.0, 0.0]

    Args:
        long: States at the ends of the long traces, shape (n, hidden).
        short: Of the short ones, in the same order.
        unit: Divide by its length.

    Raises:
        DataError: there is no difference.
    """
    vector = (np.asarray(short, dtype=np.float64) - np.asarray(long, dtype=np.float64)).mean(axis=0)
    return _direction(vector, unit=unit)


def to_execution(states: Array, kinds: Sequence[str]) -> Array:
    """The mean state of execution minus the mean of reflection and transition together.

    Args:
        states: At step boundaries, shape (n, hidden).
        kinds: Of the thought that follows each, as `kind_of_thought` names them.

    Raises:
        DataError: one side is empty.
    """
    executes = np.array([kind == "execution" for kind in kinds], dtype=bool)
    if executes.all() or not executes.any():
        raise DataError(
            f"{int(executes.sum())} of {len(kinds)} thoughts are execution, the others reflection or transition",
            cure="give traces that have both",
        )
    states = np.asarray(states, dtype=np.float64)
    return _direction(states[executes].mean(axis=0) - states[~executes].mean(axis=0), unit=False)


def kind_of_thought(text: str) -> Literal["execution", "reflection", "transition"]:
    """By its words, in lower case: transitions are looked for first; what is neither is execution.

    >>> kind_of_thought("Wait, is 7 prime?"), kind_of_thought("Another way: 3 + 4"), kind_of_thought("3 + 4 = 7")
    ('reflection', 'transition', 'execution')
    """
    lower = text.lower()
    if any(word in lower for word in TRANSITIONS):
        return "transition"
    return "reflection" if any(word in lower for word in REFLECTIONS) else "execution"


async def check_fits(direction: Direction, engine: Engine) -> None:
    """Refuse a direction of another model: it has another width, or the reference prompt leads to another state.

    Raises:
        LaunchError: the engine shows no hidden states.
        ModelError: names what does not fit.
    """
    found = await StateReader(engine, direction.layer).end_of(direction.reference_prompt)
    cure = "extract one from this model, or use it with the one it is from"
    if found.shape != direction.vector.shape:
        raise ModelError(
            f"a direction of width {len(direction.vector)} (from {direction.model}) for a model of width {len(found)}",
            cure=cure,
        )
    likeness = cosine(found, direction.reference)
    if likeness < SAME_MODEL:
        raise ModelError(
            f"a direction from {direction.model}, whose state at a reference prompt is not this model's "
            f"(cosine {likeness:.3f})",
            cure=cure,
        )


def cosine(one: Array, other: Array) -> float:
    """Of the angle between two vectors; 0 where one has no length."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0


class StateReader:
    """Reads a layer's states at the ends of texts.

    Args:
        engine: With hidden states.
        layer: From 0, the embedding, to the number of layers.
        ledger: The account to enter what is read into.

    Raises:
        LaunchError: the engine shows no hidden states.
        RecipeError: the layer is counted from the end.
    """

    def __init__(self, engine: Engine, layer: int, ledger: Ledger | None = None) -> None:
        needed = (Capability.PREFIX, Capability.HIDDEN_STATES)
        check_capabilities(engine, needed, who="a steering direction")
        if layer < 0:
            raise RecipeError(f"layer={layer}", cure="count from 0, the embedding, to the number of layers")
        self.engine, self.layer, self.ledger = engine, layer, Ledger() if ledger is None else ledger

    async def end_of(self, prompt: Prompt, text: str = "") -> Array:
        """The state at the last token of a text that follows a prompt, shape (hidden,)."""
        async with self.engine.open(prompt, ledger=self.ledger) as branch:
            return await self._read(branch, text)

    async def boundaries(self, prompt: Prompt, text: str, *, separator: str = SEPARATOR) -> list[tuple[Array, str]]:
        """The state at each end of a step, and the thought that follows; where none does there is no state."""
        steps, found = text.split(separator), []
        async with self.engine.open(prompt, ledger=self.ledger) as branch:
            for step, thought in pairwise(steps):
                state = await self._read(branch, step + separator)
                if thought.strip():
                    found.append((state, thought))
        return found

    async def _read(self, branch: Branch, text: str) -> Array:
        await branch.extend(text)
        return np.asarray((await cast("Internals", branch).hidden(self.layer))[-1])


def _direction(vector: Array, *, unit: bool) -> Array:
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise DataError("the traces show no direction: their states do not differ", cure="give other traces or a layer")
    return (vector / length if unit else vector).astype(np.float32)


def _plain(value: Array) -> Any:
    return value.item() if value.ndim == 0 else value
