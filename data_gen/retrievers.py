"""The retriever of a stage: the one function by which data generation, training and evaluation open theirs."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from laconic.inference.retrieval.identity import Identity, identify
from laconic.inference.retrieval.protocol import Retriever
from laconic.rewards.errors import DataError, LaunchError
from laconic.rewards.jsonl import write_atomic

if TYPE_CHECKING:
    from laconic.recipes.entry import Opened
    from laconic.recipes.resolve import StageFile

RECORD = "retriever.json"
"""In the folder of a stage that searches: the place, and what was there when the stage began."""


def open_for(opened: Opened) -> Retriever:
    """Open what the stage's models search in; close it with `aclose`.

    The documents of a world are indexed in memory, with BM25. What is searched is noted in the stage's folder. A stage
    that goes on, and one that takes a model or data from another, must find the same corpus as before; a server that
    does not say what it searches is believed.

    Args:
        opened: A stage with a `search:`.

    Raises:
        LaunchError: the recipe has no `search:`, a library is missing, or a server stayed away.
        DataError: there is no such corpus or index, it is malformed, or it is another one than before.
    """
    stage = opened.stage
    retriever = _opened(stage)
    found = asyncio.run(identify(retriever))
    assert stage.search is not None
    for folder in dict.fromkeys([opened.work, *(opened.input(role) for role in stage.inputs)]):
        _check(stage.search.retriever, found, folder)
    if os.environ.get("RANK", "0") == "0" and not (opened.work / RECORD).exists():
        noted = {"retriever": stage.search.retriever, **found.to_json()}
        write_atomic(opened.work / RECORD, json.dumps(noted) + "\n")
    return retriever


def _opened(stage: StageFile) -> Retriever:
    if stage.search is None:
        raise LaunchError(f"stage {stage.name!r} searches nothing", cure="give its recipe a search:")
    if stage.problems.source == "world" and stage.search.retriever == "world":
        from laconic.inference.retrieval.bm25 import Bm25Retriever

        return Bm25Retriever.from_documents(stage.problems.world(stage.problems_seed).documents)
    from laconic.inference.retrieval.opening import open_retriever

    return open_retriever(stage.search.retriever)


def _check(place: str, found: Identity, folder: Path) -> None:
    """Refuse another corpus than a folder's stage searched, as far as both are known."""
    if not (folder / RECORD).is_file():
        return
    noted = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    before = Identity.from_json(noted)
    if None not in (found.corpus, before.corpus) and found.corpus != before.corpus:
        raise DataError(
            f"{place} searches another corpus than {folder.name} did at {noted['retriever']}: "
            f"{_said(found)} instead of {_said(before)}",
            cure=f"bring that corpus back, or delete {folder} to begin it anew with this one",
        )


def _said(found: Identity) -> str:
    return f"{found.documents} documents with digest {found.corpus[:12] if found.corpus else None}"
