"""Extracting a steering direction from traces, through any engine that shows hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from laconic.inference.engine import Array, Engine, Prompt
from laconic.inference.ledger import Ledger
from laconic.inference.steering import (
    REFERENCE_PROMPT,
    SEPARATOR,
    Direction,
    Method,
    StateReader,
    kind_of_thought,
    long_to_short,
    to_execution,
)
from laconic.rewards.errors import DataError


@dataclass(frozen=True, slots=True)
class TracePair:
    """A long and a short trace that answer the same question, thinking tags included where the model writes them."""

    prompt: Prompt
    long: str
    short: str


async def extract(
    engine: Engine,
    pairs: Sequence[TracePair],
    *,
    layer: int,
    model: str,
    method: Literal["asc", "efficiency"] = "asc",
    source: str = "",
    ledger: Ledger | None = None,
) -> Direction:
    """A direction from pairs of traces: the mean over pairs of h(short) - h(long), at the last token of each trace.

    Source: ASC (arXiv:2507.04742), whose authors used 50 to 100 pairs and layers 20 of 28 or 32, 57 of 64.
    ``efficiency`` is Efficiency Steering (arXiv:2506.15647), of which the abstract is known: one direction from short
    and long correct traces. That it is the same difference, divided by its length, is ours.

    Args:
        engine: With hidden states.
        pairs: One or more.
        layer: From 0, the embedding, to the number of layers.
        model: Its name, for the record.
        method: asc keeps the length of the mean difference, efficiency makes it 1.
        source: Where the pairs are from.
        ledger: The account to enter what is read into.

    Raises:
        DataError: there are no pairs, or nothing differs.
        LaunchError: the engine shows no hidden states.
    """
    if not pairs:
        raise DataError("a direction from no traces", cure="give at least one pair of a long and a short trace")
    reader = StateReader(engine, layer, ledger)
    long = [await reader.end_of(pair.prompt, pair.long) for pair in pairs]
    short = [await reader.end_of(pair.prompt, pair.short) for pair in pairs]
    vector = long_to_short(np.stack(long), np.stack(short), unit=method == "efficiency")
    return await _direction(reader, vector, method=method, samples=len(pairs), model=model, source=source)


async def extract_execution(
    engine: Engine,
    traces: Sequence[tuple[Prompt, str]],
    *,
    layer: int,
    model: str,
    separator: str = SEPARATOR,
    source: str = "",
    ledger: Ledger | None = None,
) -> Direction:
    """SEAL's direction: at step boundaries, the mean state before execution minus that before anything else.

    A boundary is an empty line, or `separator`; its state is that of the token which completes it, and its kind that
    of the thought which follows. Source: SEAL (arXiv:2504.07986): the empty line, the key words, layer 20 (1.5B and 7B)
    or 55 (32B), strength 1. Ours: each step is encoded by itself.

    Args:
        engine: With hidden states.
        traces: Prompts and what the model said.
        layer: From 0, the embedding, to the number of layers.
        model: Its name, for the record.
        separator: What ends a step.
        source: Where the traces are from.
        ledger: The account to enter what is read into.

    Raises:
        DataError: the traces have no execution, or nothing else.
        LaunchError: the engine shows no hidden states.
    """
    reader, found = StateReader(engine, layer, ledger), []
    for prompt, text in traces:
        found += await reader.boundaries(prompt, text, separator=separator)
    if not found:
        raise DataError(f"the traces have no step that ends in {separator!r}", cure="give traces of several steps")
    vector = to_execution(np.stack([state for state, _ in found]), [kind_of_thought(thought) for _, thought in found])
    made = await _direction(reader, vector, method="seal", samples=len(found), model=model, source=source)
    return replace(made, separator=separator)


async def _direction(
    reader: StateReader, vector: Array, *, method: Method, samples: int, model: str, source: str
) -> Direction:
    reference = await reader.end_of(REFERENCE_PROMPT)
    return Direction(vector, reader.layer, method, samples, model, reference, source=source)
