"""What `laconic compare` prints: one table per model, and below it what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from laconic.eval.policy_table import ALONE
from laconic.eval.table import with_error

_NONE = "none"
_WIDEST = 100


def print_results(out: Console, results: Mapping[str, Any]) -> None:
    """The policies of a comparison below no policy, fewest tokens first; those that save without a loss are green."""
    part = results["policies"]
    tasks = list(dict.fromkeys(row["task"] for row in part["rows"]))
    for task in tasks:
        rows = [row for row in part["rows"] if row["task"] == task]
        pairs = {pair["policy"]: pair for pair in part["paired"] if pair["task"] == task}
        if len(tasks) > 1:
            out.print(f"\n{task}", style="bold", markup=False)
        # Within the console's width, where other output may be as wide as it likes.
        wide = out.width >= _WIDEST - 4
        out.print(policy_table(rows, pairs, wide=wide), width=min(out.width, _WIDEST), soft_wrap=False)
        if not wide:
            _print_verdicts(out, _by_tokens(rows), pairs)
    first = part["rows"][0]
    saved = [pair for pair in part["paired"] if pair["saves"] and pair["task"] == tasks[0]]
    answers = f"{first['n_samples']} answer{'s' if first['n_samples'] > 1 else ''} each"
    problems = f"{first['n_problems']:,} problem{'s' if first['n_problems'] > 1 else ''}"
    out.print(
        f"\n{problems}, {answers}; tokens are all that were generated. Brackets: 95 % intervals "
        "paired by problem, each for its policy alone. Savings and gains are adjusted for the number of policies "
        "(Holm), and so may not be shown where an interval by itself would.",
        style="dim",
        markup=False,
        width=min(out.width, _WIDEST),
        soft_wrap=False,
    )
    names = ", ".join(pair["policy"] for pair in sorted(saved, key=lambda pair: pair["token_ratio"]))
    told = f"saves tokens at no significant loss of accuracy: {names}"
    if not saved:
        told = "none of these policies saves tokens significantly without a significant loss of accuracy"
    out.print(f"\n{told}", markup=False, width=min(out.width, _WIDEST), soft_wrap=False)


def _by_tokens(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """No policy first."""
    return sorted(rows, key=lambda row: (row["policy"] != _NONE, row["tokens"]))


def _print_verdicts(out: Console, rows: Sequence[Mapping[str, Any]], pairs: Mapping[str, Mapping[str, Any]]) -> None:
    """What each comparison shows, where there is no room for it in the table."""
    out.print()
    for row in rows:
        if pair := pairs.get(row["policy"]):
            out.print(_name(row), style=_style(pair), markup=False, soft_wrap=False)
            out.print(f"  {pair['says']}", style=_style(pair), markup=False, soft_wrap=False)


def _name(row: Mapping[str, Any]) -> str:
    """With spaces it can be wrapped, and still be pasted behind --policy."""
    return ALONE if row["policy"] == _NONE else row["policy"].replace(":", ": ", 1).replace(",", ", ")


def policy_table(rows: Sequence[Mapping[str, Any]], pairs: Mapping[str, Mapping[str, Any]], *, wide: bool) -> Table:
    """The rows of one task as a table; a narrow one leaves standard errors, critical paths and verdicts out."""
    extra = {
        "critical\npath": (wide, lambda row: f"{row['critical_path']:,.1f}"),
        "answered,\n%": (any(row["coverage"] < 1 for row in rows), lambda row: f"{100 * row['coverage']:.1f}"),
        "price per\nright": (
            any(row["price_per_correct"] is not None for row in rows),
            lambda row: "-" if row["price_per_correct"] is None else f"{row['price_per_correct']:.3g}",
        ),
    }
    shown = {title: form for title, (wanted, form) in extra.items() if wanted}
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("policy", overflow="fold", min_width=16)
    for title in ("accuracy,\n%", "tokens", f"tokens vs\n{ALONE}", f"accuracy vs\n{ALONE}", *shown):
        table.add_column(title, justify="right", overflow="fold")
    if wide:
        table.add_column("what it shows", min_width=15, overflow="fold")
    for row in _by_tokens(rows):
        pair = pairs.get(row["policy"])
        cells = [
            _name(row),
            with_error(row, "accuracy", 100) if wide else f"{100 * row['accuracy']:.1f}",
            f"{row['tokens']:,.1f}" + ("" if row["exact"] else " (estimate)"),
            *_compared(pair),
            *(form(row) for form in shown.values()),
            *([("" if pair is None else pair["says"])] if wide else []),
        ]
        table.add_row(*map(Text, cells), style=_style(pair))
    return table


def _compared(pair: Mapping[str, Any] | None) -> tuple[str, str]:
    if pair is None:
        return "", ""
    ratio, change = f"{100 * pair['token_ratio']:.0f} %", f"{100 * pair['d_accuracy']:+.1f}"
    return ratio + _below(pair["token_ratio_ci"], ".0f"), change + _below(pair["d_accuracy_ci"], "+.1f")


def _below(interval: Sequence[float] | None, form: str) -> str:
    return "" if interval is None else f"\n[{100 * interval[0]:{form}}, {100 * interval[1]:{form}}]"


def _style(pair: Mapping[str, Any] | None) -> str:
    if pair is None:
        return "bold"
    return "green" if pair["saves"] else "red" if pair["accuracy_verdict"] == "lost" else ""
