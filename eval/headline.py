"""The one sentence a report opens with: what was saved, and whether accuracy held. It claims no more than was shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FEW_PROBLEMS = 100
"""Below this many problems a result says that the chain runs, and nothing about which model is better."""


@dataclass(frozen=True, slots=True)
class Headline:
    """What the top of a report says."""

    sentence: str
    verdict: str
    """``gained`` (accuracy shown to be higher), ``held`` (shown not to be lower by more than the margin), ``lost``
    (shown to be lower), ``open`` (neither) or ``none`` (nothing was compared)."""
    caveat: str | None
    pair: Mapping[str, Any] | None
    """The comparison that the sentence is about."""


def headline(results: Mapping[str, Any]) -> Headline:
    """Sum up the last model of the first evaluation against its baseline, over all tasks."""
    first = results["rows"][0]
    caveat = _caveat(first["n_problems"])
    pairs = [pair for pair in results["paired"] if (pair["eval"], pair["task"]) == (first["eval"], first["task"])]
    if not pairs:
        sentence = (
            f"{first['model']} is right {percent(first['accuracy'], 1)} of the time at {first['tokens']:.1f} tokens"
        )
        return Headline(f"{sentence}. Nothing was compared.", "none", caveat, None)
    pair = pairs[-1]
    verdict = _verdict(pair)
    return Headline(f"{tokens_clause(pair)}; {accuracy_clause(pair)}.", verdict, caveat, pair)


def _caveat(n_problems: int) -> str | None:
    if n_problems >= FEW_PROBLEMS:
        return None
    return f"Only {n_problems} problems: this shows that the chain runs, not which model is better."


def _verdict(pair: Mapping[str, Any]) -> str:
    if pair["d_accuracy_ci"][0] > 0:
        return "gained"
    if pair["non_inferior"]:
        return "held"
    return "lost" if pair["d_accuracy_ci"][1] < 0 else "open"


def tokens_clause(pair: Mapping[str, Any]) -> str:
    """How the lengths compare, as a main clause without a full stop."""
    share = percent(pair["token_ratio"])
    if pair["token_ratio_ci"] is None:
        return f"{pair['model']} used {share} of {pair['baseline']}'s tokens (too few problems to generalise)"
    low, high = pair["token_ratio_ci"]
    span = f"95 % CI {100 * low:.0f} to {100 * high:.0f} %"
    if low <= 1 <= high:
        return f"{pair['model']} uses about as many tokens as {pair['baseline']} ({share}, {span})"
    return f"{pair['model']} uses {share} of {pair['baseline']}'s tokens ({span})"


def accuracy_clause(pair: Mapping[str, Any]) -> str:
    """What happened to accuracy and what that shows, as a clause without a full stop."""
    change = f"accuracy {points(pair['d_accuracy'])} points (95 % CI {span(pair['d_accuracy_ci'])})"
    margin = f"{100 * pair['margin']:g} point{'' if pair['margin'] == 0.01 else 's'}"
    meanings = {
        "gained": "more often right",
        "held": f"not lower, within the margin of {margin}",
        "lost": "less often right",
        "open": f"a loss of more than {margin} is not ruled out",
    }
    return f"{change}: {meanings[_verdict(pair)]}"


def percent(value: float, digits: int = 0) -> str:
    """A share as ``52 %``."""
    return f"{100 * value:.{digits}f} %"


def points(value: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{100 * value:+.1f}".replace("-", "−")


def span(interval: Sequence[float]) -> str:
    """An interval of a difference, in points."""
    return f"{points(interval[0])} to {points(interval[1])}"
