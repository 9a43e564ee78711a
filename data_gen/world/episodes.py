"""Teacher episodes in a search protocol, as rows whose pieces say what was generated and what was retrieved.

In Search-R1's ``<think> ... </think> <search> query </search>`` is generated, the ``<information>`` after it is
retrieved, and the last turn is ``<think> ... </think> <answer> ... </answer>``. Observations are those that
`laconic.inference.episode` would show. Training takes its loss from the generated pieces alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from random import Random
from typing import Any, Literal, TypeAlias

from laconic.data_gen.rollouts import request_seed
from laconic.data_gen.world.queries import Query
from laconic.data_gen.world.teacher import Ending, Lesson, Lookup, Teacher, page_of
from laconic.data_gen.world.world import World
from laconic.inference.episode_documents import Count, Shown, count_words, observation
from laconic.inference.episode_protocols import SEARCH_R1, EpisodeProtocol
from laconic.inference.retrieval.documents import Document, Hit
from laconic.inference.retrieval.protocol import Retriever
from laconic.rewards.answers import verify
from laconic.rewards.errors import RecipeError
from laconic.rewards.records import Problem

Style: TypeAlias = Literal["minimal", "needless", "premature"]
STYLES: tuple[Style, ...] = ("minimal", "needless", "premature")
"""As few searches as possible; one or two more than that; an answer in the place of a search that is missing."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an episode."""

    text: str
    kind: Literal["generated", "retrieved"]


@dataclass(frozen=True, slots=True)
class TaughtEpisode:
    """One episode of the teacher."""

    problem_id: str
    prompt: str
    pieces: tuple[Piece, ...]
    searches: tuple[dict[str, Any], ...]
    """`query`, `ids` of the documents found, `turn` from 0, and how many of the documents were `shown`."""
    answer: str
    correct: bool
    style: Style
    needless: int
    """Executed searches for what was known already. [searches]"""
    guessed: bool
    """The answer came before the last search that was missing."""

    @property
    def completion(self) -> str:
        """All pieces in one text."""
        return "".join(piece.text for piece in self.pieces)

    def to_json(self) -> dict[str, Any]:
        """As a row for training, `completion` included."""
        return asdict(self) | {"completion": self.completion}


@dataclass(frozen=True, slots=True)
class Lessons:
    """What came of teaching."""

    episodes: tuple[TaughtEpisode, ...]
    missed: tuple[str, ...]
    """Ids of the problems given up because a search did not find the page it was for."""


@dataclass(slots=True)
class _Running:
    problem: Problem
    style: Style
    lesson: Lesson
    move: Lookup | Ending
    pieces: list[Piece] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    needless: int = 0
    missed: bool = False


def teach_episodes(
    world: World,
    problems: Sequence[Problem],
    *,
    styles: Mapping[Style, float] | None = None,
    samples: int | Mapping[str, int] = 1,
    retriever: Retriever | None = None,
    k: int = 3,
    protocol: EpisodeProtocol = SEARCH_R1,
    document_tokens: int = 500,
    count: Count = count_words,
    seed: int = 0,
) -> Lessons:
    """Have the teacher answer questions of the world. Not to be called from within an event loop.

    Args:
        world: In which the questions are asked.
        problems: Of `draw_questions`; pass training problems only.
        styles: Weights of `STYLES`; unset means ``minimal`` only. [-]
        samples: Episodes per problem, one number for all or one for each id.
        retriever: Searches the corpus, all episodes' searches of a turn in one call. Without one, a search finds one
            wording of the page it is for and nothing else.
        k: Documents per search of the retriever. [documents]
        protocol: Tags, the prompt's instruction, and how documents are shown;
            `laconic.data_gen.world.spaced.SPACED` suits tokenizers with one token per word.
        document_tokens: Limit of an observation, as in `laconic.inference.episode`. [tokens]
        count: How these are counted.
        seed: Of the choices; an episode depends on it, its problem and its sample number only.

    Raises:
        RecipeError: a style is unknown, or no weight is positive.
    """
    weights = {"minimal": 1.0} if styles is None else dict(styles)
    _check(weights)
    show = partial(observation, protocol, limit=document_tokens, count=count)
    running = [
        _started(world, problem, weights, Random(request_seed(seed, problem.id, sample)))
        for problem in problems
        for sample in range(samples if isinstance(samples, int) else samples[problem.id])
    ]
    while active := [each for each in running if isinstance(each.move, Lookup) and not each.missed]:
        found = _search(world, active, retriever, k)
        for each, hits in zip(active, found, strict=True):
            _advance(each, hits, protocol, show)
    done = [_finished(each, protocol) for each in running if not each.missed]
    return Lessons(tuple(done), tuple(each.problem.id for each in running if each.missed))


