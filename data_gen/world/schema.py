"""What there is in the world: kinds of entities, relations between them, and the words that say so.

Every text is lower case and made of whitespace-separated words, so that one token per word is a fit tokenizer. No
relation is the inverse of another, nor follows from others: knowing one fact never tells a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["person", "city", "company", "country", "book", "good", "language"]

SHARES: dict[Kind, float] = {"person": 0.45, "city": 0.2, "company": 0.2, "country": 0.08, "book": 0.07}
"""Kinds with articles of their own, and their share of all entities."""
LEAVES: tuple[Kind, ...] = ("good", "language")
"""Kinds that occur as objects only: they have a name and no article."""

JOIN, END = " ; ", " ."
"""Between the members of a set, and after a sentence."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation from one kind of entity to another, and how to speak of it."""

    name: str
    subject: Kind
    object: Kind
    noun: str
    """Fits into ``the <noun> of <subject>``."""
    statements: tuple[str, ...]
    """Sentences with ``{s}`` and ``{o}``; each says the fact, no two with the same words. The first uses the noun."""
    question: str
    """A direct question with ``{s}``; longer chains are asked with the noun."""
    clue: str = ""
    """Fits into ``the <kind> <clue>``; empty where the object cannot identify a subject."""
    members: tuple[int, int] = (1, 1)
    """Least and largest number of objects; (1, 1) makes the relation a function, anything else a set."""

    @property
    def is_function(self) -> bool:
        """Whether a subject has exactly one object."""
        return self.members == (1, 1)


RELATIONS: dict[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation(
            name="born_in",
            subject="person",
            object="city",
            noun="birthplace",
            statements=("the birthplace of {s} is {o}", "{s} was born in {o}", "{o} is where {s} came into the world"),
            question="where was {s} born",
            clue="born in {o}",
        ),
        Relation(
            name="works_for",
            subject="person",
            object="company",
            noun="employer",
            statements=("the employer of {s} is {o}", "{s} works for {o}", "{o} pays the wages of {s}"),
            question="which company does {s} work for",
            clue="employed by {o}",
        ),
        Relation(
            name="taught_by",
            subject="person",
            object="person",
            noun="mentor",
            statements=("the mentor of {s} is {o}", "{s} was taught by {o}", "{o} gave lessons to {s}"),
            question="who taught {s}",
            clue="taught by {o}",
        ),
        Relation(
            name="speaks",
            subject="person",
            object="language",
            noun="languages",
            statements=("the languages of {s} are {o}", "{s} speaks {o}", "{o} can be heard from {s}"),
            question="which languages does {s} speak",
            members=(2, 3),
        ),
        Relation(
            name="led_by",
            subject="city",
            object="person",
            noun="mayor",
            statements=("the mayor of {s} is {o}", "{s} is led by {o}", "{o} runs the town hall of {s}"),
            question="who leads {s}",
            clue="led by {o}",
        ),
        Relation(
            name="built_by",
            subject="city",
            object="company",
            noun="builder",
            statements=("the builder of {s} is {o}", "{s} was built by {o}", "{o} laid the streets of {s}"),
            question="which company built {s}",
            clue="built by {o}",
        ),
        Relation(
            name="twinned_with",
            subject="city",
            object="city",
            noun="partners",
            statements=("the partners of {s} are {o}", "{s} is twinned with {o}", "{o} send guests to {s}"),
            question="which cities is {s} twinned with",
            members=(2, 2),
        ),
        Relation(
            name="based_in",
            subject="company",
            object="country",
            noun="home",
            statements=("the home of {s} is {o}", "{s} is based in {o}", "{o} hosts the offices of {s}"),
            question="where is {s} based",
            clue="based in {o}",
        ),
        Relation(
            name="founded_by",
            subject="company",
            object="person",
            noun="founder",
            statements=("the founder of {s} is {o}", "{s} was founded by {o}", "{o} set up {s}"),
            question="who founded {s}",
            clue="founded by {o}",
        ),
        Relation(
            name="makes",
            subject="company",
            object="good",
            noun="goods",
            statements=("the goods of {s} are {o}", "{s} makes {o}", "{o} come out of the plants of {s}"),
            question="what does {s} make",
            members=(2, 3),
        ),
        Relation(
            name="governed_from",
            subject="country",
            object="city",
            noun="capital",
            statements=("the capital of {s} is {o}", "{s} is governed from {o}", "{o} seats the parliament of {s}"),
            question="from where is {s} governed",
            clue="governed from {o}",
        ),
        Relation(
            name="written_by",
            subject="book",
            object="person",
            noun="author",
            statements=("the author of {s} is {o}", "{s} was written by {o}", "{o} is the pen behind {s}"),
            question="who wrote {s}",
            clue="written by {o}",
        ),
        Relation(
            name="printed_by",
            subject="book",
            object="company",
            noun="publisher",
            statements=("the publisher of {s} is {o}", "{s} was printed by {o}", "{o} brought {s} to the shops"),
            question="which company printed {s}",
            clue="printed by {o}",
        ),
    )
}
"""By name."""

RELATIONS_OF: dict[Kind, tuple[Relation, ...]] = {
    kind: tuple(relation for relation in RELATIONS.values() if relation.subject == kind) for kind in SHARES
}
"""What one can know about an entity, in the order of its article."""

ALIASES: dict[Kind, str] = {
    "city": "the city of {}",
    "company": "the {} company",
    "country": "the land of {}",
    "book": "the book {}",
}
"""A second accepted spelling, by kind; people are also accepted family name first, with a comma."""


def spellings(name: str, kind: Kind) -> list[str]:
    """What is accepted for a name, the name itself first.

    >>> spellings("bano keli", "person")
    ['bano keli', 'keli, bano']
    """
    if kind == "person":
        first, last = name.split()
        return [name, f"{last}, {first}"]
    return [name, ALIASES[kind].format(name)] if kind in ALIASES else [name]
