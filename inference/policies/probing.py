"""Stopping one trace early: the loop that all rules about side generations ("probes") share.

A policy of this kind is a subclass of `Probing` with `signal`: what the probes so far say, one number, higher is surer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

from laconic.inference.engine import Branch, Capability, Chunk
from laconic.inference.policies.base import Answer, Ask, Finish
from laconic.inference.policies.plain import answer_of, finish
from laconic.inference.policies.probe import Guess, Probe, read_guess
from laconic.inference.policies.thinking import advance, answer_directly, thinks, within
from laconic.rewards.errors import RecipeError

Verdict: TypeAlias = Literal["go on", "stop", "give up"]
Rule: TypeAlias = Callable[[Sequence[float | None], Sequence[int]], Verdict]
"""From the signals so far and the tokens of the trace before each, what to do now."""

NEEDS = (Capability.PREFIX, Capability.STOP, Capability.FORK)
"""What every policy of this kind needs."""
SENTENCE = (".", "?", "!", "\n")
"""Ends of sentences as far as characters tell; a decimal point or an abbreviation is one checkpoint more."""
BOXED = "\n\n**Final Answer**\n\n\\boxed{"
"""Asks for an answer in a box; for models that box none, an empty suffix after the closing tag does it."""


@dataclass(frozen=True, kw_only=True)
class Probing:
    """Probe one trace at checkpoints of its thinking and stop when the signal reaches the threshold.

    A probe is a fork that is asked for the answer; the trace itself never sees it, so with an infinite threshold the
    trace is `plain`'s, token for token. Every probe token is counted as probe, discarded. After the stop, the closing
    tag is put in, and the model writes the answer within what is left of the budget, or the last probe's answer is put
    in (`notes["forced"]` says what was). An answer without thinking is not probed; blanks before it, if a checkpoint
    falls there, count as thinking. `notes["probes"]` holds every checkpoint with its signal, so that thresholds can be
    chosen from recordings.

    Args:
        threshold: Signal from which on thinking stops; `math.inf` never does.
        every: Tokens between checkpoints; None: only `at` texts.
        at: Texts after which a probe is due, such as "Wait". The probe comes after the text, not instead of it.
        suffix: What a probe is asked with.
        closes: The closing tag comes before the suffix.
        probe_tokens: Generated tokens of a probe at most.
        probe_stop: Texts that end a probe, kept in it.
        probe_temperature: Of probes; 0 is greedy.
        probe_top_p: Of probes.
        max_probes: Checkpoints at most; after them the trace goes on by itself.
        answer_by: ``model``: it writes the answer after the closing tag; ``probe``: the probe's answer is put in.
        transition: Text before the closing tag that is put in.
        concurrent: Probe while the next chunk is generated: no waiting, but a stop comes one chunk late. A probe that
            is under way when the trace ends is cancelled.
    """

    threshold: float
    every: int | None = None
    at: Sequence[str] = ()
    suffix: str = BOXED
    closes: bool = True
    probe_tokens: int = 20
    probe_stop: Sequence[str] = ()
    probe_temperature: float = 0.0
    probe_top_p: float = 1.0
    max_probes: int | None = None
    answer_by: Literal["model", "probe"] = "model"
    transition: str = ""
    concurrent: bool = False

    in_unit: ClassVar[bool] = False
    """The signal is a number from 0 to 1 that may be returned as confidence."""

    def __post_init__(self) -> None:
        who = type(self).__name__
        if self.every is None and not self.at:
            raise RecipeError(f"{who}: nothing says when to probe", cure="give every= (tokens) or at= (texts)")
        numbers = {"every": self.every, "probe_tokens": self.probe_tokens, "max_probes": self.max_probes}
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise RecipeError(f"{who}: {name}={value}", cure="give 1 or more")
        for name, texts in (("at", self.at), ("probe_stop", self.probe_stop)):
            if isinstance(texts, str) or not all(texts):
                raise RecipeError(f"{who}: {name}={texts!r}", cure="give a list of texts that are not empty")
        if self.answer_by not in ("model", "probe"):
            raise RecipeError(f"{who}: answer_by={self.answer_by!r}", cure="use model or probe")

    def guesses_each(self) -> int:
        """Side generations at every checkpoint."""
        return 1

    def signal(self, ask: Ask, probes: Sequence[Probe]) -> float | None:
        """What the probes say, the last one being new; higher is surer, None says nothing."""
        raise NotImplementedError

    def verdict(self, signals: Sequence[float | None], places: Sequence[int]) -> Verdict:
        """The rule: at or above the threshold, stop.

        Args:
            signals: One per checkpoint so far.
            places: Thinking tokens before each checkpoint.
        """
        last = signals[-1]
        return "stop" if last is not None and last >= self.threshold else "go on"

    async def run(self, ask: Ask) -> Answer:
        """Think, probing as one goes, until the trace or the rule says it is enough."""
        return await stop_early(ask, self, self.verdict)


async def stop_early(ask: Ask, rule: Probing, verdict: Rule, *, abstains: bool = False) -> Answer:
    """The loop itself: one trace, probed as `rule` says, until `verdict` has seen enough.

    Args:
        ask: The question.
        rule: When and how to probe, and the signal.
        verdict: From the signals and the tokens before each, what to do now.
        abstains: No answer where the verdict is to give up.
    """
    loop = _Loop(ask, rule, verdict)
    how = await loop.think()
    if how is None:
        how = "abstained" if abstains and loop.verdict == "give up" else await loop.conclude()
    await loop.branch.close("kept")
    return loop.answer(how)


class _Loop:
    """One trace with its probes."""

    def __init__(self, ask: Ask, rule: Probing, decide: Rule) -> None:
        self.ask, self.rule, self.decide = ask, rule, decide
        self.branch = ask.open(follow=True)
        self.left = ask.sampling.max_tokens
        self.probes: list[Probe] = []
        self.signals: list[float | None] = []
        self.verdict: Verdict = "go on"
        self.forced: str | None = None
        self.probed: str | None = None

    async def think(self) -> Finish | None:
        """Up to the verdict; how the completion ended, if it ended by itself."""
        while self.left > 0:
            ahead = await self._start_probe() if self.rule.concurrent else None
            try:
                chunk = await self._go_on()
                settled = await self._settled(chunk)
                if settled is not None:
                    return settled
                await self._judge(ahead if self.rule.concurrent else await self._start_probe())
            finally:
                await _cancel(ahead)
            if self.verdict != "go on":
                return None
        return "length"

    async def _go_on(self) -> Chunk:
        asked = min(self.left, self.rule.every or self.left)
        chunk = await advance(self.ask, self.branch, max_tokens=asked, slack=self.left - asked, at=self.rule.at)
        self.left -= len(chunk.tokens)
        return chunk

    async def _settled(self, chunk: Chunk) -> Finish | None:
        """How the completion ended, if it did not come to a checkpoint of its thinking."""
        text, ended = self.branch.text, chunk.ended
        if self.ask.think_close in text:
            ended = await finish(self.ask, self.branch, budget=self.left)
        elif thinks(self.ask, text) is False or (not thinks(self.ask, text) and (ended or self.left < 1)):
            ended = await answer_directly(self.ask, self.branch, chunk, left=self.left)
        elif not ended and self.left > 0:
            return None
        return "stop" if ended else "length"

    async def _start_probe(self) -> asyncio.Task[Probe] | None:
        """Fork here and ask, if a probe is due."""
        over = self.rule.max_probes is not None and len(self.probes) >= self.rule.max_probes
        if over or not thinks(self.ask, self.branch.text):
            return None
        forks = [await self.ask.fork(self.branch) for _ in range(self.rule.guesses_each())]
        return asyncio.create_task(self._probe(forks, self.ask.sampling.max_tokens - self.left))

    async def _probe(self, forks: Sequence[Branch], place: int) -> Probe:
        tasks = [asyncio.create_task(self._guess(fork)) for fork in forks]
        try:
            return Probe(place, tuple(await asyncio.gather(*tasks)))
        finally:
            for task in tasks:
                await _cancel(task)

    async def _guess(self, fork: Branch) -> Guess:
        rule = self.rule
        await fork.extend(self.ask.think_close * rule.closes + rule.suffix)
        chunk = await fork.generate(
            max_tokens=rule.probe_tokens,
            stop=list(rule.probe_stop),
            keep_stop=True,
            role="probe",
            sampling=replace(self.ask.sampling, temperature=rule.probe_temperature, top_p=rule.probe_top_p, top_k=None),
        )
        await fork.close("discarded")
        return read_guess(self.ask, rule.suffix, within(chunk, rule.probe_tokens))

    async def _judge(self, asked: asyncio.Task[Probe] | None) -> None:
        if asked is None:
            return
        try:
            self.probes.append(await asked)
        finally:
            await _cancel(asked)
        self.ask.ledger.barrier()  # the trace waits for what the probe says
        self.signals.append(self.rule.signal(self.ask, self.probes))
        self.verdict = self.decide(self.signals, [probe.place for probe in self.probes])

    async def conclude(self) -> Finish:
        """After the verdict: the answer."""
        # Where a rule repeats the signal of an earlier checkpoint, that checkpoint's answer is meant.
        spoke = (
            probe for probe, signal in zip(self.probes[::-1], self.signals[::-1], strict=True) if signal is not None
        )
        guess = next(spoke, self.probes[-1]).guess
        by_probe = self.rule.answer_by == "probe" and guess.answer is not None
        self.forced = self.rule.transition + self.ask.think_close + (self.rule.suffix + guess.said) * by_probe
        await self.branch.extend(self.forced)
        if by_probe:
            self.probed = guess.answer
            return "policy_stop"
        chunk = within(await self.branch.generate(max_tokens=self.left, role="answer"), self.left)
        return "policy_stop" if chunk.ended else "length"

    def answer(self, how: Finish) -> Answer:
        """What it came to."""
        text, confidence = self.branch.text, None
        answer = None if how == "abstained" else self.probed or answer_of(self.ask, text)
        if self.rule.in_unit and self.verdict != "go on":
            confidence = self.signals[-1]
        notes = {
            "verdict": self.verdict,
            "forced": self.forced,
            "probes": [probe.to_json(signal) for probe, signal in zip(self.probes, self.signals, strict=True)],
        }
        return Answer(text, answer, how, self.ask.ledger, confidence, notes)


async def _cancel(task: asyncio.Task[Any] | None) -> None:
    """Stop a task that may be done already, and wait until it is."""
    if task is not None and not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
