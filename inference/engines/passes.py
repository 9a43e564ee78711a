"""Forward passes over strands: prompts, forced text, and one token each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers.cache_utils import DynamicCache

from laconic.inference.engine import Capability
from laconic.inference.engines.kv import AsideCache, KVRows, Pair, PassCache
from laconic.inference.engines.loading import attention_config
from laconic.inference.engines.steering import Edit, Steerer, edits
from laconic.inference.engines.strands import Strand
from laconic.rewards.errors import ModelError

READ_TOKENS = 8192
"""Prompt or forced tokens read in one pass, padding included; one sequence may be longer."""

Item = TypeVar("Item")


@dataclass(slots=True)
class ReadPrompt:
    """A prompt that was read."""

    pairs: list[Pair]
    """Keys and values of each layer, shape (heads, length, head_dim)."""
    logits: torch.Tensor
    """After its last token, shape (V,)."""
    taken: bool = False
    """Whether a strand began with it."""


class Passes:
    """Runs the model.

    Args:
        model: A causal language model in evaluation mode.
        device: Where it is.
        kv: Keys and values of all rows.

    Raises:
        ModelError: its layers or its attention are of a kind that cannot be decoded so.
    """

    def __init__(self, model: Any, device: torch.device, kv: KVRows) -> None:
        self.model, self.device, self.kv = model, device, kv
        self.config = attention_config(model.config)
        self.steerer = Steerer(model, self.config.num_hidden_layers)
        self._attention = self.config._attn_implementation
        if self._attention not in ("sdpa", "eager"):
            raise ModelError(
                f"attention {self._attention!r} cannot tell rows of different lengths apart",
                cure="load the model with attn_implementation: sdpa",
            )

    @property
    def abilities(self) -> frozenset[Capability]:
        """What this model's layers allow."""
        # Behind a window, columns would have to be told by their places.
        windows = getattr(self.config, "sliding_window", None) is not None and set(
            getattr(self.config, "layer_types", None) or ("sliding_attention",)
        ) != {"full_attention"}
        offered = {Capability.STEERING: self.steerer.can, Capability.KV_EDIT: not windows}
        return frozenset(capability for capability, has in offered.items() if has)

    def prompts(self, ids: Sequence[tuple[int, ...]]) -> list[ReadPrompt]:
        """Read prompts from nothing. Rows end in padding, which nothing before it can see."""
        width = max(len(prompt) for prompt in ids)
        padded = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in ids], device=self.device)
        cache = DynamicCache()
        ends = [len(prompt) - 1 for prompt in ids]
        logits = self._at(ends, lambda keep: self._run(padded, cache=cache, keep=keep).logits)
        return [
            ReadPrompt(
                [
                    (_beginning(layer.keys, at, end + 1), _beginning(layer.values, at, end + 1))
                    for layer in cache.layers
                ],
                logits[at],
            )
            for at, end in enumerate(ends)
        ]

    def read(self, strands: Sequence[Strand], unread: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read the unread tokens of each strand, after what its row holds; logits after the last, shape (B, V)."""
        ends = [len(tokens) - 1 for tokens in unread]
        logits = self._at(ends, lambda keep: self._forward(strands, unread, keep=keep).logits)
        self._count(strands, unread)
        return logits

    def reader(self, strands: Sequence[Strand]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Reads one token after the other for strands in the order of their rows, from their last one on.

        What it reads is in the rows, and no strand knows of it.

        Returns:
            Takes token ids, shape (B,), and gives the logits after them, shape (B, V).
        """
        facts = [(len(strand.ids) - 1 - strand.dropped, strand.dropped) for strand in strands]
        columns, dropped = torch.tensor(facts, device=self.device).T[:, :, None]
        rows, width = [strand.row.index for strand in strands], max(column for column, _ in facts)
        all_there = torch.ones_like(columns, dtype=torch.bool)

        def logits_after(ids: torch.Tensor) -> torch.Tensor:
            nonlocal columns, width
            width += 1
            cache = PassCache(self.kv, rows, columns, all_there, width)
            mask, positions = self._mask(columns, width), columns + dropped
            columns = columns + 1
            found = self._run(ids[:, None], cache=cache, attention_mask=mask, position_ids=positions, keep=1)
            return found.logits[:, -1]

        return logits_after

    def states(self, strand: Strand) -> Any:
        """Read the unread tokens of a strand: all that the model gives, hidden states included."""
        unread = [strand.unread()]
        output = self._forward([strand], unread, keep=1, output_hidden_states=True)
        self._count([strand], unread)
        return output

    def aside(self, strand: Strand, start: int) -> AsideCache:
        """What passes that change nothing begin with: what the row holds before token `start`."""
        return AsideCache(self.kv, strand.row.index, start - strand.dropped)

    def read_aside(self, strand: Strand, tokens: Sequence[int], start: int, cache: AsideCache, **more: Any) -> Any:
        """Read tokens that stand at `start` in or after a strand; only `cache` notes it."""
        columns = cache.get_seq_length()
        ids = torch.tensor([list(tokens)], device=self.device)
        steps = torch.arange(len(tokens), device=self.device)[None]
        mask = self._mask(columns + steps, columns + len(tokens))
        with self.steerer.adding(list(edits(strand.steered, 0, start, len(tokens)))):
            return self._run(ids, cache=cache, attention_mask=mask, position_ids=start + steps, **more)

    @contextmanager
    def weighing(self) -> Iterator[None]:
        """While passes run: with the kind of attention that gives its weights."""
        usual = self._attention
        self.model.set_attn_implementation("eager")
        self._attention = "eager"
        try:
            yield
        finally:
            self.model.set_attn_implementation(usual)
            self._attention = usual

    def _count(self, strands: Sequence[Strand], unread: Sequence[Sequence[int]]) -> None:
        for strand, tokens in zip(strands, unread, strict=True):
            strand.cached += len(tokens)

    def _forward(self, strands: Sequence[Strand], unread: Sequence[Sequence[int]], **more: Any) -> Any:
        lengths = [len(tokens) for tokens in unread]
        length = max(lengths)
        if min(lengths) == length:
            ids = torch.tensor(list(unread), device=self.device)
        else:
            ids = torch.tensor([[*tokens, *[0] * (length - len(tokens))] for tokens in unread], device=self.device)
        facts = [(strand.columns, strand.dropped, count) for strand, count in zip(strands, lengths, strict=True)]
        width = max(columns + count for columns, _, count in facts)
        columns, dropped, counts = torch.tensor(facts, device=self.device).T[:, :, None]
        steps = torch.arange(length, device=self.device)
        places = columns + steps
        cache = PassCache(self.kv, [strand.row.index for strand in strands], places, steps < counts, width)
        # Padding keeps to places that the model has.
        positions = places.clamp(max=width - 1) + dropped
        mask = self._mask(places, width)
        with self._steering(strands, unread):
            return self._run(ids, cache=cache, attention_mask=mask, position_ids=positions, **more)

    def _steering(self, strands: Sequence[Strand], unread: Sequence[Sequence[int]]) -> AbstractContextManager[None]:
        wanted: list[Edit] = []
        for row, strand in enumerate(strands):
            if strand.steered:
                wanted += edits(strand.steered, row, strand.cached, len(unread[row]))
        return self.steerer.adding(wanted) if wanted else nullcontext()

    def _run(self, ids: torch.Tensor, *, cache: Any, keep: Any, **more: Any) -> Any:
        return self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=keep, **more)

    def _at(self, ends: Sequence[int], run: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        """Logits at another column of each row, shape (B, V), computed at no more columns than needed."""
        columns = sorted(set(ends))
        logits = run(torch.tensor(columns, device=self.device))
        return logits[range(len(ends)), [columns.index(end) for end in ends]]

    def _mask(self, places: torch.Tensor, width: int) -> Any:
        """What each new token sees, by kind of layer where there are several; shape (B, 1, T, width)."""
        columns = torch.arange(width, device=self.device)
        distance = places[:, None, :, None] - columns
        window = getattr(self.config, "sliding_window", None)
        kinds = set(getattr(self.config, "layer_types", None) or ())
        full = self._as_attention_takes_it(distance >= 0)
        if window is None or kinds == {"full_attention"}:
            return full
        sliding = self._as_attention_takes_it((distance >= 0) & (distance < window))
        return {"full_attention": full, "sliding_attention": sliding} if len(kinds) > 1 else sliding

    def _as_attention_takes_it(self, seen: torch.Tensor) -> torch.Tensor:
        if self._attention == "sdpa":
            return seen
        lowest = torch.finfo(self.model.dtype).min
        return torch.zeros(seen.shape, dtype=self.model.dtype, device=self.device).masked_fill(~seen, lowest)


class PromptStore:
    """Prompts that were read, so that all branches of one question share the reading.

    Args:
        tokens: How many to keep, those unused longest are forgotten first.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._kept: OrderedDict[tuple[int, ...], ReadPrompt] = OrderedDict()
        self._held = 0

    def __contains__(self, ids: tuple[int, ...]) -> bool:
        return ids in self._kept

    def __getitem__(self, ids: tuple[int, ...]) -> ReadPrompt:
        self._kept.move_to_end(ids)
        return self._kept[ids]

    def __setitem__(self, ids: tuple[int, ...], prompt: ReadPrompt) -> None:
        assert ids not in self._kept
        self._kept[ids] = prompt
        self._held += len(ids)

    def trim(self) -> None:
        """Forget what is too much."""
        while self._held > self.tokens:
            ids, _ = self._kept.popitem(last=False)
            self._held -= len(ids)


def _beginning(part: torch.Tensor, row: int, length: int) -> torch.Tensor:
    """A copy of its own, so that the padded whole is freed."""
    return part[row, :, :length].clone()


def groups(items: Sequence[Item], length: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Batches of items, longest first, that are at most half padding and not too large for one pass."""
    batch: list[Item] = []
    for item in sorted(items, key=length, reverse=True):
        longest = length(batch[0]) if batch else 0
        if batch and (2 * length(item) < longest or longest * (len(batch) + 1) > READ_TOKENS):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
