"""Write the quickstart's figures into README.md from the result files in bench/results.

    python bench/readme_results.py

Everything between the two markers in README.md comes from here, so no figure there lacks a file behind it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quickstart_seeds import verdict

from laconic.eval import policy_table
from laconic.eval.headline import headline
from laconic.eval.table import markdown_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
POLICY_COLUMNS = (
    *("policy", "accuracy, %", "tokens", "tokens vs no policy", "accuracy vs no policy, points", "what it shows"),
    *("critical path", "probes and other", "discarded", "answered, %"),
)
BEGIN, END = "<!-- quickstart:begin -->", "<!-- quickstart:end -->"


def section(results: dict[int, dict[str, Any]]) -> str:
    """The README's section for result files by seed; the first seed is the one that is shown in full."""
    shown = results[min(results)]
    return "\n".join(
        [
            BEGIN,
            f"**Measured** (seed {min(results)}): {headline(shown).sentence}",
            "",
            "<picture>",
            '  <source media="(prefers-color-scheme: dark)" srcset="docs/images/quickstart_dark.png">',
            '  <img src="docs/images/quickstart.png" alt="Accuracy against tokens of the three checkpoints">',
            "</picture>",
            "",
            markdown_table(shown).strip(),
            "",
            _provenance(shown),
            "",
            "The same claim, at most 60 % of the SFT checkpoint's tokens and accuracy not lower (one-sided, margin 1 "
            "point), for each seed:",
            "",
            "| seed | tokens vs sft | accuracy sft | accuracy grpo | difference, 95 % interval | holds |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_seed_row(seed, result) for seed, result in sorted(results.items())),
            *(_policies(shown) if "policies" in shown else ()),
            END,
        ]
    )


def _policies(results: dict[str, Any]) -> list[str]:
    """How the same models do under inference policies: a picture, and a short table for each model."""
    lines = [
        "",
        "And by how they are asked: inference policies on the checkpoints, each against no policy of the same "
        "checkpoint on the same held-out problems with the same random numbers. Parameters were chosen on "
        "training problems; all tokens count, those of probes and discarded traces too.",
        "",
        "<picture>",
        '  <source media="(prefers-color-scheme: dark)" srcset="docs/images/quickstart_policies_dark.png">',
        '  <img src="docs/images/quickstart_policies.png" alt="Accuracy against tokens of the SFT checkpoint under '
        'policies">',
        "</picture>",
    ]
    for block in policy_table.blocks(results):
        header, cells = policy_table.cells(block)
        shown = [header.index(name) for name in POLICY_COLUMNS if name in header]
        rows = [[line[place] for place in shown] for line in cells]
        lines += ["", policy_table.sentence(block), ""]
        lines += [policy_table.markdown_lines([header[place] for place in shown], rows)]
    return [*lines, "", policy_table.caption(results)]


def _seed_row(seed: int, results: dict[str, Any]) -> str:
    pair = next(pair for pair in results["paired"] if (pair["model"], pair["baseline"]) == ("grpo", "sft"))
    accuracy = {row["model"]: 100 * row["accuracy"] for row in results["rows"]}
    low, high = (100 * end for end in pair["d_accuracy_ci"])
    return (
        f"| {seed} | {100 * pair['token_ratio']:.0f} % | {accuracy['sft']:.1f} % | {accuracy['grpo']:.1f} % "
        f"| {low:+.1f} to {high:+.1f} points | {'yes' if verdict(results)[0] else 'no'} |"
    )


def _provenance(results: dict[str, Any]) -> str:
    facts = results["provenance"]
    commit = facts["commit"]["hash"][:10] if facts["commit"] else "not under version control"
    return (
        f"Made by `make quickstart` at commit {commit} on {facts['hardware']['cpu']}, {facts['hardware']['cores']} "
        f"cores; the file is `bench/results/quickstart_seed{facts['seed']}.json`."
    )


def main() -> None:
    """Rewrite README.md in place."""
    found = {int(path.stem.rpartition("seed")[2]): path for path in RESULTS.glob("quickstart_seed*.json")}
    results = {seed: json.loads(path.read_text()) for seed, path in found.items()}
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(before + section(results) + rest.partition(END)[2])


if __name__ == "__main__":
    main()
