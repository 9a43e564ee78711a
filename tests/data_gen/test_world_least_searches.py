"""The least number of searches, by brute force: a reader that knows no more than texts say tries every set of pages.

The reader takes questions and documents as texts alone. It shares the sentences' templates with the generator, and
nothing else: neither the world's facts, nor its pages, nor its solver.
"""

from __future__ import annotations

import re
from itertools import combinations, product

import pytest

from laconic.data_gen.world.closed_book import statements
from laconic.data_gen.world.questions import draw_questions
from laconic.data_gen.world.schema import RELATIONS
from laconic.data_gen.world.world import World

NAME = "[a-z]+(?: [a-z]+)?"
PATTERNS = [
    (relation, re.compile(statement.format(s=f"(?P<s>{NAME})", o=f"(?P<o>{NAME}(?: ; {NAME})*)")))
    for relation in RELATIONS.values()
    for statement in relation.statements
]
EVERYTHING = "*"


class Reader:
    """Knows what it has read: (subject, noun) -> names; on a page that should say it and does not, no names."""

    def __init__(self, names):
        self.names = names

    def sentence(self, text):
        found = {}
        for relation, pattern in PATTERNS:
            match = pattern.fullmatch(text)
            if match and match["s"] in self.names and self.names.issuperset(match["o"].split(" ; ")):
                found[match["s"], relation.noun] = tuple(match["o"].split(" ; "))
        assert len(found) == 1, text
        return found

    def document(self, document):
        subject, _, topics = document.title.partition(" : ")
        known = {(subject, noun): () for noun in topics.split(" , ")} if topics else {(subject, EVERYTHING): ()}
        for text in document.text.removesuffix(" .").split(" . "):
            known |= {} if " is a " in text else self.sentence(text)
        return known

    def parse(self, text):
        """The question as nested lists, from its words."""
        for relation in RELATIONS.values():
            match = re.fullmatch(relation.question.format(s=f"(?P<s>{NAME})") + r" \?", text)
            if match and match["s"] in self.names:
                return [("of", relation.noun, match["s"])]
        text = re.fullmatch(r"(?:what is|what are|name|list|tell me) (.*) [.?]", text)[1]
        asked = []
        while text:
            phrase, text = self.phrase(text)
            asked.append(phrase)
            text = text.removeprefix(" and ")
        return asked

    def phrase(self, text):
        if match := re.match(r"the (\w+) of (.*)", text):
            inner, rest = self.phrase(match[2])
            return ("of", match[1], inner), rest
        if text.startswith("the "):
            _, text = text.removeprefix("the ").split(" ", 1)
            first, text = self.clue(text)
            second, text = self.clue(text.removeprefix(" and "))
            return ("who", first, second), text
        words = text.split()
        return " ".join(words[:2]), text.removeprefix(" ".join(words[:2]))

    def clue(self, text):
        for relation in RELATIONS.values():
            if relation.clue and (match := re.match(relation.clue.format(o=r"(\w+ \w+)"), text)):
                return (relation.noun, match[1]), text[match.end() :]
        raise AssertionError(text)

    def answer(self, asked, known):
        """The set of names; empty for unknown; None where what is known does not suffice."""
        found = [self.resolve(phrase, known) for phrase in asked]
        if any(names == set() for names in found):
            return set()
        return None if None in found else set().union(*found)

    def resolve(self, phrase, known):
        if isinstance(phrase, str):
            return {phrase}
        kind, first, second = phrase
        if kind == "who":
            fit = [s for (s, noun), names in known.items() if noun == first[0] and first[1] in names]
            fit = {s for s in fit if second[1] in known.get((s, second[0]), ())}
            return fit or None
        inner = self.resolve(second, known)
        if not inner:
            return inner
        (subject,) = inner
        names = known.get((subject, first), known.get((subject, EVERYTHING)))
        return None if names is None else set(names)


OPTIONS = {
    "whole articles": {"facts_per_document": 4},
    "one fact a page": {"facts_per_document": 1, "distractors": 0.1},
    "two facts a page, entities taught": {"facts_per_document": 2, "taught_by": "entity", "distractors": 0.2},
    "nothing taught": {"taught_share": 0.0, "distractors": 0.0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_fewer_searches_suffice_and_the_least_do(options, seed):
    world = World(**{"seed": seed, "size": 40, "absent_share": 0.1, "distractors": 0.3, **options})
    reader = Reader({entity.name for entity in world.entities})
    pages = [reader.document(document) for document in world.documents]
    by_id = {document.id: page for document, page in zip(world.documents, pages, strict=True)}
    taught = {}
    for row in statements(world, repeats=1):
        taught |= reader.sentence(row["completion"].removesuffix(" ."))
    problems = draw_questions(
        world, "train", 80, hops={1: 1, 2: 1, 3: 1}, shapes={"basic": 1, "union": 1, "reverse_union": 1}, seed=seed
    )
    tried = 0
    for problem in problems:
        asked, least = reader.parse(problem.prompt), problem.meta["least_searches"]
        gold = set(problem.meta["gold_entities"])
        assert (problem.answer == "unknown") == (gold == set())
        for choice in product(*problem.meta["needed_documents"]):
            assert len(choice) == least
            assert reader.answer(asked, merged(taught, [by_id[id] for id in choice])) == gold
        # More pages never make an answer impossible, so sets of one fewer page stand for all smaller ones.
        if 0 < least <= 3:
            tried += 1
            for fewer in combinations(pages, least - 1):
                assert reader.answer(asked, merged(taught, fewer)) is None
    assert tried > 20
    assert {problem.meta["answerable"] for problem in problems} == {True, False}


def merged(taught, pages):
    known = dict(taught)
    for page in pages:
        known |= page
    return known


def test_the_reader_needs_what_it_reads():
    """The brute force can fail: with a page less nothing is found out, and a wrong page gives a wrong answer."""
    reader = Reader({"a b", "c d", "e f"})
    asked = reader.parse("what is the mayor of the capital of a b ?")
    assert asked == [("of", "mayor", ("of", "capital", "a b"))]
    first, second = {("a b", "capital"): ("c d",)}, {("c d", "mayor"): ("e f",)}
    assert reader.answer(asked, first) is None
    assert reader.answer(asked, first | second) == {"e f"}
    assert reader.answer(asked, first | {("c d", EVERYTHING): ()}) == set()
    assert reader.parse("name the person born in a b and taught by c d .") == [
        ("who", ("birthplace", "a b"), ("mentor", "c d"))
    ]
