"""`laconic score`: what rewards would say to a file of rollouts, before any training."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from laconic.launch import score_text
from laconic.launch.lines import short
from laconic.launch.score_picture import draw
from laconic.recipes.yaml_text import load_yaml
from laconic.rewards.description import default
from laconic.rewards.errors import LaunchError, RecipeError
from laconic.rewards.group import Progress
from laconic.rewards.jsonl import dumps, named, write_atomic
from laconic.rewards.judge import Judge, load_judge
from laconic.rewards.registry import RESERVED, Reward, check, find
from laconic.rewards.rollouts_file import read_file
from laconic.rewards.score import KINDS, Chosen, Score, Table, arrange, as_rows, moved_by_progress, score_one
from laconic.rewards.score_report import properties_of


@dataclass(frozen=True)
class ScoreOptions:
    """What the command line said."""

    names: str
    """Separated by commas."""
    rollouts: Path
    sets: tuple[str, ...] = ()
    """``NAME.param=value``."""
    as_json: bool = False
    compare: bool = False
    picture: Path | None = None
    properties: Path | None = None
    every_prompt: bool = False
    advantages: str = "grpo"
    judge: str | None = None
    step: int = 0
    total_steps: int | None = None


def score(options: ScoreOptions, out: Console) -> None:
    """Score the file and print what was asked for.

    Raises:
        RecipeError: an unknown reward or parameter, a parameter out of range, no such kind of advantages, a judge that
            nobody asks.
        LaunchError: what was asked for cannot be written, or the judge failed.
        DataError: something is wrong with the file; line and key are named.
    """
    if options.advantages not in KINDS:
        raise RecipeError(f"--advantages {options.advantages}: no such kind", cure=_near(options.advantages, KINDS))
    chosen = choose(options.names, options.sets)
    picture = _picture(options)
    for path in (picture, options.properties):
        _check_place(path)
    judge = _judge(options.judge, chosen)
    progress = Progress(options.step, options.total_steps)
    table = arrange(read_file(options.rollouts), chosen, progress=progress, judge=judge)
    scores = [score_one(table, item, kind=options.advantages, judge=judge) for item in chosen]
    for note in (*table.notes, *(note for item in scores for note in item.notes), *_unread_progress(options, scores)):
        print(f"note: {note}", file=sys.stderr)
    if options.as_json:
        sys.stdout.writelines(dumps(row) + "\n" for row in as_rows(table, scores))
    _report(options, table, scores, picture, out)


def choose(names: str, sets: Sequence[str]) -> list[Chosen]:
    """The rewards that are named, with what is set for them, checked.

    Raises:
        RecipeError: a reward or parameter that does not exist, a value out of range, anything named or set twice.
    """
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not listed:
        raise RecipeError("no reward is named", cure="name some, with commas between; `laconic list rewards` has them")
    if len(set(listed)) != len(listed):
        raise RecipeError(f"rewards {names!r}: each is named once", cure="separate different rewards by commas")
    known = [find(name) for name in listed]
    parameters: dict[str, dict[str, object]] = {name: {} for name in listed}
    for entry in sets:
        name, key, value = _split(entry, known, listed)
        if key in parameters[name]:
            raise RecipeError(f"--set {entry}: {name}.{key} is set twice", cure="keep one of the two")
        parameters[name][key] = _value(name, key, value)
    for name, given in parameters.items():
        check(name, given)
    return [Chosen(name, given) for name, given in parameters.items()]


def _split(entry: str, known: Sequence[Reward], listed: Sequence[str]) -> tuple[str, str, str]:
    """Reward, parameter and value of one --set."""
    place, _, value = entry.partition("=")
    # A reward of another package, ``my.module:name``, has dots of its own.
    name = next((name for name in listed if place.startswith(f"{name}.")), place.rpartition(".")[0])
    key = place.removeprefix(f"{name}.")
    if "=" not in entry or not name or not key:
        raise RecipeError(f"--set {entry}: not NAME.param=value", cure=_example(known, listed))
    if name not in listed:
        raise RecipeError(f"--set {entry}: {name} is not scored here", cure=_near(name, listed))
    if key.partition(".")[0] in RESERVED:
        raise RecipeError(
            f"--set {entry}: {key.partition('.')[0]!r} is a key of a recipe's entry, no parameter of {name}",
            cure=f"leave it out: a reward is scored without what a recipe wraps around it; {_example(known, listed)}",
        )
    return name, key, value


def _example(known: Sequence[Reward], listed: Sequence[str]) -> str:
    """A --set that could be meant."""
    for name, reward in zip(listed, known, strict=True):
        for parameter in reward.parameters.values():
            return f"for example --set {name}.{parameter.name}={default(parameter)}"
    return f"{' and '.join(listed)} {'has' if len(listed) == 1 else 'have'} no parameters"


def _near(name: str, legal: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, legal, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"legal here: {', '.join(legal)}"


def _judge(place: str | None, chosen: Sequence[Chosen]) -> Judge | None:
    if place is None:
        return None
    if all(item.reward.judged is None for item in chosen):
        names = " and ".join(item.name for item in chosen)
        raise RecipeError(
            f"--judge {place}: {names} {'asks' if len(chosen) == 1 else 'ask'} no judge", cure="leave it out"
        )
    return load_judge(place)


def _unread_progress(options: ScoreOptions, scores: Sequence[Score]) -> Iterator[str]:
    """At most one note, on options that changed nothing."""
    given = [name for name, value in (("--step", options.step), ("--total-steps", options.total_steps)) if value]
    if given and not any(map(moved_by_progress, scores)):
        yield f"{' and '.join(given)}: no reward here depends on the progress of training"


def _value(name: str, key: str, text: str) -> object:
    """What is set, as YAML; ``none`` is null too where a parameter can be null."""
    value = load_yaml(text, label=f"--set {name}.{key}", numbered=False)[0]
    parameter = find(name).parameters.get(key)
    legal = () if parameter is None or not isinstance(parameter.legal, tuple) else parameter.legal
    nothing = parameter is not None and parameter.optional and value in ("none", "None") and value not in legal
    return None if nothing else value


def _picture(options: ScoreOptions) -> Path | None:
    """Where the picture goes, if there is to be one."""
    if options.picture is None and options.compare:
        return Path(f"{named(options.rollouts).stem}_rewards.png")
    return options.picture


def _check_place(path: Path | None) -> None:
    """Refuse what cannot be written before any work is done for it."""
    if path is None:
        return
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        why = "may not be written in" if path.parent.is_dir() else "does not exist"
        raise LaunchError(f"{path}: the folder {path.parent} {why}", cure="make it, or name another place")
    if path.exists() and not path.is_file():
        raise LaunchError(f"{path}: is no file", cure="name a file")


def _report(options: ScoreOptions, table: Table, scores: Sequence[Score], picture: Path | None, out: Console) -> None:
    """The tables, unless the output is JSON, and the files that were asked for."""
    if options.as_json and picture is None and options.properties is None:
        return
    found = [properties_of(table, item) for item in scores]
    if not options.as_json:
        if not options.compare:
            score_text.print_prompts(out, table, scores, every=options.every_prompt)
        score_text.print_properties(out, table, found, side_by_side=options.compare)
    if options.properties is not None:
        write_atomic(options.properties, json.dumps([item.to_json() for item in found], indent=2) + "\n")
    if picture is not None:
        picture.write_bytes(draw(table, scores, found))
        print(f"\npicture: {short(picture)}", file=sys.stderr if options.as_json else sys.stdout)
