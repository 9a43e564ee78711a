"""The report as one HTML file without anything to load: styles and pictures are inside, and there is no script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from laconic.eval import headline as wording
from laconic.eval import policy_table, search_table, step_time
from laconic.eval.examples import Example
from laconic.eval.headline import Headline
from laconic.eval.step_time import StepTime
from laconic.eval.table import caption, number, subject, table_rows
from laconic.eval.theme import LIGHT

TEMPLATES = Path(__file__).parent / "templates"
COLORS = len(LIGHT.cycle)
"""Colours of models in the style sheet; they are those of the pictures."""
VERDICTS = {
    "gained": "Accuracy higher",
    "held": "Accuracy not lower",
    "lost": "Accuracy fell",
    "open": "Whether accuracy held is not shown",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture in both colour schemes."""

    name: str
    """File name without suffix."""
    title: str
    note: str
    """What to see in it."""
    light: bytes
    dark: bytes

    def files(self) -> dict[str, bytes]:
        """The PNG files to write, by name."""
        return {f"{self.name}.png": self.light, f"{self.name}_dark.png": self.dark}


def render(
    *,
    title: str,
    headline: Headline,
    results: Mapping[str, Any],
    pictures: Sequence[Picture],
    curves: Sequence[Picture],
    policies: Sequence[Picture],
    examples: Sequence[Example],
    searches: Sequence[Picture] = (),
    steps: Sequence[StepTime] = (),
    step_pictures: Sequence[Picture] = (),
) -> str:
    """Fill the template. All text from models and recipes is escaped.

    Args:
        title: The recipe's name.
        headline: The opening sentence.
        results: The merged `results.json`.
        pictures: Of the evaluation.
        curves: Of the training stages.
        policies: Of the models under policies, one for each table.
        examples: Problems shown in full.
        searches: Of models that search.
        steps: Where the seconds of training steps went.
        step_pictures: Of the same.
    """
    header, cells = table_rows(results)
    models = list(dict.fromkeys(row["model"] for row in results["rows"]))
    ends = _ends(results, headline)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            headline=headline,
            verdict=VERDICTS.get(headline.verdict),
            results=results,
            first=results["rows"][0],
            ends=ends,
            tiles=_tiles(*ends) if ends else (),
            header=header,
            cells=cells,
            texts=header.index("model") + 1,
            colors={name: place % COLORS for place, name in enumerate(models)},
            caption=caption(results),
            subject=subject(results),
            pictures=pictures,
            curves=curves,
            policies=list(zip(policy_table.blocks(results), policies, strict=True)),
            policy_cells=policy_table.cells,
            policy_sentence=policy_table.sentence,
            policy_caption=policy_table.caption(results) if policies else "",
            examples=examples,
            searches=searches,
            steps=steps,
            step_table=step_time.table(steps),
            step_note=step_time.note(steps),
            step_pictures=step_pictures,
            search_tables=list(search_table.tables(results)),
            search_caption=search_table.caption(results) if searches else "",
            facts=results["provenance"],
            provenance=_provenance(results["provenance"]),
            css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "data_uri": _data_uri,
        "duration": duration,
        "number": number,
        "p_value": p_value,
        "percent": wording.percent,
        "points": wording.points,
        "share": lambda value: number(None if value is None else 100 * value),
        "signed": lambda value: f"{value:+.2f}".replace("-", "−"),
        "span": wording.span,
    }
    return environment


def _ends(results: Mapping[str, Any], headline: Headline) -> tuple[Any, Any] | None:
    """Rows of the baseline and of the model that the headline compares."""
    pair = headline.pair
    if pair is None:
        return None
    rows = {(row["eval"], row["task"], row["model"]): row for row in results["rows"]}
    return tuple(rows[pair["eval"], pair["task"], pair[role]] for role in ("baseline", "model"))


def _tiles(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Label, baseline and model of the numbers at the top."""
    shown = {
        "tokens per answer": lambda row: number(row["tokens"]),
        "accuracy": lambda row: wording.percent(row["accuracy"], 1),
        "tokens per right answer": lambda row: number(row["tokens_per_correct"]),
        "cut at the limit": lambda row: wording.percent(row["truncated"], 1),
    }
    return [(label, form(before), form(after)) for label, form in shown.items()]


def _provenance(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything but the stages, as text."""
    shown = {name: value for name, value in facts.items() if name not in ("stages", "commit", "evals")}
    commit = facts.get("commit")
    code = f"{commit['hash']}{', with uncommitted changes' if commit['dirty'] else ''}" if commit else "not in a commit"
    return [("commit", code), *((name.replace("_", " "), _plain(value)) for name, value in shown.items())]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items() if item not in (None, [], {}))
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def duration(seconds: float | None) -> str:
    """Seconds as ``1 h 05 min``, ``3 min 20 s`` or ``12 s``; a dash if unknown."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def p_value(value: float) -> str:
    """Three decimals, or ``< 0.001``."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
