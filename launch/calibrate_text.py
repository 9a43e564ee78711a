"""What `laconic calibrate` prints: the threshold, what it costs, whether the target held, and what-if tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from laconic.inference.calibration import Calibration, Check
from laconic.inference.policies.choose import Choice
from laconic.inference.target import Target
from laconic.launch.text import table

_GUARANTEE = (
    "The guarantee is for new questions from where the recorded ones came from, this model and this sampling; it is "
    "broken in at most {missed:g} % of calibrations."
)
_LOOK = (
    "Look {look} at these recordings: tested at a level of {level:.3g} %, so that all looks together, past "
    "and to come, stay within {missed:g} %."
)


def print_calibration(out: Console, made: Calibration) -> None:
    """The choice, where it was made and where it was checked."""
    lines = {
        "policy": str(Choice(made.policy, made.settings)),
        "model": made.model,
        "target": str(made.target),
        made.parameter: f"{made.threshold:.6g} ({_chosen(made)})",
    }
    for name, text in lines.items():
        out.print(f"{name:<10} {text}", markup=False)
    checks = {"chosen on": made.seen} | ({"held out": made.held_out} if made.held_out else {})
    level = made.provenance.get("level", 1 - made.target.confidence)
    columns = [_facts(made.target, one, level) for one in checks.values()]
    out.print()
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    out.print(table(["", *checks], rows, right=range(1, len(checks) + 1)))
    out.print()
    out.print(held_out_sentence(made.target, made.held_out), markup=False)
    missed = round(100 * (1 - made.target.confidence), 6)
    out.print(_GUARANTEE.format(missed=missed), markup=False)
    if "look" in made.provenance:
        out.print(_LOOK.format(look=made.provenance["look"], level=100 * level, missed=missed), markup=False)


def _chosen(made: Calibration) -> str:
    return f"the cheapest of {made.accepted} that are shown to keep it, of {made.candidates} that differ"


def what_is_lost(target: Target) -> str:
    """The loss that the target limits, in the words of a table."""
    if target.max_error is not None:
        return "wrong, %"
    return "net drop, points" if target.signed else "made wrong, %"


def _facts(target: Target, one: Check, level: float) -> dict[str, str]:
    """A check, line by line; plain is the policy that never stops and never probes."""
    return {
        "questions": f"{one.questions:,}",
        "accuracy, %": f"{100 * one.accuracy:.1f}",
        "plain's accuracy, %": f"{100 * one.baseline_accuracy:.1f}",
        what_is_lost(target): f"{100 * one.loss:.2f}",
        f"- at most ({100 * (1 - level):.4g} %)": f"{100 * one.upper:.2f}",
        "tokens": f"{one.tokens:,.1f}",
        "plain's tokens": f"{one.baseline_tokens:,.1f}",
        "saving [95 %]": saving(one),
    }


def saving(one: Check) -> str:
    """A share of tokens with its interval: ``12 % [8, 16]``."""
    if one.saving_interval is None:
        return f"{100 * one.saving:.1f} %"
    low, high = (100 * side for side in one.saving_interval)
    return f"{100 * one.saving:.1f} % [{low:.1f}, {high:.1f}]"


def held_out_sentence(target: Target, one: Check | None) -> str:
    """Whether the target held where it was not chosen."""
    if one is None:
        return "No questions were held out: the choice was not checked elsewhere."
    where, limit = f"On {one.questions} held-out questions", 100 * target.limit
    if one.verdict == "confirmed":
        return f"{where} the target held: {100 * one.loss:.2f}, at most {100 * one.upper:.2f}, of {limit:g} allowed."
    if one.verdict == "contradicted":
        return f"{where} the target did NOT hold: {100 * one.loss:.2f}, at least {100 * one.lower:.2f}, of {limit:g}."
    side = "within" if one.loss <= target.limit else "above"
    return (
        f"{where} the loss was {100 * one.loss:.2f}, {side} the limit of {limit:g}; so few questions can neither "
        f"confirm nor contradict the target (they bound it by {100 * one.upper:.2f})."
    )


def print_what_if(out: Console, rows: Sequence[Mapping[str, float]], *, questions: int) -> None:
    """What thresholds would have done to the recorded questions."""
    header = ["threshold", "accuracy, %", "made wrong, %", "net drop, points", "tokens", "saving, %", "stopped, %"]
    cells = [
        [
            f"{row['threshold']:g}",
            *(f"{value:.1f}" for value in (100 - 100 * row["loss"], 100 * row["harm"], 100 * row["drop"])),
            f"{row['tokens']:,.1f}",
            f"{100 * row['saving']:.1f}",
            f"{100 * row['stopped']:.1f}",
        ]
        for row in rows
    ]
    out.print(table(header, cells, right=range(7)))
    out.print(f"\nmeans over {questions:,} recorded questions; nothing in this table is a guarantee\n", markup=False)


def print_next(out: Console, recordings: str) -> None:
    """Where the recordings are, and what can be done with them."""
    out.print(f"recordings: {recordings}", markup=False)
    again = f'laconic calibrate --from-recordings {recordings} --target "accuracy drop <= 1 point at 95 %"'
    out.print(f"choose one with a guarantee: {again}", markup=False)
