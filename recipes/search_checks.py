"""What of a recipe does not go with its `search:`, or with a teacher of its problems."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import InitErrorDetails

from laconic.recipes.knowledge_problems import WorldProblems
from laconic.recipes.model_spec import ModelSpec
from laconic.recipes.problems_model import Problems
from laconic.recipes.search_model import SPACED, WORLD, SearchSpec
from laconic.recipes.stage_parts import Teacher
from laconic.recipes.stages import BaseStage, GenerateStage, GrpoStage
from laconic.recipes.strict import Location, mistake, suggest
from laconic.recipes.trainer_fields import default

_NUMBERED = 10
"""Documents of one search whose numbers a symbolic vocabulary has."""


def search_mistakes(
    search: SearchSpec | None, problems: Problems, model: ModelSpec, stages: Sequence[BaseStage]
) -> list[InitErrorDetails]:
    """What is wrong, each with its place in the recipe."""
    wrong = [] if search is None else _retrieval(search, problems, model)
    for at, stage in enumerate(stages):
        wrong += [mistake(("stages", at, *place), why) for place, why in _stage(search, problems, stage)]
    return wrong


def _retrieval(search: SearchSpec, problems: Problems, model: ModelSpec) -> list[InitErrorDetails]:
    of_world, wrong = isinstance(problems, WorldProblems), []
    if search.retriever == WORLD and not of_world:
        message = "only problems: {source: world} bring documents; name a corpus file, an index folder or a server"
        wrong.append(mistake(("search", "retriever"), message))
    if search.protocol == SPACED and not of_world:
        wrong.append(mistake(("search", "protocol"), f"{SPACED} is for problems: {{source: world}}; use search_r1"))
    if search.protocol == SPACED and search.k > _NUMBERED:
        wrong.append(mistake(("search", "k"), f"found {search.k}; {SPACED} numbers at most {_NUMBERED} documents"))
    if model.scratch is not None and model.scratch.tokenizer == "symbolic" and search.protocol != SPACED:
        message = f"found {search.protocol!r}, whose words a symbolic tokenizer does not have; use {SPACED}"
        wrong.append(mistake(("search", "protocol"), message))
    return wrong


def _stage(search: SearchSpec | None, problems: Problems, stage: BaseStage) -> list[tuple[Location, str]]:
    if isinstance(stage, GrpoStage):
        return _rollouts(search, stage)
    if not isinstance(stage, GenerateStage):
        return []
    if search is None and stage.teacher is not None and isinstance(problems, WorldProblems):
        return [(("teacher",), "the teacher of a world writes search episodes; say how to search with search:")]
    if search is not None and stage.gold:
        return [(("gold",), "a data set's solutions are no search episodes; leave gold out")]
    if search is not None and stage.teacher is not None and stage.teacher.closed_book:
        return _closed_book(search, stage)
    return []


def _rollouts(search: SearchSpec | None, stage: GrpoStage) -> list[tuple[Location, str]]:
    wrong = _disabled(search, stage) if stage.search_disabled else []
    if search is None:
        return wrong
    if stage.rollouts is not None:
        wrong.append((("rollouts",), "search episodes have a protocol of their own; leave rollouts out, or search:"))
    message = "episodes with searches have no such thing; leave it out"
    return wrong + [((key,), message) for key in ("budgets", "stop_early") if getattr(stage, key)]


def _closed_book(search: SearchSpec, stage: GenerateStage) -> list[tuple[Location, str]]:
    from laconic.data_gen.pairs import PAIRINGS

    place = ("teacher", "closed_book")
    if not search.instruct:
        return [(place, "without search.instruct there is no prompt that says that nothing can be searched")]
    if stage.keep in PAIRINGS:
        return [(place, f"keep: {stage.keep} makes pairs, whose sides have one prompt; leave it out")]
    return []


def _disabled(search: SearchSpec | None, stage: GrpoStage) -> list[tuple[Location, str]]:
    if search is None:
        return [(("search_disabled",), "nothing is searched without search:")]
    group = stage.trainer.get("num_generations") or default("grpo", "num_generations")
    if not float(stage.search_disabled * group).is_integer():
        message = f"found {stage.search_disabled}; of {group} rollouts that is no whole number"
        return [(("search_disabled",), message)]
    return []


def teacher_misfits(teacher: Teacher, problems: Problems) -> list[tuple[Location, str]]:
    """What a teacher is told that means nothing for these problems: places below `teacher`, and why."""
    from laconic.data_gen.teachers import STYLES as procedural
    from laconic.data_gen.world.episodes import STYLES as of_world

    world = isinstance(problems, WorldProblems)
    legal = of_world if world else procedural
    found: list[tuple[Location, str]] = [
        (("styles", style), f"unknown style for {problems.source} problems; {suggest(style, legal)}")
        for style in teacher.styles
        if style not in legal
    ]
    foreign = ("redundancy",) if world else ("statements", "taught_questions", "recalls", "closed_book")
    owner = "procedural families" if world else "worlds"
    set_here = [key for key in foreign if key in teacher.model_fields_set]
    return [*found, *(((key,), f"only for teachers of {owner}; leave it out") for key in set_here)]
