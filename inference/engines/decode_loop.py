"""One tick of decoding: a token for each of many branches, in as few forward passes as there are kinds of work.

Branches that have one unread token, all but those that just began or got forced text, share one pass whatever their
lengths. Everything here runs in the engine's own thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from laconic.inference.engine import Sampling
from laconic.inference.engines.draw import broken_rows, draw_finite, not_finite
from laconic.inference.engines.kv import KVRows
from laconic.inference.engines.passes import Passes, PromptStore, groups
from laconic.inference.engines.strands import Seats, Strand
from laconic.rewards.errors import ModelError


@dataclass(slots=True, eq=False)
class Job:
    """The next token of a strand is wanted, tick after tick; every tick writes what came of it below."""

    strand: Strand
    sampling: Sampling
    top: int = 0
    """How many of the most likely tokens' log-probabilities are wanted."""
    bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids."""
    number: float = 0.0
    """In [0, 1): which token it will be."""
    may_end: bool = True
    """Whether end-of-sequence may be drawn."""

    token: int = -1
    logprob: float | None = None
    top_logprobs: tuple[float, ...] | None = None
    entropy: float | None = None
    shared: int = 0
    """Prompt tokens that another strand had read."""
    error: ModelError | None = None
    _biases: tuple[torch.Tensor, torch.Tensor] | None = None

    def biases(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and what is added to their logits; moved to the device once."""
        if self._biases is None:
            places = torch.tensor(list(self.bias), device=logits.device)
            self._biases = places, torch.tensor(list(self.bias.values()), device=logits.device, dtype=logits.dtype)
        return self._biases


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
    def step(self, jobs: Sequence[Job], coming: Iterable[tuple[int, ...]] = ()) -> None:
        """The next token of every job.

        Args:
            jobs: Those that decode now, and get the results.
            coming: Prompts that will be wanted next: they are read along where prompts are read anyway.
        """
        strands = [job.strand for job in jobs]
        shared = self.seat(strands, coming)
        order, logits = self._logits(strands)
        if shared:
            for job in jobs:
                job.shared = shared.get(id(job.strand), 0)
        ordered = [jobs[at] for at in order]
        self._adjust(logits, ordered)
        good = self._set_aside(logits, ordered)
        if good:
            self._draw(_rows(logits, good), [ordered[at] for at in good])
        self.store.trim()

    @torch.inference_mode()
    def several(self, jobs: Sequence[Job], numbers: Sequence[Sequence[float]]) -> list[list[int]]:
        """Tokens of some ticks in a row, for strands that have begun and want the same; nothing else is done to them.

        Args:
            jobs: Each with one unread token.
            numbers: For each job one number in [0, 1) per tick.

        Returns:
            The tokens of each job, all as many: fewer than there are numbers if each has had an end of sequence, or
            what comes next is for `step` to tell apart, as logits that are not finite. Those after an end of sequence
            mean nothing.
        """
        strands = [job.strand for job in jobs]
        # What was to be done between ticks may have changed what looked ready.
        if any(s.row is None or s.cached < len(s.ids) - 1 or s.applied < len(s.evictions) for s in strands):
            return [[] for _ in jobs]
        drawn = torch.tensor([strand.ids[-1] for strand in strands], device=self.device)
        uniform = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        longest, ticks = max(len(strand.ids) for strand in strands), uniform.shape[1]
        self.seats.seat(strands, longest + ticks - 1, like=())
        self.seats.front(strands)
        order = sorted(range(len(strands)), key=lambda at: strands[at].row.index)
        back = torch.tensor(order, device=self.device).argsort()
        drawn, uniform = drawn[order], uniform[order]
        reader = self.passes.reader([strands[at] for at in order])
        eos = torch.tensor(self.eos, device=self.device)
        ended = torch.zeros(len(order), dtype=torch.bool, device=self.device)
        tokens: list[torch.Tensor] = []
        for tick in range(ticks):
            logits = reader(drawn)
            broken = broken_rows(logits)
            if broken.any():
                for at in broken.nonzero().flatten().tolist():
                    strand = strands[order[at]]
                    self.kv.clear(strand.row.index, start=len(strand.ids) - 1 - strand.dropped + tick)
                break
            drawn = draw_finite(logits, uniform[:, tick], jobs[0].sampling)
            tokens.append(drawn[back])
            ended |= torch.isin(drawn, eos)
            if ended.all():
                break
        for strand in strands:
            strand.cached = len(strand.ids) - 1 + len(tokens)
        return torch.stack(tokens, dim=1).tolist() if tokens else [[] for _ in jobs]

    def seat(self, strands: Sequence[Strand], coming: Iterable[tuple[int, ...]] = ()) -> dict[int, int]:
        """Give every strand its own row with its prompt in it.

        Returns:
            For those that had none, by their `id`: the prompt tokens that they did not have to read.
        """
        fresh: dict[tuple[int, ...], list[Strand]] = {}
        for strand in strands:
            if strand.row is None:
                fresh.setdefault(strand.prompt, []).append(strand)
        self._read_prompts(fresh, coming)
        like = self.store[next(iter(fresh))].pairs if fresh else ()
        self.seats.seat(strands, max(len(strand.ids) for strand in strands), like=like)
        shared: dict[int, int] = {}
        for ids, having in fresh.items():
            prompt = self.store[ids]
            self.kv.put([strand.row.index for strand in having], prompt.pairs)
            for strand in having:
                strand.cached = strand.as_in_store
                shared[id(strand)] = len(ids) if prompt.taken else 0
                prompt.taken = True
        for strand in [strand for strand in strands if strand.applied < len(strand.evictions)]:
            self.evict(strand)
        return shared

    def evict(self, strand: Strand) -> None:
        """Do to its row what was not yet done of the strand's evictions; tokens before them are read first."""
        self.seats.alone(strand)
        for eviction in strand.evictions[strand.applied :]:
            if strand.cached < eviction.length:
                self.passes.read([strand], [strand.ids[strand.cached : eviction.length]])
            self.kv.keep(strand.row.index, eviction.keep)
            strand.cached, strand.applied = eviction.length, strand.applied + 1
            strand.dropped = eviction.length - eviction.keep.shape[1]

    def _read_prompts(self, wanted: Iterable[tuple[int, ...]], coming: Iterable[tuple[int, ...]]) -> None:
        missing = [ids for ids in wanted if ids not in self.store]
        if not missing:
            return
        # A pass over a few prompts more costs less than another pass; half the store may wait to be used.
        room = self.store.tokens // 2 - sum(map(len, missing))
        for ids in coming:
            room -= len(ids)
            if room < 0:
                break
            if ids not in self.store:
                missing.append(ids)
        for batch in groups(list(dict.fromkeys(missing)), len):
            for ids, prompt in zip(batch, self.passes.prompts(batch), strict=True):
                self.store[ids] = prompt

    def _logits(self, strands: Sequence[Strand]) -> tuple[list[int], torch.Tensor]:
        """Next-token logits, shape (B, V), and which strand each row belongs to."""
        begun: list[int] = []
        unread: dict[int, list[int]] = {}
        for at, strand in enumerate(strands):
            if strand.cached == len(strand.ids) and self._at_prompt(strand):
                begun.append(at)
            else:
                unread[at] = strand.unread()
        parts = [(begun, torch.stack([self.store[strands[at].prompt].logits for at in begun]))] if begun else []
        if single := [at for at, tokens in unread.items() if len(tokens) == 1]:
            self.seats.front([strands[at] for at in single])
            order = sorted(single, key=lambda at: strands[at].row.index)
            parts.append((order, self._read(strands, order, unread)))
        if several := [at for at, tokens in unread.items() if len(tokens) > 1]:
            batches = groups(several, lambda at: len(unread[at]))
            parts += [(batch, self._read(strands, batch, unread)) for batch in batches]
        logits = parts[0][1] if len(parts) == 1 else torch.cat([part for _, part in parts])
        return [at for batch, _ in parts for at in batch], logits

    def _at_prompt(self, strand: Strand) -> bool:
        """Nothing follows the prompt, and what comes after it is known."""
        return len(strand.ids) == len(strand.prompt) and strand.prompt in self.store

    def _read(self, strands: Sequence[Strand], batch: Sequence[int], unread: Mapping[int, list[int]]) -> torch.Tensor:
        return self.passes.read([strands[at] for at in batch], [unread[at] for at in batch])

    def _adjust(self, logits: torch.Tensor, jobs: Sequence[Job]) -> None:
        for row, job in enumerate(jobs):
            if job.bias:
                places, values = job.biases(logits)
                logits[row].index_add_(0, places, values)
        if bound := [row for row, job in enumerate(jobs) if not job.may_end]:
            logits[torch.tensor(bound, device=self.device)[:, None], self.eos] = float("-inf")

    def _set_aside(self, logits: torch.Tensor, jobs: Sequence[Job]) -> list[int]:
        """Note an error where logits are not finite; returns the other places."""
        broken = broken_rows(logits).tolist()
        for job, bad in zip(jobs, broken, strict=True):
            if bad:
                job.error = not_finite()
                self.seats.drop(job.strand.row, clear=True)
        return [at for at, bad in enumerate(broken) if not bad]

    def _draw(self, logits: torch.Tensor, jobs: Sequence[Job]) -> None:
        numbers = torch.tensor([job.number for job in jobs], dtype=torch.float64, device=self.device)
        tokens = _drawn(logits, numbers, [job.sampling for job in jobs])
        for job, token in zip(jobs, tokens.tolist(), strict=True):
            job.token = token
        if self.signals:
            _report(logits, tokens, jobs)


