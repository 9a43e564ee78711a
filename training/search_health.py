"""Alarms for search agents whose policy collapses; the reward shows it last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from laconic.rewards.jsonl import JsonlAppender

__all__ = ["SearchHealth", "SearchLimits"]


@dataclass(frozen=True)
class SearchLimits:
    """When an alarm is raised. All numbers are ours; no paper gives any."""

    searching: float = 0.02
    """Share of rollouts that search, where a fifth of them or more once did."""
    at_limit: float = 0.9
    """Share of rollouts that search as often as they may."""
    invalid: float = 0.2
    """By how much the share of rollouts with an invalid action is above the lowest so far."""
    flat_steps: int = 20
    """Steps in a row in which no reward of any group differed."""
    kl: float = 1.0
    """Mean KL divergence from the reference model per token."""
    entropy: float = 0.1
    """Mean entropy per token, as a share of the first one logged."""


_ONCE_SEARCHED = 0.2
_MESSAGES = {
    "searches_gone": "only {value:.0%} of rollouts search (once {before:.0%}): lower the price of a search, or keep "
    "more questions that need one",
    "searches_always": "{value:.0%} of rollouts search as often as they may: searching costs nothing, or every answer "
    "is wrong; look at rollouts",
    "invalid_rising": "{value:.0%} of rollouts have an invalid action (once {before:.0%}): lower the learning rate, or "
    "teach the protocol first",
    "flat": "no reward differed within any group for {value:.0f} steps: nothing is learned; stop, or change the "
    "questions",
    "kl": "the KL divergence from the reference model is {value:.2f} per token: raise trainer.beta, or lower the "
    "learning rate",
    "entropy": "the entropy fell from {before:.3f} to {value:.3f} per token: the policy repeats itself",
}


class SearchHealth(TrainerCallback):
    """Watches the searches of a run, and says clearly when they collapse.

    While a condition holds, its kind stands in the row's ``alarms`` in metrics.jsonl; when it first holds it is printed
    and kept in `health.jsonl`. Put it before the callback that writes the metrics.

    Args:
        path: The health file, which may have other writers.
        limits: When to speak up.
    """

    def __init__(self, path: Path, limits: SearchLimits | None = None) -> None:
        self.path, self.limits = path, limits or SearchLimits()
        self._said: set[str] = set()
        self._most_searching, self._least_invalid = 0.0, 1.0
        self._first_entropy: float | None = None
        self._flat_since: int | None = None
        self._last_step = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take up what was seen before a resume, and what was said about it."""
        for row in state.log_history:
            self._said |= {kind for kind, *_ in self._seen(row, row.get("step", 0))}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Look at one row of logs, and note in it what is wrong."""
        if not logs or "raw/invalid" not in logs:
            return
        found = self._seen(logs, state.global_step)
        if found:
            logs["alarms"] = " ".join(kind for kind, *_ in found)
        for kind, value, before in found:
            self._say(state, kind, _MESSAGES[kind].format(value=value, before=before))

    def _seen(self, logs: dict[str, Any], step: int) -> list[tuple[str, float, float]]:
        """The alarms of one row: kind, value, and the value that it is compared with."""
        if "raw/invalid" not in logs:
            return []
        limits, found = self.limits, []
        searching = logs.get("raw/searching", math.nan)
        if searching < limits.searching and self._most_searching >= _ONCE_SEARCHED:
            found.append(("searches_gone", searching, self._most_searching))
        if (always := logs.get("raw/at_limit", 0.0)) >= limits.at_limit:
            found.append(("searches_always", always, 0.0))
        if (invalid := logs["raw/invalid"]) >= self._least_invalid + limits.invalid:
            found.append(("invalid_rising", invalid, self._least_invalid))
        if (flat := self._flat_steps(logs, step)) >= limits.flat_steps:
            found.append(("flat", flat, 0.0))
        if (kl := logs.get("kl", 0.0)) > limits.kl:
            found.append(("kl", kl, 0.0))
        if (entropy := logs.get("entropy", math.nan)) < limits.entropy * (self._first_entropy or 0.0):
            found.append(("entropy", entropy, self._first_entropy or 0.0))
        self._remember(searching, invalid, entropy)
        return found

    def _remember(self, searching: float, invalid: float, entropy: float) -> None:
        self._most_searching = max(self._most_searching, 0.0 if math.isnan(searching) else searching)
        self._least_invalid = min(self._least_invalid, invalid)
        if self._first_entropy is None and not math.isnan(entropy):
            self._first_entropy = entropy

    def _flat_steps(self, logs: dict[str, Any], step: int) -> int:
        """Steps for which the logs have shown no difference between rewards."""
        if logs.get("frac_reward_zero_std", 0.0) < 1.0:
            self._flat_since = None
        elif self._flat_since is None:
            # A row stands for all steps since the one before.
            self._flat_since = self._last_step
        self._last_step = step
        return 0 if self._flat_since is None else step - self._flat_since

    def _say(self, state: TrainerState, kind: str, message: str) -> None:
        if kind in self._said or not state.is_world_process_zero:
            return
        self._said.add(kind)
        print(f"alarm: step {state.global_step}: {message}", flush=True)
        with JsonlAppender(self.path) as out:
            out.append({"step": state.global_step, "kind": kind, "message": message})