def _check(weights: Mapping[str, float]) -> None:
    if wrong := [name for name in weights if name not in STYLES]:
        raise RecipeError(f"styles has {wrong[0]!r}", cure=f"styles are {', '.join(STYLES)}")
    if min(weights.values(), default=0) < 0 or not sum(weights.values()) > 0:
        raise RecipeError(f"styles is {dict(weights)}", cure="weights are not negative, and one is positive")


def _started(world: World, problem: Problem, weights: Mapping[Any, float], rng: Random) -> _Running:
    style = rng.choices(list(weights), weights=list(weights.values()))[0]
    needless = rng.randint(1, 2) if style == "needless" else 0
    query = Query.from_json(problem.meta["form"])
    lesson = Teacher(world, query, rng, needless=needless, premature=style == "premature").lesson()
    return _Running(problem, style, lesson, _next(lesson, None))


def _next(lesson: Lesson, documents: Sequence[Document] | None) -> Lookup | Ending:
    try:
        return next(lesson) if documents is None else lesson.send(documents)
    except StopIteration as stop:
        return stop.value


def _search(world: World, active: Sequence[_Running], retriever: Retriever | None, k: int) -> list[list[Hit]]:
    moves = [each.move for each in active if isinstance(each.move, Lookup)]
    if retriever is None:
        # Wordings take turns, so that every one of them is read by somebody.
        ids = [world.documents_of(move.page)[place % world.paraphrases] for place, move in enumerate(moves)]
        return [[Hit(world.document(id), 1.0)] for id in ids]
    return asyncio.run(_searched(retriever, [move.query for move in moves], k))


async def _searched(retriever: Retriever, queries: Sequence[str], k: int) -> list[list[Hit]]:
    return await retriever.search(queries, k=k)


def _advance(each: _Running, hits: Sequence[Hit], protocol: EpisodeProtocol, show: Callable[..., Shown]) -> None:
    move, shown = each.move, show(hits)
    assert isinstance(move, Lookup)
    query = _call(move.query, protocol)
    text = f"<think> {move.thought} </think> {protocol.search_open} {query} {protocol.search_close}"
    each.pieces += [Piece(text, "generated"), Piece(shown.text, "retrieved")]
    ids = [hit.document.id for hit in hits]
    each.searches.append({"query": move.query, "ids": ids, "turn": len(each.searches), "shown": shown.documents})
    each.needless += move.needless
    documents = [hit.document for hit in hits[: shown.documents]]
    if move.page not in {page_of(document.id) for document in documents}:
        each.missed = True
    else:
        each.move = _next(each.lesson, documents)


def _call(query: str, protocol: EpisodeProtocol) -> str:
    return query if protocol.call == "text" else json.dumps({"name": protocol.tool, "arguments": {"query": query}})


def _finished(each: _Running, protocol: EpisodeProtocol) -> TaughtEpisode:
    ending = each.move
    assert isinstance(ending, Ending)
    said = f"\\boxed{{{ending.answer}}}" if protocol.boxed else ending.answer
    text = f"<think> {ending.thought} </think> {protocol.answer_open} {said} {protocol.answer_close}"
    each.pieces.append(Piece(text, "generated"))
    return TaughtEpisode(
        problem_id=each.problem.id,
        prompt=protocol.prompt(each.problem.prompt),
        pieces=tuple(each.pieces),
        searches=tuple(each.searches),
        answer=ending.answer,
        correct=bool(verify(ending.answer, each.problem)),
        style=each.style,
        needless=each.needless,
        guessed=ending.guessed,
    )
