"""What every engine that samples completions offers; torch-free, so that recipes and policies can import it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn."""

    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int = 256
    """Generated tokens, the end-of-sequence token included."""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to draw. Equal requests give equal completions, whatever they are batched with."""

    key: tuple[str, int]
    """(problem id, sample number)."""
    prompt: str
    """The user message; the engine applies the model's chat template."""
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back for a request."""

    key: tuple[str, int]
    ids: tuple[int, ...]
    """Generated token ids, the end-of-sequence token included when there was one."""
    finished: bool
    """False when the token limit cut it."""


class Sampler(Protocol):
    """Draws completions, in whatever order they finish."""

    def sample(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request as soon as it is done."""
        ...
