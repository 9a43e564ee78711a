"""Which sequence has its keys and values in which row of the cache.

A fork shares its parent's row for as long as only one of them writes into it beyond what the others hold: a probe that
runs while its parent waits costs no copy at all. Rows of sequences that wait are given up, the longest unused first,
when those that decode need them; what was given up is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from laconic.inference.engines.kv import KVRows, Pair
from laconic.inference.engines.steering import Schedule

_NARROW = 16
"""Every so many ticks it is looked whether the cache has become too wide."""


@dataclass(frozen=True, eq=False)
class Eviction:
    """Columns that were given up for good, so that it can be done again if the row is lost."""

    length: int
    """Tokens that had been read."""
    keep: torch.Tensor
    """For each layer the columns that stayed, ascending; shape (layers, kept)."""


@dataclass(eq=False, slots=True)
class Strand:
    """The tokens of one branch."""

    ids: list[int]
    """Prompt, generated and forced tokens."""
    prompt: tuple[int, ...]
    cached: int = 0
    """Of `ids`: those whose keys and values are known."""
    row: Row | None = None
    dropped: int = 0
    """Of `cached`: those that were evicted; a token's column is its place less this."""
    evictions: tuple[Eviction, ...] = ()
    applied: int = 0
    """How many of them the row went through."""
    solid: int = 0
    """From this token on, none was evicted from any layer."""
    steered: Schedule = ()

    @property
    def columns(self) -> int:
        """Columns of its row that hold its tokens."""
        return self.cached - self.dropped

    @property
    def as_in_store(self) -> int:
        """Tokens of its prompt that were read as any strand reads them."""
        return min(len(self.prompt), self.steered[0][0]) if self.steered else len(self.prompt)

    def evict(self, keep: torch.Tensor) -> None:
        """Note that only some columns stay of all its tokens but the newest, which is read again anyway."""
        length, kept = len(self.ids) - 1, keep.shape[1]
        columns = length - (self.evictions[-1].length - self.evictions[-1].keep.shape[1] if self.evictions else 0)
        last = keep == torch.arange(columns - kept, columns)
        unbroken = int(last.flip(1).long().cumprod(1).sum(1).min())
        self.solid = max(self.solid, length - unbroken)
        self.evictions = (*self.evictions, Eviction(length, keep))

    def unread(self) -> list[int]:
        """The tokens that the model has to read before the next one can be drawn: one at least."""
        self.cached = min(self.cached, len(self.ids) - 1)
        return self.ids[self.cached :]


@dataclass(eq=False, slots=True)
class Row:
    """A row of the cache and the strands whose beginnings it holds."""

    index: int
    strands: list[Strand] = field(default_factory=list)
    used: int = 0
    """When it was last written."""

    @property
    def length(self) -> int:
        """Columns that somebody needs."""
        return max((strand.columns for strand in self.strands), default=0)


class Seats:
    """Gives rows to strands.

    Args:
        kv: Keys and values of all rows.
    """

    def __init__(self, kv: KVRows) -> None:
        self.kv = kv
        self.limit = 1
        """Rows at most; as many strands can be seated at once."""
        self._rows: dict[int, Row] = {}
        self._now = 0

    def attach(self, child: Strand, parent: Strand, length: int) -> None:
        """A fork shares the row of its parent, for the tokens that they have in common."""
        if parent.row is not None and parent.evictions is child.evictions:
            child.dropped, child.applied = parent.dropped, parent.applied
            child.cached, child.row = min(parent.cached, length), parent.row
            parent.row.strands.append(child)

    def forget(self, strand: Strand, length: int) -> None:
        """What a strand holds beyond its first tokens has changed."""
        strand.cached = min(strand.cached, length)

    def release(self, strand: Strand) -> None:
        """A strand needs its row no more."""
        if (row := strand.row) is not None:
            row.strands.remove(strand)
            strand.row, strand.cached, strand.dropped, strand.applied = None, 0, 0, 0
            if not row.strands:
                del self._rows[row.index]

    def seat(self, strands: Sequence[Strand], columns: int, *, like: Sequence[Pair]) -> None:
        """Give every strand a row that it alone writes to; the columns it has in common with others are copied."""
        self._now += 1
        used = max(self._rows, default=-1) + 1
        self.kv.reserve(min(self.limit, len(self._rows) + len(strands)), columns, used=used, like=like)
        if 2 * columns < self.kv.columns and self._now % _NARROW == 0:
            longest = max([columns, *(row.length for row in self._rows.values())])
            if 2 * longest < self.kv.columns:
                self.kv.narrow(longest)
        for strand in strands:
            if strand.row is not None:
                strand.row.used = self._now
        unsettled = [strand for strand in strands if strand.row is None or len(strand.row.strands) > 1]
        if not unsettled:
            return
        taken: set[Row] = set()
        for strand in unsettled:
            row = strand.row
            if row is None:
                row = self._sit(strand, self._new_row(strands))
            elif row in taken or row.length > strand.columns:
                row = self._apart(strand, strands)
            row.used = self._now
            taken.add(row)

    def front(self, strands: Sequence[Strand]) -> None:
        """Move the rows of these strands to the first places."""
        count = len(strands)
        if max(strand.row.index for strand in strands) < count:
            return
        inside = {strand.row.index for strand in strands if strand.row.index < count}
        holes = [index for index in range(count) if index not in inside]
        outside = sorted(strand.row.index for strand in strands if strand.row.index >= count)
        if holes:
            moved = [self._rows.pop(index, None) for index in (*holes, *outside)]
            self.kv.swap(holes, outside, max(row.length for row in moved if row is not None))
            for row, index in zip(moved, (*outside, *holes), strict=True):
                if row is not None:
                    row.index = index
                    self._rows[index] = row

    def alone(self, strand: Strand) -> None:
        """Give a seated strand a row that nobody shares."""
        if len(strand.row.strands) > 1:
            self._apart(strand, [strand])

    def drop(self, row: Row, *, clear: bool = False) -> None:
        """Give a row up; its strands read their tokens again when they go on."""
        for strand in list(row.strands):
            self.release(strand)
        if clear:
            self.kv.clear(row.index)

    def _sit(self, strand: Strand, row: Row) -> Row:
        row.strands.append(strand)
        strand.row = row
        return row

    def _apart(self, strand: Strand, seated: Sequence[Strand]) -> Row:
        """A row of its own for a strand that cannot write into the one it shares."""
        row, new = strand.row, self._new_row(seated)
        if new is None:
            # No room for a copy: the others, who wait, read their tokens again.
            for other in [other for other in row.strands if other is not strand]:
                self.release(other)
            return row
        self.kv.copy(row.index, new.index, strand.columns)
        row.strands.remove(strand)
        return self._sit(strand, new)

    def _new_row(self, seated: Sequence[Strand]) -> Row | None:
        """An empty row; once all are given away, that of those who waited longest; None if nobody waits.

        `seated` do not wait. They are asked anew each time: the row that one of them moved out of is free for others.
        """
        # The limit may have become lower since rows were given away.
        while len(self._rows) >= self.limit:
            needed = {strand.row for strand in seated}
            waiting = [row for row in self._rows.values() if row not in needed]
            if not waiting:
                return None
            self.drop(min(waiting, key=lambda row: (row.used, row.index)))
        index = next(index for index in range(len(self._rows) + 1) if index not in self._rows)
        self.kv.reserve(index + 1, self.kv.columns)
        self._rows[index] = Row(index)
        return self._rows[index]
