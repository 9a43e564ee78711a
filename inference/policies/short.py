"""The shortest of several traces: short-m@k stops when m have thought, First Finish Search when one is complete."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from laconic.inference.engine import Capability, Engine, Token, check_capabilities
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.candidates import Candidate, Same, agreeing, decide, race
from laconic.inference.policies.plain import finish, phases
from laconic.rewards.errors import RecipeError

Compare: TypeAlias = Literal["auto", "time", "length"]


@policy(paper="arXiv:2505.17813", requires=(Capability.PREFIX, Capability.STOP, Capability.ABORT))
@dataclass(frozen=True)
class ShortMK:
    """short-m@k: of k traces, the first m that closed their thinking answer and vote; the others are cancelled.

    Of equally frequent answers the one with the shortest thinking wins, and the trace returned is the one with the
    shortest thinking among the winner's. `m=1` is the answer of the shortest thinking, `m=k` is a majority of k. What
    cancelled traces generated is counted, as discarded.

    Which trace is the first to finish is a matter of what else the engine decodes, unless all k decode in step. So
    lengths are compared where that is possible: a trace is ended once it has thought for as long as the m-th shortest
    thinking known so far, and the m shortest answer. In step, that is the same rule.

    Source: abstract and figure (no code was found). The rule is the paper's; comparing lengths is ours, and so are the
    defaults (it reports m of 1 and 3). An answer without thinking counts as thinking up to its end (ours); a trace
    that its limit cut, or that ended with neither, is not among the m (ours).

    Args:
        k: Traces that start.
        m: Traces that answer.
        compare: ``time``, ``length``, or ``auto``: lengths if the engine has token hooks, which they need, else time.
    """

    k: int = 5
    m: int = 3
    compare: Compare = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.m <= self.k:
            raise RecipeError(f"short_mk: m={self.m} of k={self.k}", cure="let at least one answer, and at most k")
        _check_compare("short_mk", self.compare)

    async def run(self, ask: Ask) -> Answer:
        """Think k times, answer m times, vote."""
        by_length = _compares_lengths(self.compare, ask.engine, who="short_mk")
        field_ = _Field(ask, self.k, self.m, by_length)
        first = await field_.run(_think)
        if self.m == 1 and first:  # it is decided; only the answer is to come
            first[0].branch = ask.follow(first[0].branch)
        await race([_answer(ask, runner) for runner in first])
        answers = [runner.vote for runner in first]
        lengths = [runner.length for runner in first]
        winners = short_majority(lengths, answers, equal=ask.equal)
        voters = [runner for runner in first if runner.votes]
        return await decide(
            ask,
            field_.runners,
            first[winners[0]] if winners else next(iter(first), None),
            voters=voters,
            confidence=len(winners) / len(voters) if voters else None,
            notes={"answers": answers, "lengths": lengths, "compared": "length" if by_length else "time"},
        )


@policy(paper="arXiv:2505.18149", requires=(Capability.ABORT,))
@dataclass(frozen=True)
class FirstFinish:
    """First Finish Search: of k completions, the first one that is complete; the others are cancelled.

    Unlike short-1@k it waits for the answer too, so a short thinking with a long answer can lose. What cancelled
    completions generated is counted, as discarded.

    Source: abstract. The rule is the paper's; the default of k, and comparing lengths (see `ShortMK`), are ours. A
    completion that the token limit cut does not count as complete (ours).

    Args:
        k: Completions that start.
        compare: ``time``, ``length``, or ``auto``: lengths if the engine has token hooks, which they need, else time.
    """

    k: int = 4
    compare: Compare = "auto"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise RecipeError(f"first_finish: k={self.k}", cure="start at least one completion")
        _check_compare("first_finish", self.compare)

    async def run(self, ask: Ask) -> Answer:
        """Complete k times, until one is done."""
        by_length = _compares_lengths(self.compare, ask.engine, who="first_finish")
        field_ = _Field(ask, self.k, 1, by_length)
        first = await field_.run(_complete)
        if first:
            ask.tell(first[0].branch.text, first[0].branch)
        winner = first[0] if first else None
        place = field_.runners.index(winner) if winner else None
        notes = {"winner": place, "compared": "length" if by_length else "time"}
        return await decide(ask, field_.runners, winner, voters=(), notes=notes)


def shortest(lengths: Sequence[int], m: int) -> list[int]:
    """Places of the m smallest lengths, smallest first; of equal ones, the lower place first.

    >>> shortest([120, 80, 200, 90, 80], 3)
    [1, 4, 3]
    """
    return sorted(range(len(lengths)), key=lambda place: (lengths[place], place))[:m]


def thinking_tokens(lengths: Sequence[int], m: int) -> tuple[int, int]:
    """Thinking tokens that short-m@k generates when k traces decode in step, and those of them that are discarded.

    Every trace thinks until the m-th has closed its thinking: the sum over traces of min(length, m-th smallest length).

    >>> thinking_tokens([120, 80, 200, 90, 150], 1), thinking_tokens([120, 80, 200, 90, 150], 2)
    ((400, 320), (440, 270))
    """
    first = shortest(lengths, m)
    generated = sum(min(length, lengths[first[-1]]) for length in lengths)
    return generated, generated - sum(lengths[place] for place in first)


def short_majority(lengths: Sequence[int], answers: Sequence[Any], *, equal: Same = operator.eq) -> list[int]:
    """Places of the most frequent answer, the shortest first; of equally frequent ones, of that with the shortest.

    >>> short_majority([80, 90], ["B", "A"]), short_majority([120, 80, 90], ["A", "B", "A"])
    ([0], [2, 0])
    """
    groups = [sorted(group, key=lambda place: (lengths[place], place)) for group in agreeing(answers, equal=equal)]
    return min(groups, key=lambda group: (-len(group), lengths[group[0]]), default=[])


def short_m_at_k(lengths: Sequence[int], answers: Sequence[Any], m: int, *, equal: Same = operator.eq) -> int | None:
    """The place of the trace that short-m@k returns; None if none of the m has an answer.

    >>> short_m_at_k([120, 80, 200, 90, 150], ["A", "B", "A", "A", "C"], 3)
    3
    """
    first = shortest(lengths, m)
    winners = short_majority([lengths[place] for place in first], [answers[place] for place in first], equal=equal)
    return first[winners[0]] if winners else None


@dataclass(eq=False)
class _Runner(Candidate):
    length: int = 0
    """Tokens so far, of thinking or of everything: whatever is compared."""
    arrived: bool = False


@dataclass(eq=False)
class _Field:
    """k traces, of which the first m are wanted."""

    ask: Ask
    k: int
    m: int
    by_length: bool
    bound: int | None = None
    """Nothing that is this long and not there yet can be among the first."""
    runners: list[_Runner] = field(default_factory=list)

    async def run(self, course: Callable[[_Field, _Runner], Coroutine[Any, Any, None]]) -> list[_Runner]:
        """Let all run, until the first m are known and the others are gone."""
        self.runners = [_Runner(self.ask.open(sample=number)) for number in range(self.k)]
        order = await race([course(self, runner) for runner in self.runners], losers=self._losers)
        there = [place for place in order if self.runners[place].arrived]
        if self.by_length:
            there.sort(key=lambda place: (self.runners[place].length, place))
        first = [self.runners[place] for place in there[: self.m]]
        if first:
            for runner in self.runners:
                if runner not in first:
                    await runner.branch.close("discarded")
        return first

    def _losers(self, finished: Sequence[int], running: Collection[int]) -> Collection[int]:
        lengths = [self.runners[place].length for place in finished if self.runners[place].arrived]
        if len(lengths) < self.m:
            return ()
        if not self.by_length:
            return running
        self.bound = sorted(lengths)[self.m - 1]
        return [place for place in running if self.runners[place].length >= self.bound]

    def watch(self, runner: _Runner) -> Callable[[Token], bool] | None:
        """Counts, where lengths matter, and ends what is too long."""

        def too_long(token: Token) -> bool:
            runner.length += 1
            return self.bound is not None and runner.length >= self.bound

        return too_long if self.by_length else None


async def _think(field_: _Field, runner: _Runner) -> None:
    parts = phases(field_.ask, runner.branch, budget=field_.ask.sampling.max_tokens, hook=field_.watch(runner))
    async with aclosing(parts):
        thinking = await anext(parts)
    runner.length = len(thinking.tokens)
    runner.end(field_.ask, finished=thinking.ended)
    runner.arrived = thinking.reason == "stop" or runner.votes


async def _answer(ask: Ask, runner: _Runner) -> None:
    if not runner.finished:
        runner.end(ask, finished=await finish(ask, runner.branch, budget=ask.sampling.max_tokens - runner.length))


async def _complete(field_: _Field, runner: _Runner) -> None:
    length = 0
    async for chunk in phases(
        field_.ask, runner.branch, budget=field_.ask.sampling.max_tokens, hook=field_.watch(runner)
    ):
        # A hook does not see the token that ends a chunk by itself.
        length += len(chunk.tokens)
        runner.length = length
        runner.finished = runner.arrived = chunk.ended


def _check_compare(who: str, compare: str) -> None:
    if compare not in ("auto", "time", "length"):
        raise RecipeError(f"{who}: compare={compare!r}", cure="choose auto, time or length")


def _compares_lengths(compare: Compare, engine: Engine, *, who: str) -> bool:
    if compare == "length":
        check_capabilities(engine, (Capability.TOKEN_HOOK,), who=f"policy {who}, comparing lengths,")
    return compare == "length" or (compare == "auto" and Capability.TOKEN_HOOK in engine.capabilities)
