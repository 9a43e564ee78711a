"""Problems as a command line names them: a JSON Lines file, or the problems of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.jsonl import numbered_rows
from laconic.rewards.records import Problem

if TYPE_CHECKING:
    from laconic.data_gen.sources import Split
    from laconic.recipes.problems_model import Problems

HELP = "Problems: a JSON Lines file, or RECIPE.yaml with :test (as it is without) or :train."
"""Of the argument, for commands."""
_RECIPE = (".yaml", ".yml")
_SPLITS = ("train", "test")
_ROWS = (
    "a row has prompt and answer (and id, task if you like), or what rows of GSM8K (question, answer) or MATH "
    "(problem, solution) have"
)
_LAYOUTS = {"question": "gsm8k", "problem": "math"}
"""By the column that only this layout has."""


def load_argument(text: str, *, limit: int | None = None, seed: int | None = None) -> list[Problem]:
    """The problems that an argument names, each with a gold answer that its own verifier accepts.

    Rows of a file are problems as run folders keep them (`problems.jsonl`), or rows in one of the layouts of
    `laconic.data_gen.layouts`, told by their columns. A recipe's test problems are those that its training never sees,
    whatever their number. A question that a file has several times is one problem, its first row.

    Args:
        text: ``FILE.jsonl``, ``RECIPE.yaml``, ``RECIPE.yaml:test`` or ``RECIPE.yaml:train``.
        limit: The first so many. Procedural problems of a recipe are drawn until there are as many, more than the
            recipe itself uses if need be; the recipe's own come first.
        seed: Draws procedural problems; by default the recipe's own.

    Raises:
        DataError: there is no such file, a row is no problem, a question has two answers, or a gold answer cannot be
            verified.
        RecipeError: the recipe is wrong, or there is no such split.
    """
    if limit is not None and limit < 1:
        raise RecipeError(f"limit {limit}", cure="ask for at least one problem")
    head, colon, split = text.rpartition(":")
    if colon and head.endswith(_RECIPE):
        return _of_recipe(head, split, limit, seed)
    return _of_recipe(text, "test", limit, seed) if text.endswith(_RECIPE) else _of_file(text, limit)


def _of_recipe(path: str, split: str, limit: int | None, seed: int | None) -> list[Problem]:
    from laconic.data_gen.sources import load_problems, validate_golds
    from laconic.recipes.source import load_recipe

    if split not in _SPLITS:
        raise RecipeError(f"{path}:{split}: no such split", cure=f"write {path}:train or {path}:test")
    recipe = load_recipe(path)
    spec, side = _sized(recipe.problems, split, limit), cast("Split", split)
    problems = load_problems(spec, side, recipe.seed if seed is None else seed)
    return validate_golds(problems[:limit], spec)


def _sized(spec: Problems, split: str, limit: int | None) -> Problems:
    """Procedural problems in the number that is wanted."""
    if limit is None or spec.source not in ("reasoning_gym", "world"):
        return spec
    return spec.model_copy(update={split: max(limit, getattr(spec, split))})


def _of_file(path: str, limit: int | None) -> list[Problem]:
    from laconic.data_gen.sources import validate_golds

    found: dict[str, Problem] = {}
    asked: dict[str, Problem] = {}
    for number, row in numbered_rows(path):
        if len(found) == limit:
            break
        problem = _problem(row, where=f"{path}:{number}", default_id=f"row-{number}")
        if problem.id in found:
            raise DataError(f"{path}:{number}: the id {problem.id!r} names two problems", cure="make the ids distinct")
        # The same question again is not another observation.
        first = asked.setdefault(" ".join(problem.prompt.split()), problem)
        if first.answer != problem.answer:
            message = f"{path}:{number}: asks what {first.id!r} asks, but has another answer"
            raise DataError(message, cure="leave the wrong one out")
        if first is problem:
            found[problem.id] = problem
    if not found:
        raise DataError(f"{path}: holds no problems", cure="name a file with at least one row")
    return validate_golds(list(found.values()))


def _problem(row: Mapping[str, Any], *, where: str, default_id: str) -> Problem:
    from laconic.data_gen.layouts import read_row

    if "meta" in row:
        try:
            return Problem.from_json(dict(row))
        except DataError as error:
            raise DataError(f"{where}: {error.message}", cure=error.cure) from None
    layout = next((name for column, name in _LAYOUTS.items() if column in row), "generic")
    try:
        return read_row(row, layout, where=where, default_id=default_id)
    except DataError as error:
        raise DataError(error.message, cure=_ROWS) from None
