"""How somebody who knows the taught facts, and nothing else, answers: recall, search for what is missing, read, answer.

The teacher is a generator: it yields a search, is sent the documents that were found, and returns its last thought and
its answer. It never searches for what it was taught, was told, or has read already, so with searches that bring in one
page each it makes ``least_searches`` of them; a search that happens to bring in more pages makes later ones needless.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from laconic.data_gen.world import words
from laconic.data_gen.world.queries import Query, branches, needed, solve
from laconic.data_gen.world.questions import anchor_phrase
from laconic.data_gen.world.schema import JOIN, RELATIONS
from laconic.data_gen.world.world import Fact, World
from laconic.inference.retrieval.documents import Document


@dataclass(frozen=True, slots=True)
class Lookup:
    """A search that the teacher makes."""

    thought: str
    query: str
    page: str
    """The page that it is for; an episode that does not get it cannot go on."""
    needless: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """How the teacher ends."""

    thought: str
    answer: str
    guessed: bool = False
    """It answered before it had looked up everything."""


Lesson: TypeAlias = Generator[Lookup, Sequence[Document], Ending]


def page_of(document_id: str) -> str:
    """The page that a document is a wording of."""
    return document_id.rpartition("-")[0]


class Teacher:
    """Answers one question.

    Args:
        world: In which it is asked.
        query: What is asked.
        rng: Draws wordings, and where needless searches and the premature answer are put.
        needless: Searches to make though their fact is known. [searches]
        premature: Answer in the place of one of the searches that are missing, with a wrong guess or by giving up. A
            question that takes no search is answered as ever.
    """

    def __init__(self, world: World, query: Query, rng: Random, *, needless: int = 0, premature: bool = False) -> None:
        self.world, self.query, self.rng = world, query, rng
        told = [fact for branch in branches(query, world) for fact in branch] if query.given else []
        self.told = frozenset(told)
        self.facts = told or self._ordered(needed(query, world))
        self.doubts = rng.choices(self._doubtful(), k=needless)
        missing = sorted({fact.page for fact in self.facts if not fact.taught and fact not in self.told})
        self.guess_at = rng.choice(missing) if premature and missing else None
        self.read: set[str] = set()

    def _ordered(self, facts: list[Fact]) -> list[Fact]:
        # Whoever looks for an anchor recalls what they know of it only once it has a name.
        clues = facts[: len(self.query.clues)]
        return [*sorted(clues, key=lambda fact: fact.taught), *facts[len(clues) :]]

    def _doubtful(self) -> list[int]:
        """Facts that can be looked up again for nothing: their page is not one that has yet to be read."""
        missing = [place for place, fact in enumerate(self.facts) if not (fact.taught or fact in self.told)]
        first = {self.facts[place].page: place for place in reversed(missing)}
        return [place for place, fact in enumerate(self.facts) if first.get(fact.page, 0) <= place]

    def lesson(self) -> Lesson:
        """The episode, search by search."""
        thoughts: list[str] = []
        for place, fact in enumerate(self.facts):
            if not self._knows(fact):
                if fact.page == self.guess_at:
                    return self._guess(thoughts, fact)
                yield from self._look_up(thoughts, fact, needless=False)
                thoughts = []
            thoughts.append(self._learned(fact))
            for _ in range(self.doubts.count(place)):
                yield from self._look_up(thoughts, fact, needless=True)
                thoughts = [self._read(fact)]
        return Ending(" ".join(thoughts), self._answer())

    def _knows(self, fact: Fact) -> bool:
        return fact.taught or fact in self.told or fact.page in self.read

    def _look_up(
        self, thoughts: list[str], fact: Fact, *, needless: bool
    ) -> Generator[Lookup, Sequence[Document], None]:
        # Both what is thought and what is searched for name the anchor only after it was found.
        by_clues = not needless and fact in self.facts[: len(self.query.clues)] and not self._anchor_found()
        words_of = {"noun": RELATIONS[fact.relation].noun, "s": fact.subject}
        if by_clues:
            asked = anchor_phrase(self.query)
            thought = words.MISSING_ANCHOR.format(kind=asked.split()[0], clues=asked.partition(" ")[2])
        else:
            asked = words.QUERY.format(**words_of)
            thought = (words.DOUBT if needless else words.MISSING).format(**words_of)
        found = yield Lookup(" ".join([*thoughts, thought]), asked, fact.page, needless)
        self.read |= {page_of(document.id) for document in found}

    def _anchor_found(self) -> bool:
        clues = self.facts[: len(self.query.clues)]
        return any(fact.page in self.read for fact in clues)

    def _learned(self, fact: Fact) -> str:
        if fact in self.told:
            return words.TOLD.format(fact=self._sentence(fact))
        return words.RECALL.format(fact=self._sentence(fact)) if fact.taught else self._read(fact)

    def _read(self, fact: Fact) -> str:
        if fact.stated:
            return words.READ.format(fact=self._sentence(fact))
        return words.NOWHERE.format(noun=RELATIONS[fact.relation].noun, s=fact.subject)

    def _sentence(self, fact: Fact) -> str:
        return fact.sentence(self.rng.randrange(self.world.wordings))

    def _answer(self) -> str:
        known = {fact.key: fact.objects if fact.stated else () for fact in self.facts}
        return JOIN.join(solve(self.query, known) or ()) or words.UNKNOWN

    def _guess(self, thoughts: list[str], fact: Fact) -> Ending:
        """A wrong answer of the right kind, or giving up, in the place of a search."""
        relation = RELATIONS[fact.relation]
        if self.rng.random() < 0.5:
            give_up = words.GIVE_UP.format(noun=relation.noun, s=self._safe_subject(fact))
            return Ending(" ".join([*thoughts, give_up]), words.UNKNOWN, guessed=True)
        return Ending(" ".join([*thoughts, words.GUESS]), self._wrong(), guessed=True)

    def _safe_subject(self, fact: Fact) -> str:
        hidden = fact in self.facts[: len(self.query.clues)] and not self._anchor_found()
        return f"the {anchor_phrase(self.query)}" if hidden else fact.subject

    def _wrong(self) -> str:
        ends = [branch[-1] for branch in branches(self.query, self.world) if branch]
        right = {name for end in ends for name in (end.subject, *end.objects)}
        last = ends[-1]
        anchor_only = bool(self.query.clues) and not any(self.query.paths)
        example = last.subject if anchor_only else last.objects[0]
        kind = self.world.by_name[example].kind
        names = [e.name for e in self.world.entities if e.kind == kind and not e.distractor and e.name not in right]
        return JOIN.join(sorted(self.rng.sample(names, min(len(names), 1 if anchor_only else len(last.objects)))))
