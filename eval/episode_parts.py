"""A search episode cut into what a reader wants to see at once, and what can be folded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from laconic.rewards.records import Rollout

SHOWN = 4_000
"""Characters of a part that a page shows; the middle of a longer one is left out."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of an episode."""

    kind: Literal["generated", "retrieved", "forced"]
    text: str
    tokens: int
    title: str = ""
    """What stands on the fold."""


def is_episode(rollout: Rollout) -> bool:
    """Whether a rollout is a search episode."""
    return "search" in rollout.meta


def parts(rollout: Rollout) -> Iterator[Part]:
    """What was generated, and, to be folded, what was put in: documents under the query that found them."""
    told: Mapping[str, Any] = rollout.meta["search"]
    found = iter([search for search in told["searches"] if search["shown"]])
    for piece in told["pieces"]:
        kind, text = piece["kind"], _shortened(piece["text"].strip())
        if kind == "generated":
            yield Part(kind, text, piece["tokens"])
        elif kind == "retrieved":
            yield Part(kind, text, piece["tokens"], _found(next(found)))
        else:
            yield Part(kind, text, piece["tokens"], "put in, no documents")


def _found(search: Mapping[str, Any]) -> str:
    names = ", ".join(search["ids"][: search["shown"]])
    return f"{search['shown']} document{'' if search['shown'] == 1 else 's'} for “{search['query']}”: {names}"


def _shortened(text: str) -> str:
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]}\n[…]\n{text[-half:]}"
