"""A key-value cache whose rows can leave and join while decoding goes on.

All rows end at the same column (the newest token), so a row that joined late is padded on the left, and `KVCache.keep`
drops the columns that only departed rows used. Keys carry their rotary position already, hence moving a row sideways
changes nothing for it. Transformers' own `DynamicLayer` copies the whole cache for every token; here a token is written
in place into a buffer that grows by halves.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicLayer

from laconic.inference.engines.loading import attention_config

_ROOM = 32
"""Free columns of a new buffer, at least."""


class _Buffer:
    """A tensor of shape (rows, heads, length, head_dim) that grows to the right and is cut on the left."""

    def __init__(self, first: torch.Tensor) -> None:
        self._whole, self._start, self._end = first, 0, first.shape[-2]

    @property
    def view(self) -> torch.Tensor:
        """The columns in use."""
        return self._whole[:, :, self._start : self._end]

    def append(self, new: torch.Tensor) -> torch.Tensor:
        """Write columns after the last one; returns the new view."""
        if self._end + new.shape[-2] > self._whole.shape[-2]:
            length = self._end - self._start
            self._place([self.view], length, room=new.shape[-2] + max(_ROOM, length // 2))
        start, self._end = self._end, self._end + new.shape[-2]
        self._whole[:, :, start : self._end] = new
        return self.view

    def keep(self, rows: torch.Tensor, cut: int) -> None:
        """Keep only some rows, and not the first `cut` columns."""
        self._whole = self._whole.index_select(0, rows)
        self._start += cut

    def join(self, other: _Buffer) -> None:
        """Put the rows of another below the own ones, so that both end at the same column."""
        parts = [self.view, other.view]
        self._place(parts, max(part.shape[-2] for part in parts), room=_ROOM)

    def _place(self, parts: list[torch.Tensor], length: int, *, room: int) -> None:
        """Copy parts, one below the other, to the right end of `length` columns of a new buffer."""
        rows = sum(part.shape[0] for part in parts)
        whole = parts[0].new_empty(rows, parts[0].shape[1], length + room, parts[0].shape[3])
        top = 0
        for part in parts:
            target, pad = whole[top : top + part.shape[0]], length - part.shape[-2]
            # Masked columns get weight 0, and 0 x NaN would be NaN.
            target[:, :, :pad] = 0
            target[:, :, pad:length] = part
            top += part.shape[0]
        self._whole, self._start, self._end = whole, 0, length


class GrowingLayer(DynamicLayer):
    """One layer's keys and values as views into buffers."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append new columns and return everything seen so far."""
        if self.is_initialized:
            self.keys, self.values = self._keys.append(key_states), self._values.append(value_states)
        else:
            self.lazy_initialization(key_states, value_states)
            self._keys, self._values = _Buffer(key_states), _Buffer(value_states)
            self._look()
        return self.keys, self.values

    def keep(self, rows: torch.Tensor, cut: int) -> None:
        """Keep only `rows` (indices) and drop the first `cut` columns."""
        self._keys.keep(rows, cut)
        self._values.keep(rows, cut)
        self._look()

    def join(self, other: GrowingLayer) -> None:
        """Add the rows of another layer below the own ones, padding the shorter on the left."""
        self._keys.join(other._keys)
        self._values.join(other._values)
        self._look()

    def _look(self) -> None:
        self.keys, self.values = self._keys.view, self._values.view


class KVCache(Cache):
    """A `GrowingLayer` for each layer of the model.

    Sliding-window layers keep all columns too: the attention mask does the sliding.

    Raises:
        ModelError: the model has layers without keys and values (linear attention, state space).
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        config = attention_config(config)
        super().__init__(layers=[GrowingLayer() for _ in range(config.num_hidden_layers)])

    def keep(self, rows: torch.Tensor, cut: int) -> None:
        """Keep only `rows` (indices) and drop the first `cut` columns, which must be padding for all of them."""
        for layer in self.layers:
            layer.keep(rows, cut)

    def join(self, other: KVCache) -> None:
        """Add the rows of another cache below the own ones; both then end at the same column."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.join(theirs)
