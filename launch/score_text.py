"""The tables of `laconic score`: readable without colour in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from laconic.launch.text import share
from laconic.launch.text import table as text_table
from laconic.rewards.group import Array, Group
from laconic.rewards.score import Score, Table
from laconic.rewards.score_report import Correlation, Properties

MOST_PROMPTS = 5
"""Prompts that are shown unless all are asked for."""
MOST_ROLLOUTS = 16
"""Rollouts of a prompt that are shown unless all are asked for."""
_WIDEST = 100
_FIRST_COLUMNS = 26
"""Characters of line, verdict and length."""
_LEGEND = (
    "wrong > right: share of (wrong, right) pairs of a group in which the wrong one has the higher reward",
    "moves wrong: share of wrong rollouts whose reward changes when their own length is doubled or halved",
    "no signal: share of groups whose rewards are all equal",
    "rho: Spearman's rank correlation of reward and length, over all rollouts of the file",
)


def print_prompts(out: Console, table: Table, scores: Sequence[Score], *, every: bool) -> None:
    """One table per prompt and step: line, verdict, length, and reward and advantage by each reward."""
    prompts = list(_prompts(table))
    joined = [(score.chosen.name, table.joined(score.rewards), table.joined(score.advantages)) for score in scores]
    shown = prompts if every else prompts[:MOST_PROMPTS]
    for title, group, places in shown:
        print(title)
        kept = len(places) if every else MOST_ROLLOUTS
        for part in _that_fit(joined, min(out.width, _WIDEST)):
            _print_group(out, table, group, places[:kept], part)
        if kept < len(places):
            print(f"... {_count(len(places) - kept, 'more rollout')} of this prompt")
        print()
    if len(shown) < len(prompts):
        left = len(prompts) - len(shown)
        print(f"... {_count(left, 'more prompt')}; --all shows {'it' if left == 1 else 'them'}\n")


def _prompts(table: Table) -> Iterator[tuple[str, Group, Array]]:
    for batch, groups in zip(table.batches, table.places, strict=True):
        for group, places in zip(batch, groups, strict=True):
            step = table.file.step(int(places[0]))
            yield f"prompt {group.problem_id}" + ("" if step is None else f", step {step}"), group, places


def _that_fit(joined: Sequence[tuple[str, Array, Array]], width: int) -> Iterator[list[tuple[str, Array, Array]]]:
    """The rewards in portions that stand side by side in this width."""
    part: list[tuple[str, Array, Array]] = []
    used = _FIRST_COLUMNS
    for item in joined:
        needed = max(len(item[0]), 8) + 10
        if part and used + needed > width:
            yield part
            part, used = [], _FIRST_COLUMNS
        part.append(item)
        used += needed
    yield part


def _print_group(
    out: Console, table: Table, group: Group, places: Array, part: Sequence[tuple[str, Array, Array]]
) -> None:
    header = ["line", "verdict", "length", *(title for name, _, _ in part for title in (name, "adv."))]
    rows = [
        [
            str(table.file.rows[place].line),
            _verdict(group, at),
            f"{group.length[at]:g}",
            *(cell for _, rewards, relative in part for cell in (_number(rewards[place]), f"{relative[place]:+.2f}")),
        ]
        for at, place in enumerate(places.tolist())
    ]
    out.print(text_table(header, rows, right=[0, *range(2, len(header))]))


def _verdict(group: Group, at: int) -> str:
    said = "right" if group.correct[at] else "wrong"
    return said if group.finished[at] else f"{said}, cut"


def print_properties(out: Console, table: Table, found: Sequence[Properties], *, side_by_side: bool) -> None:
    """What the rewards do on this file: in sentences, or as one table with a row per reward."""
    first, width = found[0], min(out.width, _WIDEST)
    steps = "" if table.file.step(table.file.with_verdict[0]) is None else f", {_count(first.steps, 'step')}"
    counted = f"{_count(first.rollouts, 'rollout')} in {_count(first.groups, 'group')}{steps}"
    print(f"{table.file.path}: {counted}\n")
    if side_by_side:
        out.print(_side_by_side(found))
        print()
        remarks = list(_remarks(found))
        for line in (*_LEGEND, *(["", *remarks] if remarks else [])):
            print(textwrap.fill(line, width, subsequent_indent="  "))
    else:
        for item in found:
            _print_sentences(item, width)


def _remarks(found: Sequence[Properties]) -> Iterator[str]:
    """What the side-by-side table has no column for."""
    for item in found:
        if item.first_wrong_above_right:
            yield f"{item.reward}: {_first_pair(item)}"
        if item.wrong_tried < item.wrong:
            yield f"{item.reward}: moves wrong is from {item.wrong_tried:,} of {item.wrong:,} wrong rollouts"
        if item.abstained:
            yield f"{item.reward}: abstains from {item.abstained} of {_count(item.rollouts, 'rollout')}"


def _side_by_side(found: Sequence[Properties]) -> RichTable:
    header = ["reward", "mean\nright", "mean\nwrong", "wrong >\nright", "moves\nwrong", "no\nsignal"]
    header += ["rho\nright", "rho\nwrong", "rho\nall"]
    rows = [
        [
            item.reward,
            _number(item.mean_right),
            _number(item.mean_wrong),
            share(item.wrong_above_right, item.pairs),
            share(item.wrong_moved, item.wrong_tried),
            share(item.groups_without_signal, item.groups),
            *(_signed(value) for value in (item.spearman.right, item.spearman.wrong, item.spearman.all)),
        ]
        for item in found
    ]
    made = text_table(header, rows, right=range(1, len(header)))
    made.columns[0].min_width = min(max(len(item.reward) for item in found), 24)
    made.padding = (0, 1, 0, 0)
    return made


def _print_sentences(item: Properties, width: int) -> None:
    print(item.reward)
    for title, sentence in _sentences(item):
        indent = " " * 24
        print(textwrap.fill(sentence, width, initial_indent=f"  {title:<22}", subsequent_indent=indent))
    print()


def _sentences(item: Properties) -> Iterator[tuple[str, str]]:
    yield "wrong above right", _beaten(item)
    yield "length moves wrong", _moved(item)
    without = f"{item.groups_without_signal} of {_count(item.groups, 'group')}"
    yield "no signal", f"{without} ({share(item.groups_without_signal, item.groups)}): all rewards equal"
    yield "mean reward", f"right {_number(item.mean_right)}, wrong {_number(item.mean_wrong)}"
    yield "reward and length", f"rank correlation: {_correlation(item.spearman)}"
    yield "", f"inside the groups: {_correlation(item.spearman_within_groups)}"
    if item.abstained:
        yield "abstains", f"from {item.abstained} of {_count(item.rollouts, 'rollout')}"


def _beaten(item: Properties) -> str:
    if not item.pairs:
        return "no group has a right and a wrong rollout"
    if item.first_wrong_above_right is None:
        return f"never, in {_count(item.pairs, 'pair')} of one group"
    beaten = f"{item.wrong_above_right} of {_count(item.pairs, 'pair')} of one group"
    return f"{beaten} ({share(item.wrong_above_right, item.pairs)}); {_first_pair(item)}"


def _first_pair(item: Properties) -> str:
    pair = item.first_wrong_above_right
    assert pair is not None
    wrong = f"the wrong rollout in line {pair.wrong_line} gets {_number(pair.wrong_reward)}"
    return f"{wrong}, the right one in line {pair.right_line} {_number(pair.right_reward)} (prompt {pair.prompt_id})"


def _moved(item: Properties) -> str:
    some = f" (from {item.wrong:,})" if item.wrong_tried < item.wrong else ""
    tried = f"{_count(item.wrong_tried, 'wrong rollout')}{some} tried"
    if not item.wrong_tried:
        return "there are no wrong rollouts"
    if not item.wrong_moved:
        return f"no: {tried} at twice and at half their length"
    twice, half = item.change_at_twice_the_length, item.change_at_half_the_length
    assert twice is not None
    assert half is not None
    change = f"mean change {twice:+.3g} at twice their length, {half:+.3g} at half"
    return f"yes, {item.wrong_moved:,} of {tried}; {change}"


def _correlation(values: Correlation) -> str:
    return f"right {_signed(values.right)}, wrong {_signed(values.wrong)}, all {_signed(values.all)}"


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value + 0.0:.4g}"  # -0 becomes 0


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
