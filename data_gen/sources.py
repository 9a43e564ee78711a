"""Where problems come from: procedural families, a synthetic world, JSON Lines files, data sets on the hub.

`load_problems` is the one entry: recipes, data generation, training and evaluation all see the same problems in the
same order for the same arguments. Importing this loads no heavy library; `datasets` is imported when a hub data set is
read, math-verify when mathematical golds are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice, zip_longest
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from laconic.data_gen.clean import Cleaned, decontaminate
from laconic.data_gen.layouts import read_row
from laconic.rewards.answers import verify
from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import read_jsonl
from laconic.rewards.records import Problem

if TYPE_CHECKING:
    from laconic.recipes.knowledge_problems import QaProblems, WorldProblems
    from laconic.recipes.problems_model import FileProblems, HubProblems, Problems, ProceduralProblems

Split = Literal["train", "test"]
_MADE = ("reasoning_gym", "world")


def load_problems(spec: Problems, split: Split, seed: int) -> list[Problem]:
    """Load one side of a recipe's problems.

    Args:
        spec: The `problems:` of a recipe.
        split: `train` or `test`.
        seed: Draws procedural problems and worlds; files and data sets keep their own order.

    Returns:
        Problems with distinct ids and prompts. Of a prompt that a file repeats, the first row stays.

    Raises:
        DataError: a file, column or data set is missing, empty or malformed, or an id names two problems.
    """
    if spec.source == "reasoning_gym":
        return _procedural(spec, split, seed)
    if spec.source == "world":
        return _of_world(spec, split, seed)
    if spec.source == "qa":
        return _of_qa_sets(spec, split)
    rows = _file_rows(spec, split) if spec.source == "jsonl" else _hub_rows(spec, split)
    limit = spec.limit_train if split == "train" else spec.limit_test
    found = _read(rows, spec, split)
    problems = list(islice(_distinct(found), limit))
    if not problems:
        place = getattr(spec, split) if spec.source == "jsonl" else f"{spec.dataset}, split {getattr(spec, split)}"
        raise DataError(
            f"problems.{split}: {place} holds no rows", cure="name a file or split with at least one problem"
        )
    return problems


def training_problems(spec: Problems, seed: int, *, decontaminated: bool = True) -> Cleaned[Problem]:
    """The training problems, less those that the test problems give away.

    Raises:
        DataError: see `load_problems`; or no problem is left.
    """
    problems = load_problems(spec, "train", seed)
    # Procedural problems share the words of their template, and are split by canonical input or fact already.
    if not decontaminated or spec.source in _MADE:
        return Cleaned(problems, [])
    cleaned = decontaminate(problems, load_problems(spec, "test", seed))
    if not cleaned.kept:
        raise DataError(
            f"all {len(problems)} training problems share 8 consecutive words with a test problem",
            cure="name different files or splits for problems.train and problems.test, or set decontaminate: false",
        )
    return cleaned


def _procedural(spec: ProceduralProblems, split: Split, seed: int) -> list[Problem]:
    from laconic.data_gen.families import family
    from laconic.data_gen.split import draw

    total, names = getattr(spec, split), spec.families
    shares = [total // len(names) + (index < total % len(names)) for index in range(len(names))]
    drawn = [
        draw(family(name), split, share, seed=seed, options=spec.options.get(name))
        for name, share in zip(names, shares, strict=True)
        if share
    ]
    # Families take turns, so that the first n problems are as mixed as all of them.
    return [problem for turn in zip_longest(*drawn) for problem in turn if problem is not None]


def _of_world(spec: WorldProblems, split: Split, seed: int) -> list[Problem]:
    from laconic.data_gen.world.closed_book import taught_questions
    from laconic.data_gen.world.questions import draw_questions

    world, wanted = spec.world(seed), getattr(spec, split)
    draw = partial(draw_questions, hops=spec.hops, shapes=spec.shapes, unanswerable=spec.unanswerable)
    if spec.known is None:
        return draw(world, split, wanted)
    known = taught_questions(world, split)
    Random(f"{seed}/known/{split}").shuffle(known)
    return _in_turn(known, _unknown(partial(draw, world, split), wanted), spec.known, wanted)


def _unknown(draw: Callable[[int], list[Problem]], wanted: int) -> list[Problem]:
    """Drawn questions that need a search or tell their fact."""
    drawn, found = wanted, []
    while len(found) < wanted:
        found = [p for p in draw(drawn) if p.meta["least_searches"] > 0 or p.meta["hops"] == 0]
        drawn += wanted - len(found)
    return found


def _in_turn(known: list[Problem], others: list[Problem], share: float, wanted: int) -> list[Problem]:
    """The first `share` of any number of them are known, until there are no more."""
    mixed: list[Problem] = []
    taken = 0
    while len(mixed) < wanted:
        if taken < len(known) and taken < share * (len(mixed) + 1):
            mixed.append(known[taken])
            taken += 1
        else:
            mixed.append(others[len(mixed) - taken])
    return mixed


def _of_qa_sets(spec: QaProblems, split: Split) -> list[Problem]:
    from laconic.data_gen.qa_sets import load_qa

    limit = spec.limit_train if split == "train" else spec.limit_test
    # No set has to give more than all that are wanted.
    loaded = [load_qa(name, split, limit=limit) for name in getattr(spec, split)]
    # Sets take turns, so that the first n problems are as mixed as all of them.
    mixed = (problem for turn in zip_longest(*loaded) for problem in turn if problem is not None)
    return list(islice(_first_of_each_prompt(mixed), limit))


def _first_of_each_prompt(problems: Iterable[Problem]) -> Iterator[Problem]:
    return _distinct((problem.id, problem) for problem in problems)


def _file_rows(spec: FileProblems, split: Split) -> Iterator[tuple[str, dict[str, Any]]]:
    path = getattr(spec, split)
    return ((f"{path}: row {number}", row) for number, row in enumerate(read_jsonl(path), start=1))


def _hub_rows(spec: HubProblems, split: Split) -> Iterator[tuple[str, dict[str, Any]]]:
    name = getattr(spec, split)
    columns = spec.columns or {}
    data = _hub_split(spec, name)
    if absent := [column for column in columns.values() if column not in data.column_names]:
        raise DataError(
            f"{spec.dataset}: no column {absent[0]!r} (problems.columns)", cure=f"it has {', '.join(data.column_names)}"
        )
    for number, row in enumerate(data, start=1):
        yield f"{spec.dataset}, split {name}: row {number}", row | {key: row[column] for key, column in columns.items()}


def _hub_split(spec: HubProblems, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(spec.dataset, spec.config, split=split, revision=spec.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        # datasets reports a missing data set, configuration, split and network each with another class.
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"problems.dataset: {spec.dataset} (config {spec.config}, split {split}) cannot be loaded: {reason}",
            cure="check problems.dataset, config, train and test, and that this machine can reach the hub",
        ) from error


def _read(
    rows: Iterable[tuple[str, dict[str, Any]]], spec: FileProblems | HubProblems, split: Split
) -> Iterator[tuple[str, Problem]]:
    for index, (where, row) in enumerate(rows):
        default_id = f"{split}-{index}"
        problem = read_row(row, spec.layout, where=where, default_id=default_id, task=spec.task)
        yield where, problem if spec.template is None else _asked(problem, spec.template)


def _asked(problem: Problem, template: str) -> Problem:
    """The problem with its question put into the template; the bare question stays in meta."""
    prompt = template.replace("{prompt}", problem.prompt)
    return replace(problem, prompt=prompt, meta=problem.meta | {"question": problem.prompt})


def _distinct(found: Iterable[tuple[str, Problem]]) -> Iterator[Problem]:
    """The first problem of every prompt; an id may not name two."""
    prompts: set[str] = set()
    ids: set[str] = set()
    for where, problem in found:
        prompt = " ".join(problem.prompt.split())
        if prompt in prompts:
            continue
        if problem.id in ids:
            raise DataError(
                f"{where}: the id {problem.id!r} names two problems",
                cure="make the ids distinct, or leave the column out: rollouts are kept by problem id",
            )
        prompts.add(prompt)
        ids.add(problem.id)
        yield problem


def gold_text(problem: Problem) -> str | None:
    r"""The gold answer in the form that its own verifier accepts: as it is or in ``\boxed{}``; None if in neither."""
    forms = (problem.answer, f"\\boxed{{{problem.answer}}}")
    return next((text for text in forms if verify(text, problem)), None)


def validate_golds(problems: Sequence[Problem], spec: Problems | None = None) -> list[Problem]:
    """The problems whose gold answer is accepted by its own verifier.

    With another, training would reward noise: a right answer would count as wrong.

    Args:
        problems: Those to check.
        spec: Where they are from; with ``bad_golds: drop`` the others are left out, and it is said which.

    Raises:
        DataError: golds are refused and may not be dropped, or none is left; the message has the first ones by id.
    """
    kept = [problem for problem in problems if gold_text(problem) is not None]
    if len(kept) == len(problems):
        return kept
    sound = {problem.id for problem in kept}
    refused = [problem for problem in problems if problem.id not in sound]
    if kept and getattr(spec, "bad_golds", "refuse") == "drop":
        dropped = ", ".join(problem.id for problem in refused)
        print(f"{len(refused)} of {len(problems)} problems dropped, their gold cannot be verified: {dropped}")
        return kept
    raise _refused_golds(problems, refused)


def _refused_golds(problems: Sequence[Problem], refused: Sequence[Problem]) -> DataError:
    examples = ", ".join(f"{problem.id} ({problem.answer!r})" for problem in refused[:5])
    return DataError(
        f"{len(refused)} of {len(problems)} gold answers are refused by their own verifier: {examples}",
        cure="mend or remove these rows, set problems.bad_golds: drop, or another problems.task "
        f"(they are checked as {refused[0].task!r})",
    )


def vocabulary(spec: Problems, seed: int = 0) -> list[str]:
    """Every whitespace-separated word that a symbolic tokenizer has to know, sorted.

    For procedural families and worlds what prompts, traces, documents and answers can ever contain; for files and data
    sets what the training split does contain, so a test problem may hold unknown words.

    Args:
        spec: The `problems:` of a recipe.
        seed: The recipe's; it draws the names of a world.
    """
    if spec.source == "reasoning_gym":
        from laconic.data_gen.families import family

        return sorted(set().union(*(family(name).symbols(spec.options.get(name)) for name in spec.families)))
    if spec.source == "world":
        from laconic.data_gen.world import spaced

        return spaced.vocabulary(spec.world(seed))
    return sorted({word for text in training_text(spec, seed) for word in text.split()})


def training_text(spec: Problems, seed: int) -> Iterator[str]:
    """Text to train a BPE tokenizer on: prompts, answers and solutions of the training problems; a world's articles."""
    problems = load_problems(spec, "train", seed)
    if spec.source == "world":
        told = (f"{document.title} {document.text}" for document in spec.world(seed).documents)
        return chain(told, (problem.prompt for problem in problems))
    if spec.source == "reasoning_gym":
        return chain.from_iterable(_lesson(problem) for problem in problems)
    return (text for p in problems for text in (p.prompt, p.answer, p.meta.get("solution")) if text)


def _lesson(problem: Problem) -> Iterator[str]:
    from laconic.data_gen.teachers import STYLES, teach

    rng = Random(problem.id)
    yield problem.prompt
    yield teach(problem, rng.choice(STYLES), redundancy=1.0, rng=rng)
