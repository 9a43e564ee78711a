"""The reference page of all rewards, from the registry::

python -m laconic.rewards.reference > docs/reference/rewards.md
python -m laconic.rewards.reference --check docs/reference/rewards.md
"""

from __future__ import annotations

import argparse
import re
import string
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from laconic.rewards.columns import ALIASES, READINGS
from laconic.rewards.description import claims, default, looks_at, needs
from laconic.rewards.group import COLUMNS, Array, Batch
from laconic.rewards.registry import CLAIMS, REWARDS, Kind, Reward, build
from laconic.rewards.rollouts_file import COUNTED_AS_SEARCHES
from laconic.rewards.worked_group import PROBLEM, ROLLOUTS, TITLES, example_group

PAGE = Path("docs/reference/rewards.md")
_COMMAND = f"python -m laconic.rewards.reference > {PAGE}"
_LETTERS = dict(zip(CLAIMS, string.ascii_uppercase, strict=False))
_CODE_OR_TAG = re.compile(r"(``(?s:.+?)``|`[^`]+`|^ {4}.*$)|<", re.MULTILINE)
_KEYS = {
    "prompt_id": ("text or whole number", "the problem that the rollout answers; equal ones of a step form a group"),
    "step": ("whole number", "the training step, from 0 on, in every row or in none; the rows of a step form a batch"),
    "task": ("text", "the problem's task, for rewards that are for some tasks only"),
}
"""What a line may hold beside columns: value and meaning."""
_OWN_MODULE = "laconic.rewards."


def page() -> str:
    """The whole page as Markdown."""
    kinds = [(kind, [item for item in _ours() if item.kind == kind]) for kind in get_args(Kind)]
    parts = ["# Rewards", _introduction(), _comparison()]
    for kind, listed in kinds:
        parts += [f"## {kind.capitalize()} rewards", *map(_section, listed)]
    parts.append(_columns())
    return "\n\n".join(parts) + "\n"


def worked_rewards(reward: Reward) -> Array:
    """What the worked group gets with default parameters, shape (4,); with memory, when it is seen a second time."""
    scorer, batch = build(reward.name), Batch.of(example_group())
    if reward.stateful:
        scorer(batch)
    return np.asarray(scorer(batch), dtype=float)


def _ours() -> list[Reward]:
    # Somebody's own rewards, registered in the same process, are not on our page.
    return [item for _, item in sorted(REWARDS.items()) if item.function.__module__.startswith(_OWN_MODULE)]


def _introduction() -> str:
    return f"""<!-- Generated: {_COMMAND} -->

{len(_ours())} rewards, each from the paper that is named. `laconic list rewards NAME` prints a section of this page,
`laconic score NAME ROLLOUTS.jsonl` says what a reward would do with your own rollouts; its
columns, and the names that other programs give them, are listed [below](#columns-of-a-rollouts-file)."""


def _comparison() -> str:
    lengths = ", ".join(f"{rollout['length']:,}" for rollout in ROLLOUTS)
    made = "\n".join(f"- **{letter}**: {CLAIMS[name]}" for name, letter in _LETTERS.items())
    header = ["reward", "what it does", "looks at", "needs", *TITLES, "holds"]
    lines = [_row(header), _row(["---"] * 4 + ["---:"] * 4 + ["---"]), *(_row(_cells(item)) for item in _ours())]
    return f"""## All of them on one group

Four rollouts of one question, {PROBLEM["question"]!r}: a right answer given directly, a right one
after long thinking and two searches, a wrong one given directly, a wrong one after longer thinking and three searches;
{lengths} tokens. The numbers are computed with default parameters; a reward with history has seen the group once
before. A dash means that the reward abstains.

What holds with default parameters, tested on random groups:

{made}

{chr(10).join(lines)}"""


def _cells(reward: Reward) -> list[str]:
    """The reward's line of the comparison table."""
    made = "".join(letter for name, letter in _LETTERS.items() if name in reward.claims)
    return [
        f"[{reward.name}](#{reward.name})",
        reward.summary,
        ", ".join(looks_at(reward)),
        ", ".join(f"`{name}`" for name in reward.needs) or "-",
        *(_number(value) for value in worked_rewards(reward)),
        made or "-",
    ]


