"""The exact account of every token that a policy caused, by role and by fate.

Every generated token has one role (what it was for) and one fate (what became of it). Forced text, prompt tokens read
from a cache and tokens that scorers read are counted apart, never as generated. A figure is exact when the token ids
were seen, or when a server reported it for a finished request.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

Role: TypeAlias = Literal["think", "answer", "probe", "draft", "verify", "route"]
"""think, answer: the trace; probe: side generations that look for an answer; draft: by a small model; verify: by a
judge or reward model; route: by a router."""
Fate: TypeAlias = Literal["kept", "voted", "discarded"]
"""kept: in the returned completion; voted: in a finished trace that took part in the decision; discarded: the rest."""

ROLES: tuple[Role, ...] = get_args(Role)
FATES: tuple[Fate, ...] = get_args(Fate)
# A token that several branches share has the best fate of any of them.
_RANK = {fate: rank for rank, fate in enumerate(reversed(FATES))}


@dataclass(slots=True, eq=False)
class Segment:
    """Generated tokens with one role, shared by every branch whose text holds them."""

    role: Role
    tokens: int
    exact: bool = True
    fate: Fate = "discarded"
    before: Segment | None = None
    """The first tokens of the same generation, once a fork went off before the others: whoever holds this one, holds
    those too."""

    def settle(self, fate: Fate) -> None:
        """One of its branches came to this end."""
        for part in self._parts():
            if _RANK[fate] > _RANK[part.fate]:
                part.fate = fate

    def relabel(self, role: Role) -> None:
        """They were for something else."""
        for part in self._parts():
            part.role = role

    def report(self, *, exact: bool) -> None:
        """Whether they could be counted turned out."""
        for part in self._parts():
            part.exact = exact

    def split(self, newest: int) -> Segment:
        """Keep only the newest tokens here; returns the entry of those before, which this one holds from now on."""
        head = Segment(self.role, self.tokens - newest, self.exact, self.fate, self.before)
        self.tokens, self.before = newest, head
        return head

    def _parts(self) -> Iterator[Segment]:
        part: Segment | None = self
        while part is not None:
            yield part
            part = part.before


@dataclass(eq=False)
class Ledger:
    """The account of one run. Engines write into it through `Account`; policies and reports read it."""

    segments: list[Segment] = field(default_factory=list)
    forced: int = 0
    """Tokens of text that a policy put in."""
    prompt: int = 0
    """Prompt tokens that branches began with, those from a cache included."""
    cached: int = 0
    """Of `prompt` and of what forks share: tokens that did not have to be read again."""
    scored: int = 0
    """Tokens that scorers read."""
    prompt_exact: bool = True
    critical_path: int = 0
    """Decode steps of the longest chain of generations that waited for each other. A generation counts as waiting for
    all that was delivered before its branch was opened, so this is an upper bound."""
    waits_for: int = 0
    """Decode steps that every generation from now on waits for; see `barrier`."""
    started: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    """Wall time, once `finish` was called."""

    def barrier(self) -> None:
        """Whatever is generated from now on, in open branches too, waits for all that was delivered so far.

        For policies that compare branches before any of them goes on.
        """
        self.waits_for = self.critical_path

    def finish(self) -> None:
        """Stop the clock."""
        self.seconds = time.monotonic() - self.started

    def tokens(self, role: Role | None = None, fate: Fate | None = None) -> int:
        """Generated tokens, all of them or those of a role, a fate, or both."""
        return sum(
            segment.tokens for segment in self.segments if role in (None, segment.role) and fate in (None, segment.fate)
        )

    @property
    def generated(self) -> int:
        """All generated tokens: what the headline saving counts, probes and discarded ones included."""
        return self.tokens()

    @property
    def exact(self) -> bool:
        """Whether every generated token was seen or reported by the server."""
        return all(segment.exact for segment in self.segments)

    def by_role_and_fate(self) -> dict[str, dict[str, int]]:
        """Generated tokens as a table; it sums to `generated`."""
        counts: Counter[tuple[Role, Fate]] = Counter()
        for segment in self.segments:
            counts[segment.role, segment.fate] += segment.tokens
        return {role: {fate: counts[role, fate] for fate in FATES} for role in ROLES}

    def to_json(self) -> dict[str, object]:
        """Everything, for results files and servers."""
        return {
            "generated": self.generated,
            "by_role": self.by_role_and_fate(),
            "forced": self.forced,
            "prompt": self.prompt,
            "cached": self.cached,
            "scored": self.scored,
            "critical_path": self.critical_path,
            "seconds": self.seconds,
            "exact": {"generated": self.exact, "prompt": self.prompt_exact},
        }


class Account:
    """One branch's entries in a ledger: what engines hold, so that all of them count alike."""

    def __init__(self, ledger: Ledger, *, prompt: int, cached: int = 0) -> None:
        self.ledger = ledger
        ledger.prompt += prompt
        ledger.cached += cached
        self._segments: list[Segment] = []
        self._path = ledger.critical_path
        self._fate: Fate | None = None

    @property
    def closed(self) -> bool:
        """The branch came to its end."""
        return self._fate is not None

    def fork(self, *, cached: int = 0, back: int = 0) -> Account:
        """The account of a branch that shares what was generated so far.

        Args:
            cached: Tokens that it did not have to read again.
            back: It does not share so many of the newest tokens; no more than were generated.
        """
        child = Account(self.ledger, prompt=0, cached=cached)
        child._segments = self._without(back)
        # It was decided on after all of them.
        child._path = self._path
        return child

    def _without(self, newest: int) -> list[Segment]:
        """Entries for everything but the newest tokens; one that only some of them are in is divided."""
        kept = list(self._segments)
        while newest:
            last = kept.pop()
            if newest < last.tokens:
                head = last.split(newest)
                self.ledger.segments.append(head)
                return [*kept, head]
            newest -= last.tokens
            kept += [last.before] if last.before is not None else []
        return kept

    def generate(self, role: Role, tokens: int, *, exact: bool = True) -> Segment:
        """Tokens were generated; also called for those of a generation that failed or was cancelled.

        Returns:
            The entry, whose `exact` a later report of the server may still settle.
        """
        segment = Segment(role, tokens, exact)
        if self._fate is not None:  # it was closed while these were on their way
            segment.settle(self._fate)
        if tokens:
            self._segments.append(segment)
            self.ledger.segments.append(segment)
        self._path = max(self._path, self.ledger.waits_for) + tokens
        self.ledger.critical_path = max(self.ledger.critical_path, self._path)
        return segment

    def relabel(self, role: Role) -> None:
        """The last generation turned out to be for something else."""
        self._segments[-1].relabel(role)

    def force(self, tokens: int) -> None:
        """Text was put in."""
        self.ledger.forced += tokens

    def close(self, fate: Fate) -> None:
        """The branch came to its end; only the first call counts."""
        if not self.closed:
            self._fate = fate
            for segment in self._segments:
                segment.settle(fate)


def saving(policy: Ledger, baseline: Ledger) -> float:
    """The share of the baseline's generated tokens that a policy saved, its probes and discarded tokens counted."""
    return 1.0 - policy.generated / baseline.generated
