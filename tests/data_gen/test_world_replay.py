"""A model that says what the teacher said has the teacher's episode: training text is what runs will look like."""

from __future__ import annotations

import asyncio

import pytest

from laconic.data_gen.world.episodes import teach_episodes
from laconic.data_gen.world.questions import draw_questions
from laconic.data_gen.world.world import World
from laconic.inference.engine import Sampling
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.episode import run_episode
from laconic.inference.episode_protocols import PROTOCOLS
from laconic.inference.ledger import Ledger
from laconic.inference.policies.base import Ask
from laconic.inference.retrieval.fts5 import Fts5Retriever

WORLD = World(seed=4, size=100, facts_per_document=2)
PROBLEMS = draw_questions(WORLD, "train", 15)


def script(taught):
    """Says the generated pieces one after the other, a character a token."""
    turns = iter([piece.text for piece in taught.pieces if piece.kind == "generated"])
    return lambda context: list(next(turns))


async def replay(taught, protocol, index, limit):
    ask = Ask(ScriptedEngine(script(taught)), taught.prompt, Ledger(), sampling=Sampling(max_tokens=5000))
    return await run_episode(ask, index, protocol=protocol, max_searches=12, k=3, document_tokens=limit)


@pytest.mark.parametrize(("name", "limit"), [("spaced", 30), *((name, 500) for name in PROTOCOLS)])
def test_replayed_episodes_are_equal(name, limit):
    protocol = PROTOCOLS[name]
    index = Fts5Retriever.from_documents(WORLD.documents)
    lessons = teach_episodes(
        WORLD,
        PROBLEMS,
        styles={"minimal": 1.0, "needless": 1.0, "premature": 1.0},
        retriever=index,
        protocol=protocol,
        document_tokens=limit,
    )
    assert sum(len(taught.searches) for taught in lessons.episodes) > 8
    for taught in lessons.episodes:
        episode = asyncio.run(replay(taught, protocol, index, limit))
        assert episode.text == taught.completion
        assert [(piece.kind, piece.text) for piece in episode.pieces] == [(p.kind, p.text) for p in taught.pieces]
        assert [(s.query, list(s.ids), s.turn, s.shown) for s in episode.searches] == [
            (s["query"], s["ids"], s["turn"], s["shown"]) for s in taught.searches
        ]
        assert (episode.answer, episode.finish, episode.invalid) == (taught.answer, "answer", 0)
