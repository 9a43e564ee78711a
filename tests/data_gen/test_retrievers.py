"""The retriever of a stage: what is opened, what is noted about it, and that it stays the same."""

import asyncio
import json
import threading
from contextlib import contextmanager

import pytest

from laconic.data_gen.retrievers import RECORD, open_for
from laconic.inference.retrieval.documents import Document, digest_of, write_corpus
from laconic.inference.retrieval.fts5 import Fts5Retriever
from laconic.inference.retrieval.server import Service
from laconic.inference.retrieval.serving import Server
from laconic.inference.sockets import bind, place_of
from laconic.recipes.entry import Opened
from laconic.recipes.folder import StageFolder
from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe
from laconic.rewards.errors import DataError, LaunchError

RECIPE = """\
name: world
problems: {source: world, size: 60, train: 20, test: 4}
model: {scratch: {hidden_size: 32, layers: 1, heads: 2, max_length: 1024}}
search: {retriever: RETRIEVER, protocol: spaced}
stages:
  - {kind: generate, name: made, teacher: {styles: {minimal: 1}}}
  - {kind: sft, data: made, batch_size: 4}
  - {kind: grpo, model: sft, batch_size: 4, rewards: [{name: mash}], trainer: {num_generations: 2}}
  - {kind: eval, models: [grpo]}
"""
CAPITALS = [Document("x", "a capital"), Document("y", "another capital")]


@pytest.fixture
def stages(tmp_path):
    """Opens a stage of the recipe with a retriever, its work folder ready, its inputs complete."""

    def opened(name, retriever):
        path = tmp_path / "world.yaml"
        path.write_text(RECIPE.replace("RETRIEVER", retriever))
        plan = resolve(load_recipe(path), tmp_path / "runs")
        stage = plan.stage(name)
        for folder in stage.inputs.values():
            (plan.run_dir / folder).mkdir(parents=True, exist_ok=True)
        folder = StageFolder(plan.run_dir, stage)
        if not folder.work.exists():
            folder.prepare()
        return Opened(stage, folder)

    return opened


@contextmanager
def serving(documents):
    listener, ready = bind("127.0.0.1", 0), threading.Event()
    server = Server(Service(Fts5Retriever.from_documents(documents)), ready=ready.set)
    thread = threading.Thread(target=server.run_on, args=[listener])
    thread.start()
    assert ready.wait(20)
    try:
        yield place_of(listener), server
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def found(retriever, query="capital"):
    async def run():
        (hits,) = await retriever.search([query], k=2)
        await retriever.aclose()
        return [hit.document.id for hit in hits]

    return asyncio.run(run())


def test_a_world_is_searched_in_its_own_documents(stages):
    opened = stages("made", "world")
    documents = {each.id: each for each in opened.stage.problems.world(opened.stage.problems_seed).documents}
    assert set(found(open_for(opened))) <= documents.keys()
    noted = json.loads((opened.work / RECORD).read_text())
    assert noted == {
        "retriever": "world",
        "kind": "bm25",
        "documents": len(documents),
        "corpus": digest_of(documents.values()),
    }


def test_a_corpus_file_is_searched_and_must_stay(stages, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    write_corpus(CAPITALS[:1], corpus)
    opened = stages("grpo", str(corpus))
    assert found(open_for(opened)) == ["x"]
    assert found(open_for(opened)) == ["x"]
    write_corpus(CAPITALS, corpus)
    with pytest.raises(
        DataError, match=r"searches another corpus than \d+-grpo-\w+\.partial did .*: 2 documents with"
    ) as caught:
        open_for(opened)
    assert f"delete {opened.work} to begin" in caught.value.cure


def test_a_server_must_search_what_it_searched(stages, monkeypatch):
    with serving(CAPITALS[:1]) as (url, server):
        grpo = stages("grpo", url)
        assert found(open_for(grpo)) == ["x"]
        assert json.loads((grpo.work / RECORD).read_text())["documents"] == 1
        grpo.work.rename(grpo.folder.path)
        # Another rank reads what the first one noted, and writes nothing.
        monkeypatch.setenv("RANK", "1")
        evaluated = stages("eval", url)
        open_for(evaluated)
        assert not (evaluated.work / RECORD).exists()
        server.service.batching.retriever = Fts5Retriever.from_documents(CAPITALS)
        with pytest.raises(DataError, match=r"searches another corpus than \d+-grpo-\w+ did at http://.*: 2 documents"):
            open_for(evaluated)


def test_nothing_to_search_in_is_an_error(stages):
    opened = stages("grpo", "world")
    nowhere = Opened(opened.stage.model_copy(update={"search": None}), opened.folder)
    with pytest.raises(LaunchError, match="searches nothing"):
        open_for(nowhere)
