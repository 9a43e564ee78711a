"""`problems:` of a recipe: where questions with checkable answers come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import InitErrorDetails

from laconic.recipes.knowledge_problems import QaProblems, WorldProblems
from laconic.recipes.strict import Count, Listed, NotEmpty, StrictModel, mistake, raise_all, suggest
from laconic.rewards.errors import RecipeError

Layout: TypeAlias = Literal["generic", "gsm8k", "math"]
"""Which fields a row has: `prompt`/`answer`, or those of GSM8K or MATH."""

Task: TypeAlias = Literal["math", "exact"]
"""The verifier; unset means the one that the layout implies."""


def _family(name: str) -> str:
    from laconic.data_gen.families import FAMILIES

    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; {suggest(name, FAMILIES)}")
    return name


FamilyName = Annotated[str, AfterValidator(_family)]


class ProceduralProblems(StrictModel):
    """Problems that a program makes, as many as are asked for."""

    source: Literal["reasoning_gym"]
    families: Annotated[tuple[FamilyName, ...], Listed, NotEmpty]
    """Names from `laconic.data_gen.families.FAMILIES`."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Per family, the options that differ from the family's defaults."""
    train: Count
    """How many training problems."""
    test: Count
    """How many held-out problems; none of them is a training problem in another order."""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        twice = len(set(self.families)) < len(self.families)
        wrong = [mistake(("families",), "a family is named twice")] if twice else []
        for family, options in self.options.items():
            if family not in self.families:
                wrong.append(mistake(("options", family), f"not one of the families; {suggest(family, self.families)}"))
            else:
                wrong += _check_options(family, options)
        raise_all(wrong)
        return self


def _check_options(family: str, options: dict[str, Any]) -> list[InitErrorDetails]:
    from laconic.data_gen.families import FAMILIES

    known = FAMILIES[family].options
    unknown = [
        mistake(("options", family, name), f"unknown option; {suggest(name, known)}")
        for name in options
        if name not in known
    ]
    try:
        FAMILIES[family].resolve({name: value for name, value in options.items() if name in known})
    except RecipeError as error:
        # The family names the option by its place in the recipe; here the place also gives the line.
        key, _, message = error.message.removeprefix(f"problems.options.{family}.").partition(": ")
        return [*unknown, mistake(("options", family, key), f"{message}; {error.cure}")]
    return unknown


def _template(text: str) -> str:
    if text.count("{prompt}") != 1:
        raise ValueError(f"found {text!r}; it must hold {{prompt}} once, where the question goes")
    return text


Template = Annotated[str, AfterValidator(_template)]
"""What the user message says; `{prompt}` stands for the question."""


class FileProblems(StrictModel):
    """Problems from JSON Lines files on this machine."""

    source: Literal["jsonl"]
    layout: Layout = "generic"
    train: str
    """Path, relative to the current folder."""
    test: str
    task: Task | None = None
    template: Template | None = None
    bad_golds: Literal["refuse", "drop"] = "refuse"
    """What to do with problems whose gold answer their own verifier does not accept."""
    limit_train: Count | None = None
    """Use only the first so many rows."""
    limit_test: Count | None = None


class HubProblems(StrictModel):
    """Problems from a data set on the Hugging Face hub."""

    source: Literal["hub"]
    dataset: str
    config: str | None = None
    revision: str | None = None
    """A commit, so that the data cannot change under the recipe."""
    layout: Layout = "generic"
    train: str
    """Name of a split."""
    test: str
    columns: dict[Literal["prompt", "answer"], str] | None = None
    """For the generic layout: which columns hold the prompt and the answer."""
    task: Task | None = None
    template: Template | None = None
    bad_golds: Literal["refuse", "drop"] = "refuse"
    """What to do with problems whose gold answer their own verifier does not accept."""
    limit_train: Count | None = None
    limit_test: Count | None = None


Problems: TypeAlias = Annotated[
    ProceduralProblems | FileProblems | HubProblems | WorldProblems | QaProblems, Field(discriminator="source")
]
MadeProblems: TypeAlias = ProceduralProblems | WorldProblems
"""Those that a program makes, as many as are asked for; they share the words of their templates, and are split by what
they ask, not by their words."""


def most_training_problems(problems: Problems) -> int | None:
    """How many training problems there can be; None when only the data itself can tell."""
    return problems.train if isinstance(problems, MadeProblems) else problems.limit_train
