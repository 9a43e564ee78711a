"""Sampling completions from a Hugging Face causal language model: an own batched decode loop.

Requests are sorted by prompt length and decoded up to `batch_size` at a time. Rows leave the batch when a quarter of it
is done, and waiting requests take their places, so a few long completions do not hold up the rest. Every request
draws its own random numbers (`draw.random_numbers`): it gives the same completion whatever it is batched with (up to
rounding of the logits), and a resumed run writes what an uninterrupted one would have written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from laconic.data_gen.kv_cache import KVCache
from laconic.inference.engine import Completion, Request, Sampling
from laconic.inference.engines.draw import check_sampling, draw, random_numbers
from laconic.inference.engines.loading import encode_prompt, eos_ids, fitting_batch_size, positions
from laconic.rewards.errors import DataError

LEAVE_SHARE = 0.25
"""Rows leave the batch, and others join, when this share of it is done."""


@dataclass(slots=True)
class _Row:
    """One request being decoded."""

    request: Request
    prompt: list[int]
    numbers: np.random.Generator
    ids: list[int] = field(default_factory=list)
    done: bool = False

    @property
    def cached(self) -> int:
        """Tokens whose keys and values are known: all but the newest."""
        return len(self.prompt) + len(self.ids) - 1


class TransformersSampler:
    """Implements `laconic.inference.engine.Sampler` in this process.

    Args:
        model: A causal language model; it is put in evaluation mode, and no gradients are kept.
        tokenizer: Its tokenizer, with a chat template.
        batch_size: Completions decoded at once; None fits it to the device's free memory.
        device: Where the model is; None asks the model.
    """

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int | None = None, device: str | torch.device | None = None
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.device = torch.device(device or model.device)
        self.eos_ids = eos_ids(model.generation_config, tokenizer)

    def sample(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request as soon as it is done.

        Raises:
            RecipeError: a sampling parameter is out of range.
            DataError: a prompt and `max_tokens` together exceed the model's positions.
            ModelError: the model's logits are not finite.
        """
        check_sampling(sampling)
        waiting = self._encoded(requests, sampling)
        if not waiting:
            return
        longest = len(waiting[0][1]) + sampling.max_tokens
        batch_size = self.batch_size or fitting_batch_size(self.model, longest)
        batch = _Batch(self.model.eval(), self.device, sampling, self.eos_ids)
        while waiting or batch.rows:
            if batch.finished >= LEAVE_SHARE * len(batch.rows):
                batch.leave()
                room = batch_size - len(batch.rows)
                batch.join(waiting[:room])
                del waiting[:room]
            else:
                batch.step()
            yield from batch.completions()

    def _encoded(self, requests: Iterable[Request], sampling: Sampling) -> list[tuple[Request, list[int]]]:
        """Requests with their prompts' token ids, longest first: what does not fit in memory shows at once."""
        requests = list(requests)
        prompts = {text: encode_prompt(self.tokenizer, text) for text in {request.prompt for request in requests}}
        encoded = sorted(((r, prompts[r.prompt]) for r in requests), key=lambda pair: -len(pair[1]))
        limit = positions(self.model)
        if encoded and limit is not None and len(encoded[0][1]) + sampling.max_tokens > limit:
            request, prompt = encoded[0]
            raise DataError(
                f"problem {request.key[0]}: a prompt of {len(prompt)} tokens and sampling.max_tokens "
                f"{sampling.max_tokens} exceed the model's {limit} positions",
                cure="lower sampling.max_tokens, leave the longest problems out, or take a model with more positions",
            )
        return encoded


class _Batch:
    """The rows being decoded, their cache, and the newest token of each."""

    def __init__(self, model: Any, device: torch.device, sampling: Sampling, eos: frozenset[int]) -> None:
        self.model, self.device, self.sampling, self.eos = model, device, sampling, eos
        self.rows: list[_Row] = []
        self.finished = 0
        self._cache: KVCache | None = None
        self._tokens = torch.empty(0, dtype=torch.long, device=device)
        self._collected: list[_Row] = []

    def completions(self) -> Iterator[Completion]:
        """What was finished since the last call."""
        for row in self._collected:
            yield Completion(row.request.key, tuple(row.ids), row.ids[-1] in self.eos)
        self._collected = []

    @torch.inference_mode()
    def leave(self) -> None:
        """Take the finished rows out, and the columns that only they used."""
        keep = [index for index, row in enumerate(self.rows) if not row.done]
        self.rows, self.finished = [self.rows[index] for index in keep], 0
        if not keep:
            self._cache, self._tokens = None, self._tokens[:0]
            return
        chosen = torch.tensor(keep, device=self.device)
        self._tokens = self._tokens[chosen]
        self._cache.keep(chosen, self._cache.get_seq_length() - max(row.cached for row in self.rows))

    @torch.inference_mode()
    def join(self, encoded: Sequence[tuple[Request, list[int]]]) -> None:
        """Read the prompts of new rows and draw their first tokens."""
        if not encoded:
            return
        rows = [_Row(request, prompt, random_numbers(request.seed)) for request, prompt in encoded]
        width = max(len(row.prompt) for row in rows)
        ids = torch.tensor([[0] * (width - len(row.prompt)) + row.prompt for row in rows], device=self.device)
        cache = KVCache(self.model.config)
        logits = self._forward(ids, [len(row.prompt) for row in rows], cache)
        self._tokens = torch.cat([self._tokens, self._drawn(rows, logits)])
        if self._cache is None:
            self._cache = cache
        else:
            self._cache.join(cache)
        self.rows += rows

    @torch.inference_mode()
    def step(self) -> None:
        """Read the newest token of every row and draw the next."""
        lengths = [row.cached + 1 for row in self.rows]
        self._tokens = self._drawn(self.rows, self._forward(self._tokens[:, None], lengths, self._cache))

    def _forward(self, ids: torch.Tensor, lengths: list[int], cache: KVCache) -> torch.Tensor:
        """Logits after the last column, shape (B, V), for rows of `lengths` tokens that all end there."""
        width = cache.get_seq_length() + ids.shape[1]
        columns = torch.arange(width, device=self.device)
        places = columns - (width - torch.tensor(lengths, device=self.device))[:, None]
        return self.model(
            input_ids=ids,
            attention_mask=(places >= 0).long(),
            position_ids=places[:, -ids.shape[1] :].clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _drawn(self, rows: Sequence[_Row], logits: torch.Tensor) -> torch.Tensor:
        """The next token of each row, shape (B,), noted in the rows that are not done."""
        numbers = torch.tensor([row.numbers.random() for row in rows], dtype=torch.float64, device=self.device)
        tokens = draw(logits, numbers, self.sampling)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if not row.done:
                row.ids.append(token)
                row.done = token in self.eos or len(row.ids) == self.sampling.max_tokens
                self.finished += row.done
                self._collected += [row] if row.done else []
        return tokens
