"""Results as a Markdown table, for the report and the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = (
    "model",
    "accuracy, %",
    "tokens",
    "accuracy vs {baseline}, points",
    "tokens vs {baseline}",
    "tokens per right answer",
    "AES",
    "front",
    "thinking tokens",
    "median",
    "p90",
    "cut, %",
    "no answer, %",
    "pass@{k}, %",
    "maj@{k}, %",
)
PAIRED = ("accuracy vs {baseline}, points", "tokens vs {baseline}", "AES")
"""Left out where nothing is compared."""


def table_rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells, already formatted; a task column comes first if there are several tasks or evaluations."""
    rows = results["rows"]
    pairs = {(pair["eval"], pair["task"], pair["model"]): pair for pair in results["paired"]}
    baselines = {pair["baseline"] for pair in results["paired"]}
    baseline = baselines.pop() if len(baselines) == 1 else "baseline"
    leading = [name for name in ("eval", "task") if len({row[name] for row in rows}) > 1]
    counts = {row["n_samples"] for row in rows}
    k = counts.pop() if len(counts) == 1 else "K"
    shown = [place for place, name in enumerate(COLUMNS) if pairs or name not in PAIRED]
    header = [*leading, *(COLUMNS[place].format(baseline=baseline, k=k) for place in shown)]
    cells = []
    for row in rows:
        every = _cells(row, pairs.get((row["eval"], row["task"], row["model"])))
        cells.append([*(row[name] for name in leading), *(every[place] for place in shown)])
    return header, cells


def _cells(row: Mapping[str, Any], pair: Mapping[str, Any] | None) -> list[str]:
    samples = str(row["n_samples"])
    change, ratio, score = _paired_cells(pair) if pair else ["–"] * 3
    return [
        row["model"],
        with_error(row, "accuracy", 100),
        with_error(row, "tokens"),
        change,
        ratio,
        number(row["tokens_per_correct"]),
        score,
        "yes" if row["pareto"] else "no",
        number(row["think_tokens"]),
        number(row["tokens_median"]),
        number(row["tokens_p90"]),
        f"{100 * row['truncated']:.1f}",
        f"{100 * row['unparsable']:.1f}",
        f"{100 * row['pass_at_k'][samples]:.1f}",
        f"{100 * row['maj_at_k'][samples]:.1f}",
    ]


def _paired_cells(pair: Mapping[str, Any]) -> list[str]:
    cells = [
        f"{100 * pair['d_accuracy']:+.1f}{bracket(pair['d_accuracy_ci'], 100, '+.1f')}",
        f"{100 * pair['token_ratio']:.0f} %{bracket(pair['token_ratio_ci'], 100, '.0f')}",
        "–" if pair["aes"] is None else f"{pair['aes']:+.2f}",
    ]
    return [cell.replace("-", "−") for cell in cells]


def bracket(interval: Sequence[float] | None, scale: float, form: str) -> str:
    """An interval as `` [low, high]``; nothing if it is undefined."""
    return "" if interval is None else f" [{scale * interval[0]:{form}}, {scale * interval[1]:{form}}]"


def with_error(row: Mapping[str, Any], name: str, scale: float = 1) -> str:
    """A mean and its standard error; a dash for one that cannot be known."""
    error = row[f"{name}_se"]
    return f"{scale * row[name]:.1f} ± {'–' if error is None else format(scale * error, '.1f')}"


def number(value: float | None) -> str:
    """Tokens to one decimal; a dash for what does not exist."""
    return "–" if value is None else f"{value:.1f}"


def markdown_table(results: Mapping[str, Any]) -> str:
    """The table of a `results.json`, with a caption that says what was measured and how.

    Args:
        results: As `results.build_results` returns it, or parsed from a report's `results.json`.
    """
    header, cells = table_rows(results)
    text = header.index("model") + 1
    rule = [":--"] * text + ["--:"] * (len(header) - text)
    lines = [f"| {' | '.join(map(_escaped, line))} |" for line in (header, *cells)]
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:], "", caption(results)])


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def caption(results: Mapping[str, Any]) -> str:
    """How the numbers were measured, in a few sentences."""
    row, facts = results["rows"][0], results["provenance"]
    parts = [
        f"{subject(results)}, {row['n_samples']} sample{'s' if row['n_samples'] > 1 else ''} each"
        + (f" ({_sampling(facts['sampling'])})." if facts.get("sampling") else "."),
        "± is one standard error, clustered by problem; brackets are 95 % intervals of a bootstrap paired by problem.",
    ]
    if results["paired"]:
        weights = results["paired"][0]["aes_coefficients"]
        parts.append(
            "AES: accuracy-efficiency score with "
            + ", ".join(f"{name} = {value:g}" for name, value in weights.items())
            + "."
        )
    if facts.get("unscorable_problems"):
        parts.append(f"{facts['unscorable_problems']} problems without a checkable gold answer are left out.")
    return " ".join(parts)


def subject(results: Mapping[str, Any]) -> str:
    """How many problems of which kind the first row is about."""
    split = results["provenance"].get("split")
    return f"{results['rows'][0]['n_problems']} {'held-out ' if split == 'test' else ''}problems"


def _sampling(sampling: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in sampling.items() if value is not None)
