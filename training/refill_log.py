"""What TRL logs of a refill, kept apart from the first draw's, and the account of what refills cost."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from laconic.training.step_metrics import Metrics
from laconic.training.step_seconds import PREFIX


@dataclass(frozen=True, slots=True)
class Apart:
    """Of one refill.

    Attributes:
        metrics: What TRL and the rewards noted.
        logs: Prompts, completions, rewards, advantages and further columns, all processes together.
    """

    metrics: Metrics
    logs: dict[str, Any]

    def put_in(self, logs: dict[str, Any], places: Mapping[int, int], *, of: int) -> None:
        """Put rows of this into a log, in the places of some of its last ones.

        Args:
            logs: The trainer's.
            places: By row of the generation that was logged last the row here.
            of: Rows of that generation.
        """
        theirs = _columns(self.logs)
        for name, column in _columns(logs).items():
            if len(column) < of:
                continue  # a column that this generation does not have
            values = theirs.get(name, ())
            for place, row in places.items():
                column[len(column) - of + place] = values[row] if row < len(values) else None


@contextmanager
def logged_apart(trainer: Any) -> Iterator[Apart]:
    """What is logged in here is not the step's, but for seconds and the count of tokens."""
    logs, trainer._logs = trainer._logs, {name: _emptied(log) for name, log in trainer._logs.items()}
    try:
        with trainer._metrics_apart() as metrics:
            yield Apart(metrics, trainer._logs)
    finally:
        trainer._logs = logs
    ours = trainer._metrics["train"]
    ours["num_tokens"] = metrics["num_tokens"]
    for name, values in metrics.items():
        if name.startswith(PREFIX):
            ours[name] += values


@dataclass(slots=True)
class Account:
    """What the refills of one generation cost and brought, all processes together."""

    rounds: int = 0
    groups_drawn: int = 0
    groups_used: int = 0
    tokens: int = 0
    without_signal: int = 0
    seconds: float = 0.0

    def add(self, apart: Apart, *, rows: int, used: int, num_generations: int) -> None:
        """Count a round.

        Args:
            apart: What was logged of it.
            rows: Rollouts drawn.
            used: Of these.
            num_generations: Rollouts of a group.
        """
        self.rounds += 1
        self.groups_drawn += rows // num_generations
        self.groups_used += used // num_generations
        self.tokens += round(apart.metrics["completions/mean_length"][0] * rows)

    def note(self, metrics: Metrics) -> None:
        """Put it among a trainer's metrics."""
        for name, value in asdict(self).items():
            metrics[f"refill/{name}"].append(float(value))


def _emptied(log: Any) -> Any:
    return deque() if isinstance(log, deque) else defaultdict(deque)


def _columns(logs: dict[str, Any]) -> dict[tuple[str, ...], deque[Any]]:
    """Every column, those within `rewards` and `extra` too."""
    found: dict[tuple[str, ...], deque[Any]] = {}
    for name, log in logs.items():
        found |= {(name,): log} if isinstance(log, deque) else {(name, inner): column for inner, column in log.items()}
    return found