def _section(reward: Reward) -> str:
    said = reward.documentation
    parts = [
        f"### {reward.name}",
        _escaped(said.summary),
        f"Formula{_escaped(said.where)}:",
        f"```text\n{said.formula}\n```",
        _escaped(said.body.replace("::\n", ":\n")),
        _parameters(reward),
        "\n".join(f"- {_escaped(line)}" for line in needs(reward)),
        "With default parameters:\n\n" + "\n".join(f"- {line}" for line in claims(reward)),
        f"**Deviations.** {_escaped(said.deviations)}",
        f"**How it can be gamed.** {_escaped(said.gaming)}",
        f"**Paper.** {_link(reward.paper)} {_escaped(said.source)}",
        f"```python\n{said.example}\n```",
    ]
    return "\n\n".join(part for part in parts if part)


def _parameters(reward: Reward) -> str:
    if not reward.parameters:
        return "No parameters."
    lines = [_row(["parameter", "default", "legal", "unit", "meaning"]), _row(["---"] * 5)]
    for name, parameter in reward.parameters.items():
        said = reward.documentation.arguments.get(name)
        meaning, unit = (said.about, said.unit or "-") if said else ("", "-")
        lines.append(_row([f"`{name}`", f"`{default(parameter)}`", parameter.legal_values, unit, meaning]))
    return "\n".join(lines)


def _columns() -> str:
    """What a rollouts file may hold, under which names."""
    said = [(name, item.owner, item.unit, item.about) for name, item in COLUMNS.items()]
    said += [(name, "rollout", unit, about) for name, (unit, about) in _KEYS.items()]
    header = ["column", "of the", "value", "what it is", "also read from"]
    lines = [_row(["---"] * len(header))]
    lines += [_row([f"`{name}`", *cells, "; ".join(_sources(name)) or "-"]) for name, *cells in said]
    return f"""## Columns of a rollouts file

What `laconic score` reads from each line, if a reward wants it; `prompt_id`, `correct` and `length` are always needed.
Keys may also stand in a mapping under `meta`. The last column has the keys of other programs that are taken for the
column where it is not there under its own name; a note says so whenever one is.

{_row(header)}
{chr(10).join(lines)}"""


def _sources(name: str) -> list[str]:
    """Other keys that hold a column, with what their values mean where it is not the same."""
    found = [f"`{alias}`" for alias in ALIASES.get(name, ())]
    for key, meanings in READINGS.get(name, {}).items():
        values = ", ".join(f"{_plain(said)} is {_plain(meant)}" for said, meant in meanings.items())
        found.append(f"`{key}` ({values})")
    return found + [f"the number of `{key}`" for key in COUNTED_AS_SEARCHES if name == "searches"]


def _plain(value: str | bool) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_escaped(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _escaped(text: str) -> str:
    """Prose for Markdown: a tag outside of code would vanish."""
    return _CODE_OR_TAG.sub(lambda found: found[1] or "&lt;", text)


def _number(value: float) -> str:
    # Adding 0 turns the -0 that rounding may leave into 0.
    return "-" if np.isnan(value) else f"{round(value, 3) + 0.0:g}"


def _link(paper: str) -> str:
    if paper.startswith("arXiv:"):
        return f"[{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})."
    return "" if paper == "-" else f"<{paper}>."


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page, or say whether a file holds it.

    Returns:
        1 if the file that ``--check`` names is stale, else 0.
    """
    parser = argparse.ArgumentParser(description="The reference page of all rewards.")
    parser.add_argument(
        "--check",
        nargs="?",
        const=PAGE,
        type=Path,
        metavar="FILE",
        help=f"exit with 1 unless FILE ({PAGE}) is up to date",
    )
    checked = parser.parse_args(arguments).check
    if checked is None:
        sys.stdout.write(page())
        return 0
    if checked.is_file() and checked.read_text(encoding="utf-8") == page():
        return 0
    print(f"{checked} is stale: {_COMMAND}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
