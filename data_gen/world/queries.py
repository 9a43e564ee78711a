"""What is asked, as a form that a program can evaluate: chains of relations, unions of them, and anchors by clues.

- ``basic``: a chain from a named entity, ``the capital of the home of X``;
- ``union``: two such chains, the answer being everything that either leads to;
- ``reverse_union``: the entity is not named, but is the only one that two clues fit, and one or two chains lead on from
  it.

The shapes are those of WebLeaper (arXiv:2510.24697); that clues come in pairs and unions are of two is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from laconic.data_gen.split import Split, side
from laconic.data_gen.world.world import Fact, Key, World

Shape: TypeAlias = Literal["basic", "union", "reverse_union"]
SHAPES: tuple[Shape, ...] = ("basic", "union", "reverse_union")

Known: TypeAlias = Mapping[Key, tuple[str, ...]]
"""What somebody knows: the objects, or nothing where they know that it stands nowhere."""


@dataclass(frozen=True, slots=True)
class Query:
    """One question, without its wording."""

    shape: Shape
    paths: tuple[tuple[str, ...], ...]
    """Names of relations to follow, in order; only the last of a path may be a set."""
    starts: tuple[str, ...] = ()
    """The named entity that each path begins at; empty where clues name it."""
    clues: tuple[tuple[str, str], ...] = ()
    """Relation and object, each a function, that only the anchor has together."""
    given: bool = False
    """The fact is told along with the question, so that nothing need be known."""

    @property
    def hops(self) -> int:
        """The longest chain of facts that depend on each other; finding an anchor is one."""
        return 0 if self.given else bool(self.clues) + max(map(len, self.paths))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        lists = {"paths": [list(path) for path in self.paths], "clues": [list(clue) for clue in self.clues]}
        return {"shape": self.shape, **lists, "starts": list(self.starts), "given": self.given}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Query:
        """The inverse of `to_json`, also after a way through JSON."""
        pairs = {key: tuple(map(tuple, row[key])) for key in ("paths", "clues")}
        return cls(row["shape"], pairs["paths"], tuple(row["starts"]), pairs["clues"], row["given"])


def solve(query: Query, known: Known) -> tuple[str, ...] | None:
    """Answer from what is known, and from nothing else.

    Returns:
        The names in alphabetical order; none where a fact on the way is known to stand nowhere; None where what is
        known does not suffice.
    """
    starts = query.starts or _anchors(query, known)
    ends = [_follow(start, path, known) for start, path in zip(starts, query.paths, strict=False)]
    if () in ends:
        return ()
    if None in ends or len(ends) < len(query.paths):
        return None
    return tuple(sorted({name for end in ends for name in end or ()}))


def _anchors(query: Query, known: Known) -> tuple[str, ...]:
    (relation, name), *others = query.clues
    found = [subject for (subject, about), objects in known.items() if about == relation and name in objects]
    fitting = [s for s in found if all(other in known.get((s, about), ()) for about, other in others)]
    return tuple(fitting[:1]) * len(query.paths)


def _follow(start: str, path: Sequence[str], known: Known) -> tuple[str, ...] | None:
    here: tuple[str, ...] | None = (start,)
    for relation in path:
        if not here:
            return here
        here = known.get((here[0], relation))
    return here


def branches(query: Query, world: World) -> list[list[Fact]]:
    """The facts along each path, in order; for an anchor the facts of the clues come first as a branch of their own."""
    found = []
    starts = query.starts
    if query.clues:
        (anchor,) = anchors(query.clues, world)
        found.append([world.facts[anchor, relation] for relation, _ in query.clues])
        starts = (anchor,) * len(query.paths)
    for name, path in zip(starts, query.paths, strict=True):
        facts = []
        for relation in path:
            facts.append(world.facts[name, relation])
            name = facts[-1].objects[0]
        found.append(facts)
    return found


def anchors(clues: Sequence[tuple[str, str]], world: World) -> frozenset[str]:
    """Everybody whom all clues fit."""
    return frozenset.intersection(*(world.subjects_of[clue] for clue in clues))


def needed(query: Query, world: World) -> list[Fact]:
    """The facts that an answer takes, in the order in which they are learned.

    Where a path ends in a fact that is nowhere, the answer is unknown whatever the other path leads to, so the other
    one is not needed.
    """
    if query.given:
        return []
    found = branches(query, world)
    clues, paths = (found[0], found[1:]) if query.clues else ([], found)
    lost = [path for path in paths if path and not path[-1].stated]
    facts = [*clues, *(fact for path in lost[:1] or paths for fact in path)]
    return list(dict.fromkeys(facts))


def missing_pages(query: Query, world: World) -> list[str]:
    """The pages one has to read who knows what is taught, in order; their number is the least number of searches.

    A fact that is not taught stands on exactly one page, and reading a page brings in all of it. So this counts one
    search per missing fact, and one only for facts that share a page. That a fact is nowhere is known to whoever read
    the page on which it would stand. A search is taken to bring in one page; see `laconic.data_gen.world.audit` for
    searches that bring in more.
    """
    return list(dict.fromkeys(fact.page for fact in needed(query, world) if not fact.taught))


def side_of(query: Query, world: World) -> Split | None:
    """The split a question belongs to; None where it may be asked in neither.

    Facts that are not taught decide: all must be on the same side, so that no question held out for testing uses one
    that a training question uses. Where all are taught, the set of facts decides, whatever the wording or the shape.
    """
    facts = [fact for branch in branches(query, world) for fact in branch]
    sides = {world.fact_side(fact.key) for fact in facts if not fact.taught}
    if sides:
        return sides.pop() if len(sides) == 1 else None
    keys = sorted({"/".join(fact.key) for fact in facts})
    return side(f"world/{world.seed}/{'//'.join(keys)}", world.held_out)
