"""A recipe: the science of a run, and nothing about the machine.

The models of its parts are in `problems_model`, `model_spec` and `stages`; this file puts them together and checks
what no part can see alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic_core import InitErrorDetails

from laconic.recipes.defaults import inherit
from laconic.recipes.model_spec import ModelSpec, ScratchModel
from laconic.recipes.problems_model import (
    FileProblems,
    HubProblems,
    MadeProblems,
    Problems,
    ProceduralProblems,
    QaProblems,
    WorldProblems,
)
from laconic.recipes.references import BASE, link
from laconic.recipes.reward_needs import reward_mistakes
from laconic.recipes.search_checks import search_mistakes, teacher_misfits
from laconic.recipes.search_model import SearchSpec
from laconic.recipes.stage_parts import Aes, Defaults, Lora, Reward, SamplingSpec, Teacher
from laconic.recipes.stages import DpoStage, EvalStage, GenerateStage, GrpoStage, InitStage, Name, SftStage, Stage
from laconic.recipes.strict import Listed, NotEmpty, StrictModel, mistake, raise_all
from laconic.recipes.trainer_fields import default

__all__ = [
    "Aes",
    "Defaults",
    "DpoStage",
    "EvalStage",
    "FileProblems",
    "GenerateStage",
    "GrpoStage",
    "HubProblems",
    "InitStage",
    "Lora",
    "ModelSpec",
    "Problems",
    "ProceduralProblems",
    "QaProblems",
    "Recipe",
    "Reward",
    "SamplingSpec",
    "ScratchModel",
    "SearchSpec",
    "SftStage",
    "Stage",
    "Teacher",
    "WorldProblems",
    "json_schema",
]


class Recipe(StrictModel):
    """What a recipe file holds. Stages have already inherited from `defaults`."""

    name: Name
    """The run folder's name."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Fixes the problems, and everything else that is random in stages without a seed of their own."""
    description: str | None = None
    paper: str | None = None
    """arXiv id of what is reproduced."""
    hardware: str | None = None
    hours: str | None = None
    problems: Problems
    model: ModelSpec
    search: SearchSpec | None = None
    """Where and how models search while they think; unset: they do not."""
    defaults: Defaults = Defaults()
    stages: Annotated[tuple[Stage, ...], Listed, NotEmpty]
    overlays: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Named sets of dotted overrides, applied with `--overlay NAME`; the run is then called `<name>-NAME`."""

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        return inherit(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        # References mean nothing while two stages share a name.
        raise_all(_names(self))
        raise_all([*link(self.stages)[1], *_teachers(self), *_tokenizer(self), *_lengths(self), *_budgets(self)])
        raise_all(search_mistakes(self.search, self.problems, self.model, self.stages))
        raise_all(reward_mistakes(self.stages, self.search, self.problems))
        return self

    def stage(self, name: str) -> Stage:
        """The stage of that name, which must exist."""
        return next(stage for stage in self.stages if stage.name == name)


def _names(recipe: Recipe) -> list[InitErrorDetails]:
    """Overrides address stages by name beside the top-level keys, so the two may not clash."""
    taken = {BASE, "init", *Recipe.model_fields}
    wrong = []
    for at, stage in enumerate(recipe.stages):
        if stage.name in taken:
            earlier = stage.name in {other.name for other in recipe.stages[:at]}
            why = f"{stage.name!r} is taken by an earlier stage" if earlier else f"{stage.name!r} is reserved"
            wrong.append(mistake(("stages", at, "name"), f"{why}; give this {stage.kind} stage another name:"))
        taken.add(stage.name)
    return wrong


def _teachers(recipe: Recipe) -> list[InitErrorDetails]:
    procedural = isinstance(recipe.problems, MadeProblems)
    wrong = []
    for at, stage in enumerate(recipe.stages):
        teacher = stage.teacher if isinstance(stage, GenerateStage) else None
        if teacher is not None and procedural and teacher.source == "gold":
            message = "procedural problems come without solutions; use teacher: {styles: ...}"
            wrong.append(mistake(("stages", at, "teacher", "source"), message))
        if teacher is not None and not procedural and teacher.source == "program":
            message = "programs teach procedural families only, or a world; use teacher: {source: gold}"
            wrong.append(mistake(("stages", at, "teacher"), message))
        if teacher is not None and procedural:
            wrong += [
                mistake(("stages", at, "teacher", *place), why)
                for place, why in teacher_misfits(teacher, recipe.problems)
            ]
    return wrong


def _tokenizer(recipe: Recipe) -> list[InitErrorDetails]:
    scratch = recipe.model.scratch
    if scratch is None or scratch.tokenizer == "bpe" or isinstance(recipe.problems, MadeProblems):
        return []
    message = "a symbolic vocabulary exists for procedural problems and worlds only; use tokenizer: bpe"
    return [mistake(("model", "scratch", "tokenizer"), message)]


def _lengths(recipe: Recipe) -> list[InitErrorDetails]:
    if recipe.model.scratch is None:
        return []
    limit, wrong = recipe.model.scratch.max_length, []
    for at, stage in enumerate(recipe.stages):
        if isinstance(stage, GrpoStage):
            place, length = ("trainer", "max_completion_length"), _completion_length(stage)
        elif isinstance(stage, EvalStage) or (isinstance(stage, GenerateStage) and stage.teacher is None):
            place, length = ("sampling", "max_tokens"), stage.sampling.max_tokens
        else:
            continue
        if length > limit:
            message = f"found {length}; the model's own limit is {limit} (model.scratch.max_length)"
            wrong.append(mistake(("stages", at, *place), message))
    return wrong


def _budgets(recipe: Recipe) -> list[InitErrorDetails]:
    """Prompts that a model from scratch could not read."""
    scratch = recipe.model.scratch
    if scratch is None or scratch.tokenizer == "bpe":
        return []
    asking = [at for at, stage in enumerate(recipe.stages) if isinstance(stage, GrpoStage) and stage.budgets]
    return [
        mistake(("stages", at, "budgets"), "a symbolic vocabulary has no such words; use tokenizer: bpe")
        for at in asking
    ]


def _completion_length(stage: GrpoStage) -> int:
    return stage.trainer.get("max_completion_length") or default("grpo", "max_completion_length")


def json_schema() -> dict[str, Any]:
    """The recipe format as JSON Schema, for editors that complete and check YAML."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
