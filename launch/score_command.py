"""`laconic score`: what rewards would say to a file of rollouts, before any training."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from laconic.launch import score_text
from laconic.launch.lines import short
from laconic.launch.score_picture import draw
from laconic.recipes.strict import suggest
from laconic.recipes.yaml_text import load_yaml
from laconic.rewards.errors import RecipeError
from laconic.rewards.group import Progress
from laconic.rewards.jsonl import dumps, write_atomic
from laconic.rewards.judge import load_judge
from laconic.rewards.registry import check, find
from laconic.rewards.rollouts_file import read_file
from laconic.rewards.score import KINDS, Chosen, Score, Table, arrange, as_rows, score_one
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
        RecipeError: an unknown reward or parameter, a parameter out of range, no such kind of advantages.
        DataError: something is wrong with the file; line and key are named.
    """
    if options.advantages not in KINDS:
        raise RecipeError(f"--advantages {options.advantages}: no such kind", cure=suggest(options.advantages, KINDS))
    chosen = choose(options.names, options.sets)
    judge = load_judge(options.judge) if options.judge else None
    progress = Progress(options.step, options.total_steps)
    table = arrange(read_file(options.rollouts), chosen, progress=progress, judge=judge)
    scores = [score_one(table, item, kind=options.advantages, judge=judge) for item in chosen]
    for note in table.notes:
        print(f"note: {note}", file=sys.stderr)
    if options.as_json:
        sys.stdout.writelines(dumps(row) + "\n" for row in as_rows(table, scores))
    _report(options, table, scores, out)


def choose(names: str, sets: Sequence[str]) -> list[Chosen]:
    """The rewards that are named, with what is set for them, checked.

    Raises:
        RecipeError: a reward or parameter that does not exist, a value out of range, a reward named twice.
    """
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not listed or len(set(listed)) != len(listed):
        raise RecipeError(f"rewards {names!r}: each is named once", cure="separate different rewards by commas")
    parameters: dict[str, dict[str, object]] = {name: {} for name in listed}
    for entry in sets:
        place, equals, value = entry.partition("=")
        name, dot, key = place.rpartition(".")
        if not (equals and dot):
            raise RecipeError(f"--set {entry}: not NAME.param=value", cure=f"for example {listed[0]}.weight=0.5")
        if name not in parameters:
            raise RecipeError(f"--set {entry}: {name} is not scored here", cure=suggest(name, listed))
        parameters[name][key] = _value(name, key, value)
    for name, given in parameters.items():
        check(name, given)
    return [Chosen(name, given) for name, given in parameters.items()]


def _value(name: str, key: str, text: str) -> object:
    """What is set, as YAML; ``none`` is null too where a parameter can be null."""
    value = load_yaml(text, label=f"--set {name}.{key}", numbered=False)[0]
    parameter = find(name).parameters.get(key)
    legal = () if parameter is None or not isinstance(parameter.legal, tuple) else parameter.legal
    nothing = parameter is not None and parameter.optional and value in ("none", "None") and value not in legal
    return None if nothing else value


def _report(options: ScoreOptions, table: Table, scores: Sequence[Score], out: Console) -> None:
    """The tables, unless the output is JSON, and the files that were asked for."""
    drawn = options.compare or options.picture is not None
    if options.as_json and not drawn and options.properties is None:
        return
    found = [properties_of(table, item) for item in scores]
    if not options.as_json:
        if not options.compare:
            score_text.print_prompts(out, table, scores, every=options.every_prompt)
        score_text.print_properties(out, table, found, side_by_side=options.compare)
    if options.properties is not None:
        write_atomic(options.properties, json.dumps([item.to_json() for item in found], indent=2) + "\n")
    if drawn:
        path = options.picture or Path(f"{options.rollouts.stem}_rewards.png")
        path.write_bytes(draw(table, scores, found))
        print(f"\npicture: {short(path)}", file=sys.stderr if options.as_json else sys.stdout)
