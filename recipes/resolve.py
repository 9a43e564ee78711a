"""From a recipe to a plan: stages with everything filled in, their folders named by a hash of what they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from laconic.recipes.digest import digest_model, digest_problems, digest_retriever
from laconic.recipes.explain import explain, recipe_error
from laconic.recipes.model_spec import ModelSpec
from laconic.recipes.problems_model import Problems
from laconic.recipes.references import BASE, Link, link
from laconic.recipes.schema import Recipe
from laconic.recipes.search_model import SearchSpec
from laconic.recipes.stages import BaseStage, InitStage, ResolvedStage
from laconic.recipes.strict import StrictModel, suggest
from laconic.recipes.yaml_text import dump_yaml, load_yaml
from laconic.rewards.errors import RecipeError

INIT = InitStage.model_fields["kind"].default
_SEARCHING = ("generate", "grpo", "eval")
"""Kinds of stages whose outcome depends on `search:`; sft and dpo take what it led to from their rows."""


class StageFile(StrictModel):
    """One stage with everything filled in: all that its process reads. On disk it is `stage.yaml`."""

    version: str
    """Laconic's version."""
    recipe: str
    index: int
    """Place in the chain; 0 is the `init` stage of a model from scratch."""
    kind: str
    name: str
    hash: str
    seed: int
    problems_seed: int
    """The recipe's own seed, the same for all stages: it fixes which problems there are."""
    problems: Problems
    model: ModelSpec
    search: SearchSpec | None = None
    """How its models search; None: not at all."""
    config: ResolvedStage
    """The recipe's stage, with defaults merged and references filled in."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Role -> folder name of the stage that fills it, in the same run folder."""

    @property
    def folder(self) -> str:
        """The stage folder's name."""
        return f"{self.index:02d}-{self.name}-{self.hash}"

    @model_serializer(mode="wrap")
    def _without_search(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A stage without searches stays what it was before there were any: same file.
        return {key: value for key, value in write(self).items() if key != "search" or value is not None}

    def to_yaml(self) -> str:
        """The text of `stage.yaml`."""
        return dump_yaml(self.model_dump(mode="json"))

    @classmethod
    def from_yaml(cls, path: Path) -> StageFile:
        """Read a `stage.yaml`.

        Raises:
            RecipeError: it is not one, was changed to something illegal, or another version of Laconic wrote it.
        """
        data, lines = load_yaml(path.read_text(encoding="utf-8"), label=str(path))
        written = data.get("version") if isinstance(data, dict) else None
        if written != package_version():
            message = f"{path}: written by Laconic {written}, but this is {package_version()}"
            raise RecipeError(message, cure="run the recipe again; its stages get new folders")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            mistakes = explain(error, root=cls)
        raise recipe_error(mistakes, label=str(path), origin=lambda place: f"{path}:{lines.get(place, 1)}")


@dataclass(frozen=True)
class Plan:
    """A recipe's stages in the order in which they run."""

    recipe: Recipe
    run_dir: Path
    stages: tuple[StageFile, ...]

    def stage(self, name: str) -> StageFile:
        """Look a stage up.

        Raises:
            RecipeError: there is none of that name.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [stage.name for stage in self.stages]
        raise RecipeError(f"{self.recipe.name} has no stage named {name!r}; {suggest(name, names)}")


@cache
def package_version() -> str:
    """The installed version of Laconic."""
    return version("laconic")


def resolve(recipe: Recipe, runs: Path) -> Plan:
    """Fill in every stage of a recipe and name its folder.

    Args:
        recipe: A checked recipe.
        runs: The folder of all runs; this one's is `runs/<recipe name>`.

    Raises:
        DataError: a data file is missing or empty.
        ModelError: the local model folder lacks a part.
    """
    files = {"problems": digest_problems(recipe.problems), "model": digest_model(recipe.model)}
    files["search"] = digest_retriever(recipe.search)
    links, _ = link(recipe.stages)
    done: dict[str, StageFile] = {}
    if recipe.model.scratch is not None:
        done[BASE] = _resolve_one(recipe, 0, InitStage(name=INIT), Link({}, {}), done, files)
    for index, (stage, linked) in enumerate(zip(recipe.stages, links, strict=True), start=1):
        done[stage.name] = _resolve_one(recipe, index, stage, linked, done, files)
    return Plan(recipe, Path(runs) / recipe.name, tuple(done.values()))


def _resolve_one(
    recipe: Recipe,
    index: int,
    stage: BaseStage,
    linked: Link,
    done: Mapping[str, StageFile],
    files: dict[str, dict[str, str]],
) -> StageFile:
    seed = recipe.seed if stage.seed is None else stage.seed
    config = stage.model_copy(update={**linked.filled, "seed": seed})
    upstream = {role: done[name] for role, name in linked.roles.items() if name in done}
    reads_base = stage.kind == INIT or len(upstream) < len(linked.roles)  # type: ignore[attr-defined]
    identity = {
        "version": package_version(),
        "config": config.model_dump(mode="json"),
        "problems": recipe.problems.model_dump(mode="json"),
        "problems_seed": recipe.seed,
        "problem_files": files["problems"],
        "model": recipe.model.model_dump(mode="json") if reads_base else None,
        "model_files": files["model"] if reads_base else None,
        "inputs": {role: stage.hash for role, stage in upstream.items()},
    }
    if recipe.search is not None and stage.kind in _SEARCHING:  # type: ignore[attr-defined]
        identity |= {"search": recipe.search.model_dump(mode="json"), "search_files": files["search"]}
    return StageFile(
        version=package_version(),
        recipe=recipe.name,
        index=index,
        kind=stage.kind,  # type: ignore[attr-defined]
        name=stage.name,
        hash=fingerprint(identity),
        seed=seed,
        problems_seed=recipe.seed,
        problems=recipe.problems,
        model=recipe.model,
        search=recipe.search,
        config=config,  # type: ignore[arg-type]
        inputs={role: stage.folder for role, stage in upstream.items()},
    )


def fingerprint(identity: Any) -> str:
    """Eight hexadecimal digits that change when the data does; neither order of keys nor `1` or `1.0` matters."""
    text = json.dumps(_canonical(identity), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _canonical(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _canonical(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_canonical(value) for value in data]
    return int(data) if isinstance(data, float) and data.is_integer() else data
