"""The policies of a `results.json` as tables: what each costs, what it does to accuracy, what that shows, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.eval.headline import percent, points
from laconic.eval.policy_results import NONE
from laconic.eval.table import bracket, number, with_error

ALONE = "no policy"
"""What a table calls no policy."""

HEADER = (
    "policy",
    "accuracy, %",
    "tokens",
    "tokens vs no policy",
    "accuracy vs no policy, points",
    "what it shows",
    "critical path",
    "thinking",
    "answer",
    "probes and other",
    "discarded",
    "tokens per right answer",
    "answered, %",
    "right if answered, %",
    "seconds",
)
TEXTS = (0, 5)
"""Columns of words; the others are numbers."""
_HIDDEN_WITHOUT_ABSTENTION = ("answered, %", "right if answered, %")


@dataclass(frozen=True, slots=True)
class Block:
    """One model of one evaluation on one task, with its policies sorted by tokens; no policy comes first."""

    name: str
    """For file names."""
    title: str
    rows: tuple[Mapping[str, Any], ...]
    pairs: Mapping[str, Mapping[str, Any]]
    """By policy."""


def blocks(results: Mapping[str, Any], *, every_task: bool = False) -> Iterator[Block]:
    """The tables that a `results.json` has: one per model, of all tasks together or of each task too."""
    part = results.get("policies", {"rows": [], "paired": []})
    evals = {row["eval"] for row in part["rows"]}
    first: dict[str, str] = {}
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in part["rows"]:
        task = first.setdefault(row["eval"], row["task"])
        if every_task or row["task"] == task:
            groups.setdefault((row["eval"], row["model"], row["task"]), []).append(row)
    for (evaluation, model, task), rows in groups.items():
        named = [model, *([task] if every_task and task != first[evaluation] else [])]
        named += [evaluation] if len(evals) > 1 else []
        pairs = {
            pair["policy"]: pair
            for pair in part["paired"]
            if (pair["eval"], pair["model"], pair["task"]) == (evaluation, model, task)
        }
        ordered = sorted(rows, key=lambda row: (row["policy"] != NONE, row["tokens"]))
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(named))
        yield Block(name, ", ".join(named), tuple(ordered), pairs)


def cells(block: Block) -> tuple[list[str], list[list[str]]]:
    """Header and formatted cells of one table; columns that say the same everywhere are left out."""
    lines = [_cells(row, block.pairs.get(row["policy"])) for row in block.rows]
    hidden = set()
    if all(row["coverage"] == 1 for row in block.rows):
        hidden |= {HEADER.index(name) for name in _HIDDEN_WITHOUT_ABSTENTION}
    header = list(HEADER)
    if any(row["price_per_correct"] is not None for row in block.rows):
        header.append("price per right answer")
        lines = [[*line, money(row["price_per_correct"])] for line, row in zip(lines, block.rows, strict=True)]
    if any("searches" in row for row in block.rows):
        header.append("searches")
        found = [f"{row['searches']:.2f}" if "searches" in row else "–" for row in block.rows]
        lines = [[*line, cell] for line, cell in zip(lines, found, strict=True)]
    if not all(row["exact"] for row in block.rows):
        header.append("count")
        lines = [[*line, "exact" if row["exact"] else "estimate"] for line, row in zip(lines, block.rows, strict=True)]
    shown = [place for place in range(len(header)) if place not in hidden]
    return [header[place] for place in shown], [[line[place] for place in shown] for line in lines]


def _cells(row: Mapping[str, Any], pair: Mapping[str, Any] | None) -> list[str]:
    roles = row["by_role"]
    other = sum(tokens for role, tokens in roles.items() if role not in ("think", "answer"))
    return [
        label_of(row),
        with_error(row, "accuracy", 100),
        with_error(row, "tokens"),
        *(_compared(pair) if pair else ["–", "–", "–"]),
        number(row["critical_path"]),
        number(roles["think"]),
        number(roles["answer"]),
        number(other),
        number(row["by_fate"]["discarded"]),
        number(row["tokens_per_correct"]),
        f"{100 * row['coverage']:.1f}",
        "–" if row["accuracy_answered"] is None else f"{100 * row['accuracy_answered']:.1f}",
        "–" if row["seconds"] is None else f"{row['seconds']:.2f}",
    ]


def _compared(pair: Mapping[str, Any]) -> list[str]:
    ratio = f"{100 * pair['token_ratio']:.0f} %{bracket(pair['token_ratio_ci'], 100, '.0f')}"
    change = f"{100 * pair['d_accuracy']:+.1f}{bracket(pair['d_accuracy_ci'], 100, '+.1f')}"
    return [ratio, change.replace("-", "−"), words(pair)]


def label_of(row: Mapping[str, Any]) -> str:
    """What a table calls the policy of a row."""
    return ALONE if row["policy"] == NONE else row["policy"]


def words(pair: Mapping[str, Any]) -> str:
    """What a comparison shows; bold where tokens are saved and no accuracy is seen to be lost."""
    return f"**{pair['says']}**" if pair["saves"] else pair["says"]


def money(value: float | None) -> str:
    """A small amount of money with three digits that count; a dash if unknown."""
    return "–" if value is None else f"{value:.3g}"


def caption(results: Mapping[str, Any]) -> str:
    """How to read the tables."""
    pairs = results["policies"]["paired"]
    row = results["policies"]["rows"][0]
    margin = f"{100 * pairs[0]['margin']:g} point{'' if pairs[0]['margin'] == 0.01 else 's'}" if pairs else ""
    parts = [
        f"{row['n_problems']} problems, {row['n_samples']} answer{'s' if row['n_samples'] > 1 else ''} each; every "
        "policy is compared with no policy of the same model on the same problems with the same random numbers.",
        "Tokens are all that were generated, probes and discarded traces included. ± is one standard error, brackets "
        "are 95 % intervals of a bootstrap paired by problem.",
        f"A saving is significant at 5 % after Holm's adjustment for all {len(pairs)} comparisons, as is a gain of "
        "accuracy; a loss of accuracy is named without adjustment. “Not less often right” is shown within the margin "
        f"of {margin}; “no significant loss” is not shown to be none.",
        "Critical path: decode steps that had to wait for each other. Seconds are those of a question while others "
        "share the engine.",
    ]
    return " ".join(parts)


def sentence(block: Block) -> str:
    """The policies that save tokens at no significant loss, best first."""
    found = sorted((pair for pair in block.pairs.values() if pair["saves"]), key=lambda pair: pair["token_ratio"])
    if not found:
        return f"{block.title}: no policy saves tokens significantly without a significant loss of accuracy."
    told = (
        f"{pair['policy']} ({percent(1 - pair['token_ratio'])} fewer tokens, "
        f"accuracy {points(pair['d_accuracy'])} points)"
        for pair in found
    )
    return f"{block.title}: tokens saved at no significant loss of accuracy by {'; '.join(told)}."


def markdown(results: Mapping[str, Any]) -> str:
    """All tables of a `results.json`, each below the sentence that sums it up, and how to read them."""
    parts = []
    for block in blocks(results):
        header, lines = cells(block)
        parts += [sentence(block), markdown_lines(header, lines)]
    return "\n\n".join([*parts, caption(results)])


def markdown_lines(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = [":--" if place in TEXTS else "--:" for place in range(len(header))]
    rows = [[cell.replace("|", "\\|") for cell in line] for line in (header, *lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (rows[0], rule, *rows[1:]))
