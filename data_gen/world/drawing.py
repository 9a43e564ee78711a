"""Questions drawn at random: one function per shape, each giving a sound question or none."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from laconic.data_gen.world.queries import Query, Shape, anchors, branches
from laconic.data_gen.world.schema import RELATIONS
from laconic.data_gen.world.world import Fact, World


def draw_query(world: World, shape: Shape, hops: int, rng: Random) -> Query | None:
    """A question of that shape and depth; None where the dice led nowhere.

    Args:
        world: Whose facts are asked about.
        shape: A key of `laconic.data_gen.world.queries.SHAPES`.
        hops: 1 or more; 0 gives a question that tells its fact, of ``basic`` shape whatever is asked for.
        rng: Where the choices come from.
    """
    if hops == 0:
        return _given(world, rng)
    query = _DRAWN[shape](world, hops, rng)
    return query if query is not None and _sound(query, world) else None


def _given(world: World, rng: Random) -> Query | None:
    fact = rng.choice(world.unasked)
    return Query("basic", ((fact.relation,),), (fact.subject,), given=True)


def _basic(world: World, hops: int, rng: Random) -> Query | None:
    start = rng.choice(world.subjects)
    path = _walk(world, start, hops, rng)
    return None if path is None else Query("basic", (path,), (start,))


def _union(world: World, hops: int, rng: Random) -> Query | None:
    starts = sorted(rng.sample(world.subjects, 2))
    lengths = [hops, rng.randint(1, hops)]
    rng.shuffle(lengths)
    paths = [_walk(world, start, length, rng) for start, length in zip(starts, lengths, strict=True)]
    return None if None in paths else Query("union", tuple(paths), tuple(starts))  # type: ignore[arg-type]


def _reverse_union(world: World, hops: int, rng: Random) -> Query | None:
    anchor = rng.choice(world.subjects)
    functions = [r.name for r in world.relations_of(world.by_name[anchor].kind) if r.clue]
    if len(functions) < 2:
        return None
    chosen = sorted(rng.sample(functions, 2))
    facts = [world.facts[anchor, relation] for relation in chosen]
    clues = tuple((fact.relation, fact.objects[0]) for fact in facts)
    if not all(fact.stated for fact in facts) or anchors(clues, world) != {anchor}:
        return None
    count = rng.randint(1, 2) if hops > 1 else 1
    paths = {_walk(world, anchor, hops - 1, rng) for _ in range(count)}
    if None in paths or any(path and path[0] in chosen for path in paths):
        return None
    return Query("reverse_union", tuple(sorted(paths)), clues=clues)  # type: ignore[arg-type]


_DRAWN: dict[Shape, Callable[[World, int, Random], Query | None]] = {
    "basic": _basic,
    "union": _union,
    "reverse_union": _reverse_union,
}


def _walk(world: World, start: str, hops: int, rng: Random) -> tuple[str, ...] | None:
    """Relations to follow, the facts before the last being stated functions; None at a dead end."""
    here, path = start, []
    for left in reversed(range(hops)):
        relations = world.relations_of(world.by_name[here].kind)
        choices = [r.name for r in relations if left == 0 or r.is_function]
        if not choices:
            return None
        path.append(rng.choice(choices))
        fact = world.facts[here, path[-1]]
        if left and not fact.stated:
            return None
        here = fact.objects[0]
    return tuple(path)


def _sound(query: Query, world: World) -> bool:
    """No fact comes twice, no answer is named in the question, ends differ and are alike, and at most one is lost."""
    found = branches(query, world)
    facts = [fact for branch in found for fact in branch]
    ends = [branch[-1] for branch in found[bool(query.clues) :] if branch]
    names = {*query.starts, *(name for _, name in query.clues), *(fact.subject for fact in facts)}
    answers = [name for end in ends for name in end.objects]
    return (
        len(set(facts)) == len(facts)
        and len(set(answers)) == len(answers)
        and names.isdisjoint(answers)
        and len({RELATIONS[end.relation].object for end in ends}) <= 1
        and sum(not end.stated for end in ends) <= 1
    )


def is_answerable(query: Query, world: World) -> bool:
    """Whether every fact that the question asks for stands in the corpus."""
    facts: list[Fact] = [fact for branch in branches(query, world) for fact in branch]
    return all(fact.stated for fact in facts)
