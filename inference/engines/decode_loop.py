"""One tick of decoding: a token for each of many branches, in as few forward passes as there are kinds of work.

Branches that have one unread token, all but those that just began or got forced text, share one pass whatever their
lengths. Everything here runs in the engine's own thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from laconic.inference.engine import Sampling
from laconic.inference.engines.draw import broken_rows, draw, not_finite
from laconic.inference.engines.kv import KVRows
from laconic.inference.engines.passes import Passes, PromptStore, groups
from laconic.inference.engines.strands import Seats, Strand
from laconic.rewards.errors import ModelError


@dataclass(frozen=True, slots=True)
class Job:
    """The next token of a strand is wanted."""

    strand: Strand
    sampling: Sampling
    number: float
    """In [0, 1): which token it will be."""
    top: int = 0
    """How many of the most likely tokens' log-probabilities are wanted."""
    bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids."""
    may_end: bool = True
    """Whether end-of-sequence may be drawn."""


@dataclass(slots=True)
class Step:
    """What came of a job."""

    token: int = -1
    logprob: float | None = None
    top: tuple[float, ...] | None = None
    entropy: float | None = None
    shared: int = 0
    """Prompt tokens that another strand had read."""
    error: ModelError | None = None


class Decoder:
    """The batch, its cache and the prompts that were read.

    Args:
        model: A causal language model in evaluation mode.
        device: Where it is.
        eos: The tokens that end a sequence.
        prompt_tokens: Tokens of prompts whose keys and values are kept.
        signals: Report log-probabilities and entropies.
    """

    def __init__(
        self, model: Any, device: torch.device, eos: frozenset[int], *, prompt_tokens: int, signals: bool
    ) -> None:
        self.kv = KVRows()
        self.seats = Seats(self.kv)
        self.passes = Passes(model, device, self.kv)
        self.store = PromptStore(prompt_tokens)
        self.device, self.eos, self.signals = device, sorted(eos), signals

    @torch.inference_mode()
    def step(self, jobs: Sequence[Job]) -> list[Step]:
        """The next token of every job."""
        shared = self._seat([job.strand for job in jobs])
        order, logits = self._logits([job.strand for job in jobs])
        jobs = [jobs[at] for at in order]
        steps = [Step(shared=shared[at]) for at in order]
        self._adjust(logits, jobs)
        good = self._set_aside(logits, jobs, steps)
        if good:
            self._draw(_rows(logits, good), [jobs[at] for at in good], [steps[at] for at in good])
        self.store.trim()
        places = {at: place for place, at in enumerate(order)}
        return [steps[places[at]] for at in range(len(steps))]

    @torch.inference_mode()
    def hidden(self, strand: Strand, layer: int) -> torch.Tensor:
        """The state of a layer at the strand's newest token."""
        self._seat([strand])
        state, logits = self.passes.hidden(strand, layer)
        if broken_rows(logits).any():
            self.seats.drop(strand.row, clear=True)
            raise not_finite()
        return state

    def _seat(self, strands: Sequence[Strand]) -> list[int]:
        """Give every strand its own row with its prompt in it; returns the prompt tokens each did not have to read."""
        fresh = [strand for strand in strands if strand.row is None]
        missing = list(dict.fromkeys(strand.prompt for strand in fresh if strand.prompt not in self.store))
        for batch in groups(missing, len):
            for ids, prompt in zip(batch, self.passes.prompts(batch), strict=True):
                self.store[ids] = prompt
        like = self.store[fresh[0].prompt].pairs if fresh else ()
        self.seats.seat(strands, max(len(strand.ids) for strand in strands), like=like)
        for ids in dict.fromkeys(strand.prompt for strand in fresh):
            having = [strand for strand in fresh if strand.prompt == ids]
            self.kv.put([strand.row.index for strand in having], self.store[ids].pairs)
            for strand in having:
                strand.cached = len(ids)
        readers = {id(next(strand for strand in fresh if strand.prompt == ids)) for ids in missing}
        new = {id(strand) for strand in fresh} - readers
        return [len(strand.prompt) if id(strand) in new else 0 for strand in strands]

    def _logits(self, strands: Sequence[Strand]) -> tuple[list[int], torch.Tensor]:
        """Next-token logits, shape (B, V), and which strand each row belongs to."""
        begun = [at for at, strand in enumerate(strands) if self._at_prompt(strand)]
        unread = {at: strand.unread() for at, strand in enumerate(strands) if at not in set(begun)}
        parts = [(begun, torch.stack([self.store[strands[at].prompt].logits for at in begun]))] if begun else []
        if single := [at for at, tokens in unread.items() if len(tokens) == 1]:
            places = {id(strands[at]): at for at in single}
            order = [places[id(strand)] for strand in self.seats.front([strands[at] for at in single])]
            parts.append((order, self._read(strands, order, unread)))
        several = [at for at, tokens in unread.items() if len(tokens) > 1]
        parts += [(batch, self._read(strands, batch, unread)) for batch in groups(several, lambda at: len(unread[at]))]
        logits = parts[0][1] if len(parts) == 1 else torch.cat([part for _, part in parts])
        return [at for batch, _ in parts for at in batch], logits

    def _at_prompt(self, strand: Strand) -> bool:
        """Nothing follows the prompt, and what comes after it is known."""
        return strand.cached == len(strand.ids) == len(strand.prompt) and strand.prompt in self.store

    def _read(self, strands: Sequence[Strand], batch: Sequence[int], unread: Mapping[int, list[int]]) -> torch.Tensor:
        return self.passes.read([strands[at] for at in batch], [unread[at] for at in batch])

    def _adjust(self, logits: torch.Tensor, jobs: Sequence[Job]) -> None:
        for row, job in enumerate(jobs):
            for token, value in job.bias.items():
                logits[row, token] += value
        if bound := [row for row, job in enumerate(jobs) if not job.may_end]:
            logits[torch.tensor(bound, device=self.device)[:, None], self.eos] = float("-inf")

    def _set_aside(self, logits: torch.Tensor, jobs: Sequence[Job], steps: Sequence[Step]) -> list[int]:
        """Note an error where logits are not finite; returns the other places."""
        broken = broken_rows(logits).tolist()
        for job, step, bad in zip(jobs, steps, broken, strict=True):
            if bad:
                step.error = not_finite()
                self.seats.drop(job.strand.row, clear=True)
        return [at for at, bad in enumerate(broken) if not bad]

    def _draw(self, logits: torch.Tensor, jobs: Sequence[Job], steps: Sequence[Step]) -> None:
        numbers = torch.tensor([job.number for job in jobs], dtype=torch.float64, device=self.device)
        ways: dict[tuple[float, float, int | None], list[int]] = {}
        for at, job in enumerate(jobs):
            ways.setdefault((job.sampling.temperature, job.sampling.top_p, job.sampling.top_k), []).append(at)
        tokens = torch.empty(len(jobs), dtype=torch.long, device=self.device)
        for places in ways.values():
            tokens[places] = draw(_rows(logits, places), numbers[places], jobs[places[0]].sampling)
        for step, token in zip(steps, tokens.tolist(), strict=True):
            step.token = token
        if self.signals:
            _report(logits, tokens, jobs, steps)


def _rows(logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    """Some rows of the logits, in their order; no copy if it is all of them."""
    return logits if len(places) == len(logits) else logits[places]


def _report(logits: torch.Tensor, tokens: torch.Tensor, jobs: Sequence[Job], steps: Sequence[Step]) -> None:
    """Log-probabilities and entropies at temperature 1."""
    logs = logits.float().log_softmax(-1)
    chosen = logs.gather(-1, tokens[:, None]).squeeze(-1).tolist()
    entropies = torch.special.entr(logs.exp()).sum(-1).tolist()
    for step, logprob, entropy in zip(steps, chosen, entropies, strict=True):
        step.logprob, step.entropy = logprob, entropy
    if most := max(job.top for job in jobs):
        best = logs.topk(min(most, logs.shape[-1]), dim=-1).values.tolist()
        for job, step, values in zip(jobs, steps, best, strict=True):
            step.top = tuple(values[: job.top]) if job.top else None
