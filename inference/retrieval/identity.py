"""Which corpus a retriever searches, so that results of two corpora are not taken for results of one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from laconic.rewards.errors import DataError

HEADER = "x-corpus"
"""In every answer of our server: the digest of what was searched."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a retriever says about itself; None where it does not say."""

    kind: str | None = None
    """bm25, fts5, dense, or the name of a class."""
    documents: int | None = None
    corpus: str | None = None
    """SHA-256 of all documents in order; see `digest_of`."""

    def to_json(self) -> dict[str, Any]:
        """As `/health` has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Any) -> Identity:
        """From an answer of `/health`; of whatever else, nothing is known."""
        if not isinstance(found, dict):
            return cls()
        kind, documents, corpus = (found.get(name) for name in ("kind", "documents", "corpus"))
        return cls(
            kind if isinstance(kind, str) else None,
            documents if isinstance(documents, int) and not isinstance(documents, bool) else None,
            corpus if isinstance(corpus, str) else None,
        )


async def identify(retriever: Any) -> Identity:
    """Which corpus a retriever searches; behind a server, what the server says.

    Args:
        retriever: Any; one that batches passes the question on.

    Raises:
        LaunchError: its server stayed away.
    """
    if (below := getattr(retriever, "retriever", None)) is not None:
        return await identify(below)
    if (ask := getattr(retriever, "identity", None)) is not None:
        return await ask()
    documents = getattr(retriever, "documents", None)
    return Identity(
        getattr(retriever, "kind", type(retriever).__name__),
        None if documents is None else len(documents),
        getattr(retriever, "corpus", None),
    )


def check_same(place: str, found: str | None, wanted: str | None) -> None:
    """Refuse answers from another corpus than those before.

    Args:
        place: Of the retriever.
        found: The digest of what is searched now; None where nobody says.
        wanted: That of before; None: any.

    Raises:
        DataError: both are known, and differ.
    """
    if found is not None and wanted is not None and found != wanted:
        raise DataError(
            f"{place} searches another corpus than before (digest {found[:12]}, before {wanted[:12]})",
            cure="start the server with the index of before, or begin anew with this one",
        )
