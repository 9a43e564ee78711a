"""The retriever that a command's `--retriever` names."""

from __future__ import annotations

from laconic.inference.retrieval.protocol import Retriever


def open_argument(place: str | None, *, patience: float) -> Retriever | None:
    """Open it, so that concurrent searches become one batch.

    Args:
        place: As `laconic.inference.retrieval.opening.open_retriever` takes it; None: there is none.
        patience: Seconds to wait for a server that is away; somebody waits for the answer.

    Raises:
        DataError: there is nothing at that place.
        LaunchError: a library is missing.
    """
    if place is None:
        return None
    from laconic.inference.retrieval.batching import BatchingRetriever
    from laconic.inference.retrieval.opening import open_retriever

    remote = place.startswith(("http://", "https://"))
    return BatchingRetriever(open_retriever(place, **({"patience": patience} if remote else {})))
