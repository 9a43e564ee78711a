"""Questions as problems: wording, accepted answers, and what it takes to answer them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice, product
from random import Random
from typing import Any, TypeAlias

from laconic.data_gen.split import Split
from laconic.data_gen.world import words
from laconic.data_gen.world.drawing import draw_query, is_answerable
from laconic.data_gen.world.queries import SHAPES, Query, Shape, branches, missing_pages, needed, side_of, solve
from laconic.data_gen.world.schema import JOIN, RELATIONS, spellings
from laconic.data_gen.world.world import World
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.records import Problem
from laconic.rewards.short_answers import UNKNOWN_SPELLINGS

TASK = "world_qa"
HOPS = {0: 0.1, 1: 0.4, 2: 0.3, 3: 0.2}
SHAPE_SHARES = {"basic": 0.6, "union": 0.2, "reverse_union": 0.2}
_PATIENCE = 20_000
"""Draws in vain after which there seem to be no more questions of a kind."""
_Kind: TypeAlias = tuple[int, Shape, bool]
"""Depth, shape, and whether there is an answer."""


def draw_questions(
    world: World,
    split: Split,
    n: int,
    *,
    hops: Mapping[int, float] | None = None,
    shapes: Mapping[str, float] | None = None,
    unanswerable: float = 0.1,
    seed: int = 0,
) -> list[Problem]:
    """Draw different questions of one split.

    Args:
        world: What they are about.
        split: ``train`` or ``test``; they share no question in any wording, and no fact that is not taught.
        n: How many. A longer list starts with the shorter one. Kinds that a small world runs out of are made up for by
            the others.
        hops: Weights of depths from 0 to 3; unset means `HOPS`. [-]
        shapes: Weights of shapes; unset means `SHAPE_SHARES`. Depth 0 is always basic. [-]
        unanswerable: Of the questions that ask for a fact which is not told along, those about one that is nowhere.
            [share]
        seed: Draws other questions from the same world.

    Raises:
        RecipeError: a weight or name is wrong.
        DataError: the world has fewer questions of these kinds.
    """
    kinds = _kinds(hops or HOPS, shapes or SHAPE_SHARES, unanswerable)
    rng = Random(f"{world.seed}/questions/{split}/{seed}")
    found = list(islice(_stream(world, split, kinds, rng), n))
    if len(found) < n:
        raise DataError(
            f"world: {n} {split} questions wanted, but only about {len(found)} of these hops and shapes exist",
            cure="ask for fewer, of another mix, or make the world larger (size, absent_share, held_out)",
        )
    return found


def _kinds(hops: Mapping[int, float], shapes: Mapping[str, float], unanswerable: float) -> dict[_Kind, float]:
    """The weight of each kind of question."""
    _check(hops, shapes, unanswerable)
    weights: dict[_Kind, float] = defaultdict(float)
    total = sum(shapes.values())
    for (depth, of_depth), (name, of_shape) in product(hops.items(), shapes.items()):
        shape = name if depth else "basic"
        # An anchor alone is always found: its clues are facts that stand somewhere.
        lost = unanswerable if depth > (shape == "reverse_union") else 0.0
        for answerable, share in ((True, 1 - lost), (False, lost)):
            weights[depth, shape, answerable] += of_depth * of_shape / total * share
    return {kind: weight for kind, weight in weights.items() if weight > 0}


def _stream(world: World, split: Split, kinds: dict[_Kind, float], rng: Random) -> Iterator[Problem]:
    seen: set[Query] = set()
    left = dict(kinds)
    while left:
        kind = rng.choices(list(left), weights=list(left.values()))[0]
        query = _find(world, split, kind, seen, rng)
        if query is None:
            del left[kind]
            continue
        seen.add(query)
        yield problem_of(world, query, rng)


def _find(world: World, split: Split, kind: _Kind, seen: set[Query], rng: Random) -> Query | None:
    """A new question of a kind; None where there seem to be no more."""
    depth, shape, answerable = kind
    for _ in range(_PATIENCE if depth or world.unasked else 0):
        query = draw_query(world, shape, depth, rng)
        if query is None or query in seen or (depth and is_answerable(query, world) != answerable):
            continue
        if side_of(query, world) == split:
            return query
    return None


def problem_of(world: World, query: Query, rng: Random) -> Problem:
    """The problem that asks a question, in a wording drawn at random.

    Its `meta`:

    - ``hops``, ``shape``, ``answerable``, ``form`` (the `Query`);
    - ``facts``: every fact asked about, with ``taught``, ``stated``, ``needed`` and the ids of its ``documents``;
    - ``least_searches`` and ``needed_documents``: a list of ids for each page that must be read, any of which will do;
    - ``gold_documents``: every document on which a needed fact stands, or would stand;
    - ``answers``: accepted spellings of each member of the answer; ``golds``: those of the answer as a whole;
    - ``aliases``: ``golds`` but the answer itself; ``gold_entities``: the members.
    """
    facts = {fact: fact.key for branch in branches(query, world) for fact in branch}
    wanted, pages = needed(query, world), missing_pages(query, world)
    members = solve(query, {f.key: f.objects if f.stated else () for f in facts}) or ()
    accepted = [spellings(name, world.by_name[name].kind) for name in members] or [list(UNKNOWN_SPELLINGS)]
    answer = JOIN.join(members) or words.UNKNOWN
    golds = [answer, *(accepted[0][1:] if len(accepted) == 1 else ())]
    meta: dict[str, Any] = {
        "hops": query.hops,
        "shape": query.shape,
        "answerable": bool(members),
        "least_searches": 0 if query.given else len(pages),
        "needed_documents": [] if query.given else [world.documents_of(page) for page in pages],
        "gold_documents": [id for page in dict.fromkeys(f.page for f in wanted) for id in world.documents_of(page)],
        "facts": [
            {"subject": fact.subject, "relation": fact.relation, "objects": list(fact.objects), "taught": fact.taught}
            | {"stated": fact.stated, "needed": fact in wanted, "documents": world.documents_of(fact.page)}
            for fact in facts
        ],
        "answers": accepted,
        "golds": golds,
        "aliases": golds[1:],
        "gold_entities": list(members),
        "form": query.to_json(),
    }
    return Problem(
        id=_id(world, query),
        prompt=_wording(world, query, rng),
        answer=answer,
        task=TASK,
        difficulty=float(len(wanted)),
        meta=meta,
    )


def _id(world: World, query: Query) -> str:
    return f"world-{hashlib.sha256(f'{world.seed}/{query}'.encode()).hexdigest()[:16]}"


def _wording(world: World, query: Query, rng: Random) -> str:
    direct = len(query.paths) == 1 and len(query.paths[0]) == 1 and bool(query.starts)
    if query.given or (direct and rng.random() < 0.5):
        relation, subject = query.paths[0][0], query.starts[0]
        question = RELATIONS[relation].question.format(s=subject)
        if not query.given:
            return f"{question} ?"
        fact = world.facts[subject, relation]
        return words.GIVEN.format(fact=fact.sentence(rng.randrange(world.wordings)), question=question)
    many = len(query.paths) > 1 or any(not RELATIONS[path[-1]].is_function for path in query.paths if path)
    return rng.choice(words.QUESTIONS_MANY if many else words.QUESTIONS_ONE).format(_asked(query))


def _asked(query: Query) -> str:
    starts = query.starts or (f"the {anchor_phrase(query)}",) * len(query.paths)
    return words.AND.join(
        "".join(f"the {RELATIONS[relation].noun} of " for relation in reversed(path)) + start
        for start, path in zip(starts, query.paths, strict=True)
    )


def anchor_phrase(query: Query) -> str:
    """How an anchor is described: ``person born in X and taught by Y``."""
    kind = RELATIONS[query.clues[0][0]].subject
    clues = words.AND.join(RELATIONS[relation].clue.format(o=name) for relation, name in query.clues)
    return words.QUERY_ANCHOR.format(kind=kind, clues=clues)


def single_fact(world: World, subject: str, relation: str) -> Query:
    """The question for one fact.

    Raises:
        DataError: there is no such fact.
    """
    entity = world.by_name.get(subject)
    if entity is None or relation not in {r.name for r in world.relations_of(entity.kind)}:
        raise DataError(f"world: nothing is true of {subject!r} and {relation!r}", cure="see World.facts for the keys")
    return Query("basic", ((relation,),), (subject,))


def _check(hops: Mapping[int, float], shapes: Mapping[str, float], unanswerable: float) -> None:
    if wrong := [key for key in hops if key not in HOPS]:
        raise RecipeError(f"world: hops has {wrong[0]!r}", cure="questions have 0, 1, 2 or 3 hops")
    if wrong := [key for key in shapes if key not in SHAPES]:
        raise RecipeError(f"world: shapes has {wrong[0]!r}", cure=f"shapes are {', '.join(SHAPES)}")
    for name, weights in (("hops", hops), ("shapes", shapes)):
        if min(weights.values()) < 0 or not sum(weights.values()) > 0:
            raise RecipeError(f"world: {name} is {dict(weights)}", cure="weights are not negative, and one is positive")
    if not 0 <= unanswerable <= 1:
        raise RecipeError(f"world: unanswerable is {unanswerable}", cure="make it a share from 0 to 1")