def _rows(logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    """Some rows of the logits, in their order; no copy if it is all of them."""
    return logits if len(places) == len(logits) else logits[places]


def _drawn(logits: torch.Tensor, numbers: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """A token for each row, drawn as the row wants it; rows that want the same are drawn together."""
    first = samplings[0]
    if all(sampling is first or sampling == first for sampling in samplings):
        return draw_finite(logits, numbers, first)
    ways: dict[tuple[float, float, int | None], list[int]] = {}
    for at, sampling in enumerate(samplings):
        ways.setdefault((sampling.temperature, sampling.top_p, sampling.top_k), []).append(at)
    tokens = torch.empty(len(samplings), dtype=torch.long, device=logits.device)
    for places in ways.values():
        tokens[places] = draw_finite(_rows(logits, places), numbers[places], samplings[places[0]])
    return tokens


def _report(logits: torch.Tensor, tokens: torch.Tensor, jobs: Sequence[Job]) -> None:
    """Log-probabilities and entropies at temperature 1."""
    logs = logits.float().log_softmax(-1)
    chosen = logs.gather(-1, tokens[:, None]).squeeze(-1).tolist()
    entropies = torch.special.entr(logs.exp()).sum(-1).tolist()
    for job, logprob, entropy in zip(jobs, chosen, entropies, strict=True):
        job.logprob, job.entropy = logprob, entropy
    if most := max(job.top for job in jobs):
        best = logs.topk(min(most, logs.shape[-1]), dim=-1).values.tolist()
        for job, values in zip(jobs, best, strict=True):
            job.top_logprobs = tuple(values[: job.top]) if job.top else None
