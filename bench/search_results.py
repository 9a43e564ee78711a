"""What the result files on search say, as lines of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from provenance_line import provenance_line
from search_seeds import SEARCH, verdict

from laconic.eval.policy_table import markdown_lines

_COLUMNS = {
    "accuracy": ("right, %", 100, ".1f"),
    "searches": ("searches per question", 1, ".2f"),
    "searched_known": ("searched where taught, %", 100, ".1f"),
    "searched_missing": ("searched where not, %", 100, ".1f"),
    "over_search": ("over-search, %", 100, ".1f"),
    "under_search": ("under-search, %", 100, ".1f"),
    "tokens": ("generated tokens", 1, ".1f"),
}


def models_table(results: dict[str, Any], *, models: Sequence[str] | None = None) -> str:
    """One line per model with 95 % intervals, in the order of the evaluation.

    Args:
        results: A result file.
        models: Those to show; None shows all.
    """
    rows = [row for row in results["search"]["rows"] if models is None or row["model"] in models]
    header = ["model", *(title for title, _, _ in _COLUMNS.values())]
    return markdown_lines(header, [[row["model"], *(_cell(row, name) for name in _COLUMNS)] for row in rows])


def _cell(row: dict[str, Any], name: str) -> str:
    _, scale, form = _COLUMNS[name]
    if row[name] is None:
        return "–"
    low, high = (format(scale * end, form) for end in row[f"{name}_ci"])
    return f"{format(scale * row[name], form)} [{low}, {high}]"


def seeds_section(results: dict[int, dict[str, Any]]) -> str:
    """The README's section on the search quickstart."""
    if not results:
        return "Not yet measured."
    seed = min(results)
    return "\n".join(
        [
            f"**Measured** (seed {seed}, {results[seed]['search']['rows'][0]['n_problems']} held-out questions, 95 % "
            "intervals):",
            "",
            "<picture>",
            '  <source media="(prefers-color-scheme: dark)" srcset="docs/images/search_quickstart_dark.png">',
            '  <img src="docs/images/search_quickstart.png" alt="Accuracy against searches of the three checkpoints">',
            "</picture>",
            "",
            models_table(results[seed]),
            "",
            provenance_line(results[seed], "make search-quickstart", f"{SEARCH.recipe}_seed{seed}.json"),
            "",
            "For each seed, `mash` against `outcome`, both trained in the same run from the same checkpoint:",
            "",
            markdown_lines(
                [
                    *("seed", "searches", "accuracy, points", "searched where taught, %", "searched where not, %"),
                    *("at most 60 % of the searches, accuracy within 2 points, under 20 % and over 80 %",),
                ],
                [_seed_row(seed, result) for seed, result in results.items()],
            ),
        ]
    )


def _seed_row(seed: int, results: dict[str, Any]) -> list[str]:
    found = results["search"]
    pair = next(pair for pair in found["paired"] if (pair["model"], pair["baseline"]) == ("mash", "outcome"))
    row = next(row for row in found["rows"] if row["model"] == "mash")
    low, high = (100 * end for end in pair["d_accuracy_ci"])
    return [
        str(seed),
        f"{100 * pair['searches_ratio']:.0f} %",
        f"{100 * pair['d_accuracy']:+.1f} [{low:+.1f}, {high:+.1f}]",
        f"{100 * row['searched_known']:.1f}",
        f"{100 * row['searched_missing']:.1f}",
        "yes" if verdict(results)[0] else "no",
    ]
