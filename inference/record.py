"""Running a stopping policy with its rule switched off, and writing down what every threshold would have seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from laconic.inference.policies.base import POLICIES, Answer, Ask, Policy, find, run_policy
from laconic.inference.policies.probing import Probing
from laconic.inference.policies.risk import RiskControlledStop
from laconic.inference.recording import Checkpoint, Recording
from laconic.rewards.errors import DataError, RecipeError

Rule: TypeAlias = Probing | RiskControlledStop
Right: TypeAlias = Callable[[str | None], float]
"""1 for a right answer, 0 for a wrong one or none."""

RECORDABLE = tuple(sorted(name for name, item in POLICIES.items() if issubclass(item.policy, Rule)))
"""The policies that can be recorded: those that compare a signal at checkpoints of one trace with a threshold."""


def recordable(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with which a policy can be recorded, its threshold left out.

    A stopped run has to end in the probe's answer and at the checkpoint itself, so ``answer_by`` and ``concurrent`` are
    set where they are not given.

    Raises:
        RecipeError: it cannot be recorded.
    """
    if name not in RECORDABLE:
        find(name)
        cure = f"calibrate one of {', '.join(RECORDABLE)}"
        raise RecipeError(f"policy {name} has no threshold that recordings can be played on", cure=cure)
    given = {key: value for key, value in parameters.items() if key != "threshold"}
    forced = {"answer_by": "probe", "concurrent": False}
    if issubclass(find(name).policy, RiskControlledStop):
        settings = {**given, "parameters": {**forced, **given.get("parameters", {})}}
    else:
        settings = {**forced, **given}
    _check(find(name).build({**settings, "threshold": math.inf}))
    return settings


async def record(
    rule: Rule,
    ask: Ask,
    *,
    question: str,
    right: Right,
    sample: int = 0,
    problem: str = "",
    whole: Callable[[Answer], float] | None = None,
) -> Recording:
    """Run the policy on one question without ever stopping, and record every checkpoint.

    Thresholds replayed on the recording answer and cost what the policy with that threshold does, token for token. For
    this, a stopped run must return the probe's answer (``answer_by="probe"``) and stop at the checkpoint itself (not
    ``concurrent``). A checkpoint that has a signal but no answer counts as what `right` says of None.

    Args:
        rule: The policy; its threshold is not looked at.
        ask: The question.
        question: Its id.
        right: Judges an answer.
        sample: Which run of the question this is.
        problem: Digest of the question and its gold answer.
        whole: Judges the full run; by default `right` judges its answer.

    Raises:
        RecipeError: a stopped run would end otherwise than its probe.
    """
    _check(rule)
    answer = await run_policy(replace(rule, threshold=math.inf), ask)
    signals = rule.smoothed if isinstance(rule, RiskControlledStop) else None
    found = recorded(answer, question=question, right=right, sample=sample, signals=signals, whole=whole)
    return replace(found, problem=problem)


def recorded(
    answer: Answer,
    *,
    question: str,
    right: Right,
    sample: int = 0,
    signals: Callable[[Sequence[float | None]], Sequence[float | None]] | None = None,
    whole: Callable[[Answer], float] | None = None,
) -> Recording:
    """The recording of an unstopped run that is over; arguments as for `record`.

    Args:
        answer: Of the run.
        question: Its id.
        right: Judges an answer.
        sample: Which run of the question this is.
        signals: From the signals of all probes to what the rule compares with its threshold at each.
        whole: Judges the full run.

    Raises:
        DataError: the run was stopped.
    """
    if answer.notes["verdict"] != "go on":
        raise DataError(f"question {question!r}: the run was stopped", cure="record with an infinite threshold")
    probes = answer.notes["probes"]
    raw = [probe["signal"] for probe in probes]
    checkpoints = _checkpoints(probes, signals(raw) if signals else raw, right)
    spent = answer.ledger.tokens("probe")
    loss = 1.0 - float(whole(answer) if whole else right(answer.answer))
    return Recording(question, loss, answer.ledger.generated - spent, spent, checkpoints, sample, answer.answer)


def _checkpoints(
    probes: Sequence[Mapping[str, Any]], signals: Sequence[float | None], right: Right
) -> tuple[Checkpoint, ...]:
    found, spent, guess = [], 0, None
    for probe, signal in zip(probes, signals, strict=True):
        spent += probe["tokens"]
        # A rule that repeats an earlier signal stops with that checkpoint's answer.
        guess = probe["answer"] if probe["signal"] is not None else guess
        # Without a signal there is no stop, but the probe was paid for.
        if signal is not None:
            loss = 1.0 - float(right(guess))
            found.append(Checkpoint(float(signal), loss, probe["place"] + spent, guess))
    return tuple(found)


def _check(rule: Policy) -> None:
    """Refuse what a recording cannot stand for."""
    if isinstance(rule, RiskControlledStop):
        if rule.slope is not None:
            cure = "calibrate it without slope: giving up would end the run that is recorded"
            raise RecipeError("RiskControlledStop cannot be recorded with a lower bar", cure=cure)
        rule = rule.probing()
    assert isinstance(rule, Probing)
    if rule.answer_by != "probe" or rule.concurrent:
        found = f"answer_by={rule.answer_by}, concurrent={rule.concurrent}"
        cure = "calibrate and run it with answer_by=probe, concurrent=false"
        raise RecipeError(f"{type(rule).__name__} cannot be recorded: {found}", cure=cure)
