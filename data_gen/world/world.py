"""The world itself: entities, facts and articles, all of them functions of a seed and a few sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Literal, TypeAlias

from laconic.data_gen.split import Split, side
from laconic.data_gen.world.names import Namer
from laconic.data_gen.world.schema import END, JOIN, LEAVES, RELATIONS, RELATIONS_OF, SHARES, Kind, Relation
from laconic.data_gen.world.words import TEMPLATE_WORDS
from laconic.inference.retrieval.documents import Document
from laconic.rewards.errors import RecipeError

Key: TypeAlias = tuple[str, str]
"""Subject and relation: what one can know."""

WORDINGS = 3
"""Ways to say each fact."""
_FEWEST = 40


@dataclass(frozen=True, slots=True)
class Entity:
    """Somebody or something with a name."""

    name: str
    kind: Kind
    id: str
    distractor: bool = False
    """It is there to be confused with others: nothing is asked about it, nothing of it taught."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What is true of a subject, whether or not anyone wrote it down."""

    subject: str
    relation: str
    objects: tuple[str, ...]
    """Names in alphabetical order; one for a function."""
    page: str
    """The page of the subject's article that states the fact, or would if anyone knew it."""
    stated: bool = True
    """It stands in the corpus; if not, it is nowhere."""
    taught: bool = False
    """It is trained closed-book."""

    @property
    def key(self) -> Key:
        """What the fact is about."""
        return self.subject, self.relation

    def sentence(self, wording: int) -> str:
        """The fact in words, without a stop; `wording` is below `WORDINGS`."""
        return RELATIONS[self.relation].statements[wording].format(s=self.subject, o=JOIN.join(self.objects))


