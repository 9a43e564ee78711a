"""Keys and values of many sequences, one row each, written in place.

Every row begins at column 0: a column is a position, cutting a sequence short costs nothing, and rows of different
lengths are told apart by the attention mask alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from transformers.cache_utils import Cache

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer."""


class KVRows:
    """One tensor of keys and one of values for each layer, of shape (rows, heads, columns, head_dim).

    What lies beyond a row's length is stale but always finite: masked columns get weight 0, and 0 x NaN would be NaN.
    """

    def __init__(self) -> None:
        self.layers: list[Pair] = []

    @property
    def rows(self) -> int:
        """How many there is room for."""
        return self.layers[0][0].shape[0] if self.layers else 0

    @property
    def columns(self) -> int:
        """How long a row can be."""
        return self.layers[0][0].shape[2] if self.layers else 0

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(part.nbytes for pair in self.layers for part in pair)

    def reserve(self, rows: int, columns: int, *, used: int = 0, like: Sequence[Pair] = ()) -> None:
        """Make room, for somewhat more than is asked for.

        Args:
            rows: At least so many.
            columns: At least so many.
            used: Where columns are added, so many rows are kept: copying the others would be in vain.
            like: Keys and values, (heads, any, head_dim) per layer; needed the first time.
        """
        if rows <= self.rows and columns <= self.columns:
            return
        kept = max(rows, used) if columns > self.columns else max(rows, self.rows)
        size = (
            kept if kept <= self.rows else max(kept, self.rows * 3 // 2),
            columns + max(16, columns // 4) if columns > self.columns else self.columns,
        )
        if self.layers:
            self.layers = [(_grown(keys, *size), _grown(values, *size)) for keys, values in self.layers]
        else:
            self.layers = [(_empty(keys, *size), _empty(values, *size)) for keys, values in like]

    def narrow(self, columns: int) -> None:
        """Give up columns that no row needs."""
        columns += max(16, columns // 4)
        self.layers = [
            (keys[:, :, :columns].contiguous(), values[:, :, :columns].contiguous()) for keys, values in self.layers
        ]

    def put(self, rows: Sequence[int], pairs: Sequence[Pair]) -> None:
        """Write one sequence, (heads, length, head_dim) per layer, to the beginning of several rows."""
        for mine, given in zip(self.layers, pairs, strict=True):
            for part, new in zip(mine, given, strict=True):
                part[list(rows), :, : new.shape[1]] = new

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first columns of a row to another."""
        for part in self._parts():
            part[target, :, :length] = part[source, :, :length]

    def keep(self, row: int, columns: torch.Tensor) -> None:
        """Move some columns of a row to its beginning, others in each layer: shape (layers, kept)."""
        for pair, chosen in zip(self.layers, columns, strict=True):
            for part in pair:
                part[row, :, : len(chosen)] = part[row][:, chosen.to(part.device)]

    def swap(self, one: Sequence[int], other: Sequence[int], length: int) -> None:
        """Exchange rows pairwise, as far as `length` columns."""
        to, of = [*one, *other], [*other, *one]
        for part in self._parts():
            part[to, :, :length] = part[of, :, :length]

    def clear(self, row: int, *, start: int = 0) -> None:
        """Forget the columns of a row from `start` on, that may hold NaN."""
        for part in self._parts():
            part[row, :, start:] = 0

    def _parts(self) -> list[torch.Tensor]:
        return [part for pair in self.layers for part in pair]


class PassCache(Cache):
    """What the model sees of `KVRows` in one forward pass: it writes new columns and reads everything before them.

    Args:
        kv: Keys and values of all rows.
        rows: The row of each sequence of the batch.
        columns: Where its new tokens go, shape (B, T).
        valid: Which of them are no padding, shape (B, T).
        width: Columns to read.
    """

    def __init__(self, kv: KVRows, rows: Sequence[int], columns: torch.Tensor, valid: torch.Tensor, width: int) -> None:
        super().__init__(layers=[])
        self.kv, self.width, self._single = kv, width, columns.shape[1] == 1
        index = torch.tensor(rows, device=columns.device)
        # A batch that is the first rows in order, as when decoding, is read without a copy.
        self._chosen = slice(0, len(rows)) if list(rows) == list(range(len(rows))) else index
        self._valid = None if self._single else valid
        self._rows = index if self._single else index[:, None].expand_as(columns)[valid]
        self._columns = columns[:, 0] if self._single else columns[valid]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Pair:
        """Write one layer's new columns and return all of them."""
        keys, values = self.kv.layers[layer_idx]
        return self._written(keys, key_states), self._written(values, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before the new ones; rows differ, so this is the widest."""
        return self.width - 1

    def _written(self, whole: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        whole[self._rows, :, self._columns] = new[:, :, 0] if self._single else new.transpose(1, 2)[self._valid]
        return whole[self._chosen][:, :, : self.width]


class AsideCache(Cache):
    """What the model sees in passes that leave a row as it is: its first columns, and what these passes add.

    Args:
        kv: Keys and values of all rows.
        row: Which one.
        columns: How many of it.
    """

    def __init__(self, kv: KVRows, row: int, columns: int) -> None:
        super().__init__(layers=[])
        self._seen = [
            (keys[row : row + 1, :, :columns], values[row : row + 1, :, :columns]) for keys, values in kv.layers
        ]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Pair:
        """One layer's columns with the new ones behind."""
        keys, values = self._seen[layer_idx]
        self._seen[layer_idx] = torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)
        return self._seen[layer_idx]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns so far."""
        return self._seen[layer_idx][0].shape[2]


def _empty(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    return like.new_zeros(rows, like.shape[0], columns, like.shape[2])


def _grown(old: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    new = old.new_empty(rows, old.shape[1], columns, old.shape[3])
    kept, length = min(rows, old.shape[0]), old.shape[2]
    new[:kept, :, :length] = old[:kept]
    new[:kept, :, length:] = 0
    new[kept:] = 0
    return new
