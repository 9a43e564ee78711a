"""`problems:` that ask for knowledge: questions of a synthetic world, and published question-answering sets."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, Strict, model_validator

from laconic.recipes.strict import Count, Fraction, Listed, NotEmpty, StrictModel, mistake, raise_all, suggest

if TYPE_CHECKING:
    from laconic.data_gen.world.world import World

Weight = Annotated[float, Field(ge=0.0)]
Depth = Annotated[int, Strict(False)]
"""Keys are texts once a recipe has gone through JSON."""
_OF_WORLD = ("size", "distractors", "paraphrases", "wordings", "facts_per_document", "sets", "spare_names")
_OF_TEACHING = ("taught_share", "taught_by", "absent_share", "held_out")


class WorldProblems(StrictModel):
    """Questions about a synthetic encyclopaedia; the recipe's seed draws the world (`laconic.data_gen.world`)."""

    source: Literal["world"]
    size: Annotated[int, Field(ge=40, le=500_000)] = 200
    """Entities with an article that questions are about."""
    distractors: Annotated[float, Field(ge=0.0, le=10.0)] = 0.5
    """Further entities with names like theirs, per entity."""
    paraphrases: Annotated[int, Field(ge=1, le=3)] = 1
    """Documents of every page, each in another wording; at most `wordings`."""
    wordings: Annotated[int, Field(ge=1, le=3)] = 3
    """Ways in which each fact is said."""
    facts_per_document: Annotated[int, Field(ge=1, le=100)] = 4
    """Facts on a page; with 1, every fact takes a search of its own."""
    sets: bool = True
    """Some facts have several objects; without, every answer is a single name."""
    spare_names: Annotated[float, Field(ge=1.5, le=1000.0)] = 10.0
    """Names that exist for each one given out; with fewer, more are alike."""
    taught_share: Fraction = 0.5
    """Of the facts that stand in the corpus, those that are also taught closed-book."""
    taught_by: Literal["fact", "entity"] = "fact"
    absent_share: Fraction = 0.05
    """Facts that nobody wrote down: questions about them have the answer `unknown`."""
    held_out: Fraction = 0.3
    """Of the facts that are not taught, and of the questions about taught ones, those for testing."""
    hops: dict[Depth, Weight] | None = None
    """Weights of depths from 0 to 3; unset means those of `draw_questions`."""
    shapes: dict[str, Weight] | None = None
    """Weights of basic, union and reverse_union."""
    unanswerable: Fraction = 0.1
    """Of the questions, those that ask for a fact that is nowhere."""
    known: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Of the questions, those for a single taught fact, evenly among the others for as long as there are any; the rest
    then need a search or tell their fact. Unset: as they fall."""
    train: Count
    """How many training questions."""
    test: Count
    """How many held-out questions; none of them shares a fact with a training question, unless it is taught."""

    @model_validator(mode="after")
    def _weights_exist(self) -> Self:
        from laconic.data_gen.world.queries import SHAPES
        from laconic.data_gen.world.questions import HOPS

        wrong = []
        for key, legal in (("hops", HOPS), ("shapes", SHAPES)):
            weights: dict[Any, float] = getattr(self, key) or {}
            listed = ", ".join(map(str, legal))
            wrong += [mistake((key, name), f"unknown; legal: {listed}") for name in weights if name not in legal]
            if getattr(self, key) is not None and not sum(weights.values()) > 0:
                wrong.append(mistake((key,), f"give at least one a positive weight; legal: {listed}"))
        if self.paraphrases > self.wordings:
            wrong.append(mistake(("paraphrases",), f"found {self.paraphrases}; there are {self.wordings} wordings"))
        raise_all(wrong)
        return self

    def world(self, seed: int) -> World:
        """The world itself; equal ones are the same object, so that each is built once in a process.

        Args:
            seed: The recipe's.
        """
        return _shared(seed, *((name, getattr(self, name)) for name in (*_OF_WORLD, *_OF_TEACHING)))


@cache
def _shared(seed: int, *options: tuple[str, Any]) -> World:
    from laconic.data_gen.world.world import World

    return World(seed=seed, **dict(options))


def _qa_set(name: str) -> str:
    from laconic.data_gen.qa_sets import QA_SETS

    if name not in QA_SETS:
        raise ValueError(f"unknown question-answering set {name!r}; {suggest(name, QA_SETS)}")
    return name


QaName = Annotated[str, AfterValidator(_qa_set)]


class QaProblems(StrictModel):
    """Questions of published data sets on the Hugging Face hub (`laconic.data_gen.qa_sets`)."""

    source: Literal["qa"]
    train: Annotated[tuple[QaName, ...], Listed, NotEmpty]
    """Names from `laconic.data_gen.qa_sets.QA_SETS`, whose training questions take turns."""
    test: Annotated[tuple[QaName, ...], Listed, NotEmpty]
    """Of these the questions that papers report on."""
    limit_train: Count | None = None
    """Use only the first so many questions, all sets together."""
    limit_test: Count | None = None

    @model_validator(mode="after")
    def _splits_exist(self) -> Self:
        from laconic.data_gen.qa_sets import QA_SETS

        lacking = [name for name in self.train if "train" not in QA_SETS[name].splits]
        wrong = [mistake(("train",), f"{name} has no training questions") for name in lacking]
        for split in ("train", "test"):
            names = getattr(self, split)
            if len(set(names)) < len(names):
                wrong.append(mistake((split,), "a data set is named twice"))
        raise_all(wrong)
        return self
