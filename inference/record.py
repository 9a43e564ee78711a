"""Running a probing policy with its rule switched off, and writing down what every threshold would have seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from laconic.inference.policies.base import Answer, Ask, run_policy
from laconic.inference.policies.probing import Probing
from laconic.inference.recording import Checkpoint, Recording
from laconic.rewards.errors import DataError, RecipeError


async def record(
    rule: Probing, ask: Ask, *, question: str, right: Callable[[str | None], float], sample: int = 0
) -> Recording:
    """Run the policy on one question without ever stopping, and record every checkpoint.

    Thresholds replayed on the recording answer and cost what the policy with that threshold does, token for token. For
    this, a stopped run must return the probe's answer (``answer_by="probe"``) and stop at the checkpoint itself (not
    ``concurrent``). A checkpoint that has a signal but no answer counts as what `right` says of None.

    Args:
        rule: The policy; its threshold is not looked at. For `risk_controlled_stop`: its `probing()`, and then
            `Recording.smoothed`.
        ask: The question.
        question: Its id.
        right: 1 for a right answer, 0 for a wrong one or none.
        sample: Which run of the question this is.

    Raises:
        RecipeError: a stopped run would end otherwise than its probe.
    """
    if rule.answer_by != "probe" or rule.concurrent:
        found = f"answer_by={rule.answer_by}, concurrent={rule.concurrent}"
        cure = "calibrate and run it with answer_by=probe, concurrent=false"
        raise RecipeError(f"{type(rule).__name__} cannot be recorded: {found}", cure=cure)
    answer = await run_policy(replace(rule, threshold=math.inf), ask)
    return recorded(answer, question=question, right=right, sample=sample)


def recorded(answer: Answer, *, question: str, right: Callable[[str | None], float], sample: int = 0) -> Recording:
    """The recording of an unstopped run that is over; arguments as for `record`.

    Raises:
        DataError: the run was stopped, or a probe had several guesses (which one would be returned is not in notes).
    """
    if answer.notes["verdict"] != "go on":
        raise DataError(f"question {question!r}: the run was stopped", cure="record with an infinite threshold")
    probes = answer.ledger.tokens("probe")
    checkpoints = _checkpoints(answer.notes["probes"], question, right)
    full, loss = answer.ledger.generated - probes, 1.0 - float(right(answer.answer))
    return Recording(question, loss, full, probes, checkpoints, sample, answer.answer)


def _checkpoints(
    probes: Sequence[Mapping[str, Any]], question: str, right: Callable[[str | None], float]
) -> tuple[Checkpoint, ...]:
    found, spent = [], 0
    for probe in probes:
        spent += probe["tokens"]
        if len(probe["answers"]) != 1:
            cure = "use a policy with one side generation at every checkpoint"
            raise DataError(f"question {question!r}: {len(probe['answers'])} guesses at one checkpoint", cure=cure)
        # Without a signal there is no stop, but the probe was paid for.
        if probe["signal"] is not None:
            (guess,) = probe["answers"]
            loss = 1.0 - float(right(guess))
            found.append(Checkpoint(float(probe["signal"]), loss, probe["place"] + spent, guess))
    return tuple(found)