@dataclass(frozen=True)
class World:
    """A synthetic encyclopaedia.

    Each entity with relations of its own has one article, cut into pages of `facts_per_document` facts, each page
    written in `paraphrases` wordings. So there are about
    ``size * (1 + distractors) * paraphrases * pages`` documents.

    Args:
        seed: Equal options and seeds give equal worlds, in any process.
        size: Entities with an article that questions are about. [entities]
        distractors: Further entities with an article, whose names share a word with one of those. [per entity]
        paraphrases: Wordings of every page, at most `wordings`. [documents per page]
        wordings: Sentences in use for each fact, at most `WORDINGS`. With 1 every fact is always said with the noun
            that questions use, which is easiest for small models and for retrievers. [sentences]
        facts_per_document: Facts on a page; the kinds have 1 to 4. [facts]
        sets: Some facts have several objects, as what languages one speaks. Without, every answer is a single name.
        spare_names: Two-word names that exist for each one given out. With fewer more entities share a word, and are
            harder to tell apart for a retriever; with more the vocabulary grows, as the square root. [names per name]
        taught_share: Of the stated facts about entities that are no distractors, those that are trained
            closed-book. [share]
        taught_by: Draw single facts, or entities with all their facts.
        absent_share: Facts that nobody wrote down, so that what is asked about them has no answer. [share]
        held_out: Of the facts not taught and of the questions about taught ones, those for testing. [share]

    Raises:
        RecipeError: a size or share is out of range.
    """

    seed: int = 0
    size: int = 200
    distractors: float = 0.5
    paraphrases: int = 1
    wordings: int = WORDINGS
    facts_per_document: int = 4
    sets: bool = True
    spare_names: float = 10.0
    taught_share: float = 0.5
    taught_by: Literal["fact", "entity"] = "fact"
    absent_share: float = 0.05
    held_out: float = 0.3

    def __post_init__(self) -> None:
        _check("size", self.size, _FEWEST, 500_000)
        _check("distractors", self.distractors, 0, 10)
        _check("wordings", self.wordings, 1, WORDINGS)
        _check("paraphrases", self.paraphrases, 1, self.wordings)
        _check("spare_names", self.spare_names, 1.5, 1000)
        _check("facts_per_document", self.facts_per_document, 1, 100)
        for name in ("taught_share", "absent_share", "held_out"):
            _check(name, getattr(self, name), 0, 1)

    def rng(self, purpose: str) -> Random:
        """A source of randomness of its own for each purpose, the same in every process."""
        return Random(f"{self.seed}/{purpose}")

    @cached_property
    def entities(self) -> tuple[Entity, ...]:
        """Everybody and everything: those with articles by kind, then their distractors, then the leaves."""
        extra, leaves = round(self.size * self.distractors), max(6, round(self.size**0.5))
        rng = self.rng("names")
        single = leaves * len(LEAVES)
        namer = Namer(rng, self.size + extra, spare=self.spare_names, single=single, taken=TEMPLATE_WORDS)
        counts = _counts(self.size)
        own = [Entity(namer.name(), kind, f"{kind}-{n}") for kind, count in counts.items() for n in range(count)]
        alike = []
        for _ in range(extra):
            model = rng.choice(own)
            counts[model.kind] += 1
            id = f"{model.kind}-{counts[model.kind] - 1}"
            alike.append(Entity(namer.like(model.name), model.kind, id, distractor=True))
        ends = [Entity(namer.word(), kind, f"{kind}-{n}") for kind in LEAVES for n in range(leaves)]
        return (*own, *alike, *ends)

    @cached_property
    def by_name(self) -> Mapping[str, Entity]:
        """Entities by name."""
        return {entity.name: entity for entity in self.entities}

    @cached_property
    def facts(self) -> Mapping[Key, Fact]:
        """Everything that is true, by subject and relation, in the order of the entities."""
        truths, absent = self._truths, self._absent
        taught = self._drawn_taught(absent)
        return {
            key: Fact(*key, objects, self.page_of(*key), stated=key not in absent, taught=key in taught)
            for key, objects in truths.items()
        }

    @cached_property
    def _truths(self) -> dict[Key, tuple[str, ...]]:
        rng, pools = self.rng("facts"), defaultdict(list)
        for entity in self.entities:
            if not entity.distractor:
                pools[entity.kind].append(entity.name)
        return {
            (entity.name, relation.name): _objects(entity, relation, pools[relation.object], rng)
            for entity in self.entities
            for relation in self.relations_of(entity.kind)
        }

    @cached_property
    def _known(self) -> list[Key]:
        return [key for key in self._truths if not self.by_name[key[0]].distractor]

    @cached_property
    def _absent(self) -> frozenset[Key]:
        return frozenset(self.rng("absent").sample(self._known, round(self.absent_share * len(self._known))))

    def _drawn_taught(self, absent: frozenset[Key]) -> frozenset[Key]:
        rng, stated = self.rng("taught"), [key for key in self._known if key not in absent]
        if self.taught_by == "fact":
            return frozenset(rng.sample(stated, round(self.taught_share * len(stated))))
        names = list(dict.fromkeys(subject for subject, _ in stated))
        chosen = set(rng.sample(names, round(self.taught_share * len(names))))
        return frozenset(key for key in stated if key[0] in chosen)

    def relations_of(self, kind: Kind) -> tuple[Relation, ...]:
        """What one can know about an entity of a kind, in the order of its article; nothing of a leaf."""
        return tuple(relation for relation in RELATIONS_OF.get(kind, ()) if self.sets or relation.is_function)

    def page_of(self, subject: str, relation: str) -> str:
        """Where a fact stands, or would: the id of its documents but for the paraphrase."""
        entity = self.by_name[subject]
        place = self.relations_of(entity.kind).index(RELATIONS[relation])
        return f"{entity.id}-{place // self.facts_per_document}"

    def documents_of(self, page: str) -> list[str]:
        """The ids of a page's paraphrases; any of them says all of it."""
        return [f"{page}-{copy}" for copy in range(self.paraphrases)]

    @cached_property
    def documents(self) -> tuple[Document, ...]:
        """The corpus. A page on which nothing is known says what kind of thing its subject is."""
        return tuple(self._documents())

    def document(self, id: str) -> Document:
        """The document of that id."""
        return self._by_id[id]

    @cached_property
    def _by_id(self) -> Mapping[str, Document]:
        return {document.id: document for document in self.documents}

    def _documents(self) -> Iterator[Document]:
        rng = self.rng("wording")
        for entity in self.entities:
            relations = self.relations_of(entity.kind)
            for start in range(0, len(relations), self.facts_per_document):
                page = relations[start : start + self.facts_per_document]
                shifts = [rng.randrange(self.wordings) for _ in page]
                for copy in range(self.paraphrases):
                    id = f"{entity.id}-{start // self.facts_per_document}-{copy}"
                    title = entity.name if len(page) == len(relations) else _topics(entity, page)
                    yield Document(
                        id, self._text(entity, page, [(shift + copy) % self.wordings for shift in shifts]), title
                    )

    def _text(self, entity: Entity, page: tuple[Relation, ...], wordings: list[int]) -> str:
        facts = [self.facts[entity.name, relation.name] for relation in page]
        said = [fact.sentence(wording) for fact, wording in zip(facts, wordings, strict=True) if fact.stated]
        return " ".join(sentence + END for sentence in said or [f"{entity.name} is a {entity.kind}"])

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Whom questions can be about: everybody with an article but the distractors."""
        return tuple(e.name for e in self.entities if e.kind in RELATIONS_OF and not e.distractor)

    @cached_property
    def unasked(self) -> tuple[Fact, ...]:
        """What is true of distractors, which nobody is taught or asked to find."""
        return tuple(fact for fact in self.facts.values() if self.by_name[fact.subject].distractor)

    def fact_side(self, key: Key) -> Split:
        """Whether a fact that is not taught may be asked about in training or in testing; never in both."""
        return side(f"world/{self.seed}/{'/'.join(key)}", self.held_out)

    @cached_property
    def subjects_of(self) -> Mapping[tuple[str, str], frozenset[str]]:
        """Who has an object, by relation and object; distractors and facts that are nowhere included."""
        found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for (subject, relation), objects in self._truths.items():
            for name in objects:
                found[relation, name].add(subject)
        return {key: frozenset(names) for key, names in found.items()}


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RecipeError(f"world: {name} is {value}", cure=f"make it {low} to {high}")


def _counts(size: int) -> dict[Kind, int]:
    counts = {kind: max(2, round(size * share)) for kind, share in SHARES.items()}
    counts["person"] += size - sum(counts.values())
    return counts


def _objects(entity: Entity, relation: Relation, pool: list[str], rng: Random) -> tuple[str, ...]:
    count = rng.randint(*relation.members)
    # One more than needed, so that nobody stands in a relation to themselves.
    drawn = [name for name in rng.sample(pool, count + 1) if name != entity.name]
    return tuple(sorted(drawn[:count]))


def _topics(entity: Entity, page: tuple[Relation, ...]) -> str:
    return f"{entity.name} : {' , '.join(relation.noun for relation in page)}"
