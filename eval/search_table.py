"""The searches of a `results.json` as tables: what was searched, whether it was needed, what each search is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from laconic.eval.table import bracket

Row: TypeAlias = Mapping[str, Any]
Table: TypeAlias = tuple[str, list[str], list[list[str]]]
"""Title, header, cells; the first column is the model's."""

_DASH = "–"
_SHARES = {
    "em": "EM, %",
    "f1": "F1, %",
    "cover_em": "cover EM, %",
}
_DONE = {
    "searches": "searches",
    "searches_right": "searches, right",
    "searches_wrong": "searches, wrong",
    "tool_productivity": "productivity",
    "parametric_accuracy": "right without search, %",
    "parametric_precision": "right if not searched, %",
}
_COST = {
    "retrieved_tokens": "retrieved tokens",
    "tokens": "generated tokens",
    "seconds": "seconds",
    "price_per_1000": "price of 1,000",
}
_NEEDED = {
    "searched_known": "searches if all is known, %",
    "searched_missing": "searches if something is missing, %",
    "over_search": "over-search, %",
    "under_search": "under-search, %",
    "useful": "useful searches, %",
    "redundant": "redundant searches, %",
    "isr": "ISR, %",
    "ise": "ISE",
    "abstention_precision": "abstention precision, %",
    "abstention_recall": "abstention recall, %",
}
_CLOSED = {
    "closed_book_accuracy": "right with the book closed, %",
    "search_precision": "search precision, %",
    "search_recall": "search recall, %",
    "f1_aware": "F1 of not searching, %",
    "intercept": "searches where never right, %",
    "slope": "less where always right, points",
}
KNOWN = {
    "exact": "Over- and under-search are exact: the world says which pages a question takes.",
    "gold": "Over- and under-search go by gold documents: a search after all were shown, a wrong answer without all.",
    "nothing": "The problems do not say which documents they take, so over- and under-search are not known.",
    "mixed": "Over- and under-search are of the problems that say which documents they take.",
}


def tables(results: Mapping[str, Any]) -> Iterator[Table]:
    """Every table of the first task; columns without any number are left out."""
    rows = first_rows(results)
    if not rows:
        return
    pairs = {(pair["eval"], pair["task"], pair["model"]): pair for pair in results["search"]["paired"]}
    yield _table("What is searched", rows, {**_SHARES, **_DONE}, extra=("searches vs baseline", _ratio(pairs)))
    yield _table("What is needed", rows, _NEEDED)
    yield _table("What it costs, per question", rows, _COST)
    yield _shares(rows)
    yield _held(rows)
    closed = [{**(row["closed_book"] or {}), "model": row["model"]} for row in rows if row["closed_book"]]
    if closed:
        yield _table("What is known", closed, _CLOSED)
        yield _curve(rows)


def first_rows(results: Mapping[str, Any]) -> list[Row]:
    """Of all tasks together, in each evaluation."""
    first: dict[str, str] = {}
    rows = results.get("search", {"rows": []})["rows"]
    return [row for row in rows if row["task"] == first.setdefault(row["eval"], row["task"])]


def caption(results: Mapping[str, Any]) -> str:
    """How the episodes were run, and what the words mean."""
    rows, about = first_rows(results), results["search"]["settings"]
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items())
    return (
        f"Episodes: {settings}. Brackets are 95 % intervals over resampled questions. {KNOWN[rows[0]['documents']]} "
        "Productivity is the mean of right / (1 + searches). A search is useful if it brings in a page that was "
        "missing, redundant if it repeats a query or brings in nothing new. ISR: share of the pages to be read that "
        "were brought in; ISE: how many of them per search. Seconds are of an episode among others at the same time."
    )


def _table(
    title: str, rows: Sequence[Row], names: Mapping[str, str], *, extra: tuple[str, Callable[[Row], str]] | None = None
) -> Table:
    shown = {name: label for name, label in names.items() if any(row.get(name) is not None for row in rows)}
    header, cells = (
        ["model", *shown.values()],
        [[row["model"], *(_cell(row, n, names[n]) for n in shown)] for row in rows],
    )
    if extra is not None and any(extra[1](row) != _DASH for row in rows):
        at = header.index("searches") + 1
        header.insert(at, extra[0])
        for line, row in zip(cells, rows, strict=True):
            line.insert(at, extra[1](row))
    return title, header, cells


def _cell(row: Row, name: str, label: str) -> str:
    value, interval = row.get(name), row.get(f"{name}_ci")
    if value is None:
        return _DASH
    scale = 100 if label.endswith((", %", ", points")) else 1
    form = ".1f" if scale == 100 or value >= 10 else ".2f"
    return f"{scale * value:{form}}{bracket(interval, scale, form)}"


def _ratio(pairs: Mapping[tuple[str, str, str], Row]) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        pair = pairs.get((row["eval"], row["task"], row["model"]))
        if pair is None or pair["searches_ratio"] is None:
            return _DASH
        return f"{100 * pair['searches_ratio']:.0f} %{bracket(pair['searches_ratio_ci'], 100, '.0f')}"

    return cell


def _shares(rows: Sequence[Row]) -> Table:
    most = max((int(number) for row in rows for number in row["distribution"]), default=0)
    header = ["model", *(f"{number} search{'' if number == 1 else 'es'}, %" for number in range(most + 1))]
    cells = [[row["model"], *(_percent(row["distribution"].get(str(n))) for n in range(most + 1))] for row in rows]
    return "How many searches an episode makes", header, cells


def _held(rows: Sequence[Row]) -> Table:
    budgets = list(dict.fromkeys(budget for row in rows for budget in row["held_to"]))
    header = ["model", *(f"right with at most {budget}, %" for budget in budgets), "right, %"]
    early = any(row.get("early_correct") is not None for row in rows)
    header += ["right before the last search, %"] * early
    cells = [
        [
            row["model"],
            *(_cell(row["held_to"].get(b, {}), "accuracy", ", %") for b in budgets),
            _cell(row, "accuracy", ", %"),
            *([_cell(row, "early_correct", ", %")] * early),
        ]
        for row in rows
    ]
    return "What each search is worth", header, cells


def _curve(rows: Sequence[Row]) -> Table:
    rows = [row for row in rows if row["closed_book"]]
    levels = list(dict.fromkeys(point["closed_book"] for row in rows for point in row["closed_book"]["curve"]))
    header = ["model", *(f"searches at {100 * level:.0f} %" for level in levels)]
    cells = []
    for row in rows:
        points = {point["closed_book"]: point for point in row["closed_book"]["curve"]}
        cells.append([row["model"], *(_cell(points.get(level, {}), "searched", ", %") for level in levels)])
    return "Searches by closed-book accuracy, % of episodes", header, cells


def _percent(value: float | None) -> str:
    return _DASH if value is None else f"{100 * value:.1f}"


def markdown(results: Mapping[str, Any]) -> str:
    """All tables, and how to read them."""
    parts = []
    for title, header, cells in tables(results):
        rule = [":--", *["--:"] * (len(header) - 1)]
        lines = [[cell.replace("|", "\\|") for cell in line] for line in (header, *cells)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
        parts.append(f"{title}:\n\n{text}")
    return "\n\n".join([*parts, caption(results)])
