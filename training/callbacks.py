"""What a training run writes down and watches: metrics.jsonl, a progress line, health."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from laconic.rewards.errors import LaconicError
from laconic.rewards.jsonl import JsonlAppender, read_jsonl, write_jsonl

_PROGRESS_KEYS = {
    "loss": "loss",
    "reward": "reward",
    "raw/accuracy": "accuracy",
    "raw/tokens": "tokens",
    "raw/searches": "searches",
}


class TrainingDiverged(LaconicError, ArithmeticError):
    """The loss or the gradient became NaN or infinite; nothing after that step is worth keeping."""

    exit_code = 1


class MetricsWriter(TrainerCallback):
    """Append every log of the trainer to `metrics.jsonl` and print a progress line now and then.

    After a resume, rows of steps that will be done again are dropped first, so each step stands once.

    Args:
        path: The metrics file.
        seconds_between_lines: At most one progress line in this time.
    """

    def __init__(self, path: Path, *, seconds_between_lines: float = 5.0) -> None:
        self.path = path
        self._gap = seconds_between_lines
        self._last_line = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Forget rows beyond the step that training starts from."""
        self._started, self._first_step = time.monotonic(), state.global_step
        if state.is_world_process_zero and self.path.exists():
            with JsonlAppender(self.path):  # cuts a torn last line
                pass
            write_jsonl(self.path, [row for row in read_jsonl(self.path) if row["step"] <= state.global_step])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write one row; values that JSON has no word for are written as null."""
        if not state.is_world_process_zero or not logs:
            return
        row = {"step": state.global_step, "seconds": round(time.monotonic() - self._started, 3)}
        row |= {key: _jsonable(value) for key, value in logs.items()}
        with JsonlAppender(self.path) as out:
            out.append(row)
        if "loss" in row:  # not the summary at the end
            self._print_line(state, row)

    def _print_line(self, state: TrainerState, row: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last_line < self._gap and state.global_step < state.max_steps:
            return
        self._last_line = now
        done = max(state.global_step - self._first_step, 1)
        left = (state.max_steps - state.global_step) * (now - self._started) / done
        shown = [f"{label} {row[key]:.4g}" for key, label in _PROGRESS_KEYS.items() if row.get(key) is not None]
        print(f"step {state.global_step}/{state.max_steps}  {'  '.join(shown)}  {left:.0f} s left", flush=True)


@dataclass(frozen=True)
class Limits:
    """When the health check speaks up."""

    truncated: float = 0.5
    """Share of rollouts cut by the token limit."""
    no_signal: float = 0.9
    """Share of groups whose rewards are all equal: nothing is learned from them."""
    collapse: float = 0.2
    """Mean rollout length, as a share of the first one logged."""


class HealthCheck(TrainerCallback):
    """Watches for the usual ways that training goes wrong, and says what it saw.

    A warning is printed once per kind and kept in `health.jsonl`; a loss or gradient that is not finite stops the
    run.

    Raises:
        TrainingDiverged: from `on_log`, with the step and what to try.
    """

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path = path
        self.limits = limits or Limits()
        self._said: set[str] = set()
        self._first_length: float | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Look at one row of logs."""
        logs = logs or {}
        for key in ("loss", "grad_norm"):
            value = float(logs.get(key, 0.0))
            # DeepSpeed reports a norm that is not finite as -1.
            if not math.isfinite(value) or (key == "grad_norm" and value < 0):
                raise TrainingDiverged(
                    f"{key} is {logs[key]} at step {state.global_step}",
                    cure="lower trainer.learning_rate or set trainer.max_grad_norm; metrics.jsonl has the steps before",
                )
        for kind, message in self._warnings(logs):
            self._say(state, kind, message)

    def _warnings(self, logs: dict[str, Any]) -> list[tuple[str, str]]:
        found = []
        if (cut := logs.get("completions/clipped_ratio", 0.0)) > self.limits.truncated:
            cure = "raise max_completion_length, or with stop_early the limit of the rewards"
            found.append(("truncated", f"{cut:.0%} of rollouts hit the token limit: {cure}"))
        if (flat := logs.get("frac_reward_zero_std", 0.0)) > self.limits.no_signal:
            found.append(("no_signal", f"{flat:.0%} of groups have equal rewards: too easy, too hard, or collapsed"))
        length = logs.get("completions/mean_length")
        if length is not None:
            self._first_length = self._first_length or length
            if length < self.limits.collapse * self._first_length:
                found.append(
                    (
                        "collapse",
                        f"mean length fell from {self._first_length:.0f} to {length:.0f} tokens: check accuracy",
                    )
                )
        return found

    def _say(self, state: TrainerState, kind: str, message: str) -> None:
        if kind in self._said or not state.is_world_process_zero:
            return
        self._said.add(kind)
        print(f"health: step {state.global_step}: {message}", flush=True)
        with JsonlAppender(self.path) as out:
            out.append({"step": state.global_step, "kind": kind, "message": message})


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | str | None) else str(value)
