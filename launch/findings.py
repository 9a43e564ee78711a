"""What `laconic doctor` finds: one line each, with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    state: Literal["ok", "note", "problem"]
    text: str
    cure: str = ""
    """What to do about it; empty where there is nothing to mend."""

    @property
    def line(self) -> str:
        """What was found, and what to do."""
        return f"{self.text} -> {self.cure}" if self.cure else self.text
