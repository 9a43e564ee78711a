"""The retriever of a stage: the one function by which data generation, training and evaluation open theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laconic.inference.retrieval.protocol import Retriever
from laconic.rewards.errors import LaunchError

if TYPE_CHECKING:
    from laconic.recipes.resolve import StageFile


def open_for(stage: StageFile) -> Retriever:
    """Open what the stage's models search in; close it with `aclose`.

    The documents of a world are indexed in memory, with BM25.

    Args:
        stage: With a `search:`.

    Raises:
        LaunchError: the recipe has no `search:`, or a library is missing.
        DataError: there is no such corpus or index, or it is malformed.
    """
    if stage.search is None:
        raise LaunchError(f"stage {stage.name!r} searches nothing", cure="give its recipe a search:")
    if stage.problems.source == "world" and stage.search.retriever == "world":
        from laconic.inference.retrieval.bm25 import Bm25Retriever

        return Bm25Retriever.from_documents(stage.problems.world(stage.problems_seed).documents)
    from laconic.inference.retrieval.opening import open_retriever

    return open_retriever(stage.search.retriever)
