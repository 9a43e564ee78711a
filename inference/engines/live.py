"""A generation of the in-process engine that is going on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from laconic.inference.engine import Sampling, Token
from laconic.inference.engines.decode_loop import Job
from laconic.inference.generation import Generation

if TYPE_CHECKING:
    from laconic.inference.engines.branch import TransformersBranch


class Live:
    """One generation that is going on."""

    def __init__(
        self,
        branch: TransformersBranch,
        generation: Generation,
        sampling: Sampling,
        top: int,
        bias: Mapping[int, float],
    ) -> None:
        self.branch, self.generation = branch, generation
        self.job = Job(branch.strand, sampling, top, bias)
        self.start, self.so_far = len(branch.strand.ids), branch.so_far.copy()
        self.needs = self.start + generation.max_tokens
        self.over = False
        self.error: BaseException | None = None
        self.changed, self.ended = asyncio.Event(), asyncio.Event()

    def ready(self) -> Job:
        """What is wanted of the next tick."""
        branch, job = self.branch, self.job
        if branch.number is None:
            branch.number = branch.numbers.random()
        job.number = branch.number
        job.may_end = len(self.generation.tokens) >= self.generation.min_tokens
        return job

    def take(self) -> None:
        """Take what the tick gave; too late for a generation that was cancelled meanwhile."""
        branch, job = self.branch, self.job
        branch.account_for(job.shared)
        if self.over:
            return
        if job.error is not None:
            self.end(job.error)
            return
        branch.number = None
        branch.strand.ids.append(job.token)
        text = branch.so_far.add(job.token)
        if job.logprob is None:
            token = branch.engine.pieces.token(job.token, text)
        else:
            token = Token(text, job.token, job.logprob, job.top_logprobs, job.entropy)
        try:
            done = self.generation.push(token, eos=job.token in branch.engine.eos_ids)
        except BaseException as error:  # the hook's: it belongs to the caller of this generation alone
            self.end(error)
            return
        self.changed.set()
        if done:
            self.end()

    def end(self, error: BaseException | None = None) -> None:
        """It goes on no more."""
        if not self.over:
            self.over, self.error = True, error
            self.changed.set()
            self.ended.set()
