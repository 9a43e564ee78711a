"""One line now and then about work that takes long."""

from __future__ import annotations

import time

EVERY_SECONDS = 5.0


class Progress:
    """Prints how far sampling has come, at most once every five seconds.

    Args:
        label: What is being made: the name of a stage or model.
        done: Rollouts that an earlier process made.
        total: Rollouts there will be.
    """

    def __init__(self, label: str, *, done: int, total: int) -> None:
        self.label, self.done, self.total = label, done, total
        self.tokens = 0
        self._first = done
        self._started = self._printed = time.monotonic()
        if done:
            print(f"{label}: {done} of {total} rollouts are there already", flush=True)

    def add(self, tokens: int) -> None:
        """Count one more rollout of so many tokens."""
        self.done += 1
        self.tokens += tokens
        now = time.monotonic()
        if now - self._printed >= EVERY_SECONDS:
            self._printed = now
            print(self.line(now - self._started), flush=True)

    def line(self, seconds: float) -> str:
        """What is printed after so many seconds of sampling."""
        left = seconds * (self.total - self.done) / max(1, self.done - self._first)
        return (
            f"{self.label}: {self.done}/{self.total} rollouts, {self.tokens / max(seconds, 1e-9):,.0f} tokens/s, "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )
