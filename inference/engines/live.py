"""A generation of the in-process engine that is going on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from laconic.inference.engine import Sampling, Token
from laconic.inference.engines.decode_loop import Job
from laconic.inference.generation import Generation

if TYPE_CHECKING:
    from laconic.inference.engines.branch import TransformersBranch


class Live:
    """One generation that is going on.

    Args:
        branch: Whose it is.
        generation: What comes in.
        sampling: How tokens are drawn.
        top: How many of the most likely tokens' log-probabilities are wanted.
        bias: Added to the logits of these token ids.
        watched: Somebody looks at every token as it comes.
    """

    def __init__(
        self,
        branch: TransformersBranch,
        generation: Generation,
        sampling: Sampling,
        top: int,
        bias: Mapping[int, float],
        *,
        watched: bool,
    ) -> None:
        self.branch, self.generation, self.watched = branch, generation, watched
        self.job = Job(branch.strand, sampling, top, bias)
        self.start, self.so_far = len(branch.strand.ids), branch.so_far.copy()
        self.needs = self.start + generation.max_tokens
        self.over = False
        self.error: BaseException | None = None
        self.changed, self.ended = asyncio.Event(), asyncio.Event()

    def ready(self) -> Job:
        """What is wanted of the next tick."""
        job = self.job
        (job.number,) = self.branch.numbers.ahead(1)
        job.may_end = self._may_end
        return job

    def at_once(self) -> int:
        """How many tokens can be drawn in a row without asking anybody; 0 where each has to be looked at."""
        strand, job = self.job.strand, self.job
        looked_at = self.watched or job.top or job.bias or not self._may_end
        begun = strand.row is not None and strand.cached >= len(strand.ids) - 1 > 0
        if looked_at or not begun or strand.steered or strand.applied < len(strand.evictions):
            return 0
        return self.generation.max_tokens - len(self.generation.tokens)

    def take_all(self, tokens: Sequence[int]) -> None:
        """Take what ticks in a row gave, as far as it goes; all of it was read but for the last token."""
        branch, strand, generation = self.branch, self.job.strand, self.generation
        branch.account_for(self.job.shared)
        if self.over:
            return
        text_of, known, eos_ids = branch.so_far.add, branch.engine.pieces.token, branch.engine.eos_ids
        before = len(generation.tokens)
        for token in tokens:
            if generation.push(known(token, text_of(token)), eos=token in eos_ids):
                break
        taken = len(generation.tokens) - before
        strand.ids += tokens[:taken]
        strand.cached = min(strand.cached, len(strand.ids) - 1)
        branch.numbers.use(taken)
        self.changed.set()
        if generation.done:
            self.end()

    def take(self) -> None:
        """Take what the tick gave; too late for a generation that was cancelled meanwhile."""
        branch, job = self.branch, self.job
        branch.account_for(job.shared)
        if self.over:
            return
        if job.error is not None:
            self.end(job.error)
            return
        branch.numbers.use()
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

    @property
    def _may_end(self) -> bool:
        return len(self.generation.tokens) >= self.generation.min_tokens
