"""DeepConf: traces vote with their confidence, and those that lose confidence midway are ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, get_args

from laconic.inference.engine import Capability
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.candidates import Candidate, decide, race
from laconic.inference.policies.group_confidence import (
    LowConfidence,
    Statistic,
    confidence_bar,
    lowest_group,
    most_confident,
    token_confidences,
    trace_confidence,
)
from laconic.inference.policies.plain import phases
from laconic.inference.policies.voting import weighted_majority
from laconic.rewards.errors import RecipeError

Weigh: TypeAlias = Callable[[Sequence[float]], float]


@policy(paper="arXiv:2508.15260", requires=(Capability.TOP_LOGPROBS,))
@dataclass(frozen=True)
class DeepconfOffline:
    """DeepConf offline: all samples are drawn, the most confident ones kept, and their votes weighted by confidence.

    A token's confidence is the negative mean log-probability of the `top_k` most likely tokens (`token_confidence`), a
    trace's is a statistic over its tokens, thinking and answer (`trace_confidence`). Traces at or above the percentile
    100 - `keep` of all that have an answer vote with their confidence as weight; of equal sums the answer seen first
    wins. The trace returned is the most confident one with that answer; `Answer.confidence` is the answer's share of
    the weights (ours).

    Source: paper and released code. 512 samples, windows of 2048 and 20 log-probabilities are theirs; they report
    every statistic, and `keep` of 10 and of 90.
    Deviations: the released code overwrites its weighted answer with a plain majority by default; here the weighted
    answer stands. It averages over the entry beyond `top_k` that vLLM adds when the sampled token is none of them; here
    that entry is dropped. Traces that the token limit cut do not vote (ours).

    Args:
        samples: Traces.
        statistic: ``mean`` of all tokens, ``tail``: of the last `window` tokens, ``lowest``: of the lowest tenth of the
            groups, ``min``: the lowest group.
        keep: Percent of the traces that vote; 100 for all.
        window: Tokens of a group, and of the tail.
        top_k: Log-probabilities per token.
    """

    samples: int = 512
    statistic: Statistic = "tail"
    keep: float = 10.0
    window: int = 2048
    top_k: int = 20

    def __post_init__(self) -> None:
        _check("deepconf_offline", (self.samples, self.window, self.top_k), self.keep)
        if self.statistic not in get_args(Statistic):
            raise RecipeError(
                f"deepconf_offline: statistic={self.statistic!r}", cure=f"choose of {', '.join(get_args(Statistic))}"
            )

    async def run(self, ask: Ask) -> Answer:
        """Draw everything, then weigh."""
        traces = [_Trace(ask.open(sample=number)) for number in range(self.samples)]
        weigh = partial(trace_confidence, statistic=self.statistic, window=self.window)
        await race([_generate(ask, trace, top_k=self.top_k, weigh=weigh) for trace in traces])
        answered = [place for place, trace in enumerate(traces) if trace.votes]
        confident = most_confident([traces[place].weight for place in answered], keep=self.keep)
        return await _vote(ask, traces, [answered[place] for place in confident], {})


@policy(paper="arXiv:2508.15260", requires=(Capability.TOP_LOGPROBS, Capability.TOKEN_HOOK, Capability.ABORT))
@dataclass(frozen=True)
class DeepconfOnline:
    """DeepConf online: a few whole traces set a bar, and every further trace is ended once a group falls below it.

    The bar is the percentile 100 - `keep` of the lowest group confidences of `warmup` traces. A further trace is ended
    when its last `window` tokens are full and their mean is below the bar. Ended traces and warm-up traces below the
    bar do not vote; the others do, with their lowest group confidence as weight. A trace shorter than a window is never
    ended, and votes. The trace returned is the most confident one with the winning answer; of equal sums the answer
    seen first wins. What ended traces generated is counted, as discarded.

    Source: paper and released code: 16 warm-up traces of 256, windows of 2048, 20 log-probabilities, `keep` of 90
    ("high") or 10 ("low"). The paper also stops when the answers agree, which the released code does not do:
    `consensus` is off by default, and the figure often given for it, 0.95, was not verified.
    Deviations: group means are rounded to 3 decimals on both sides of the comparison; with only the bar's rounded, a
    trace just like the one that set the bar may be ended. Otherwise as in `DeepconfOffline`.

    Args:
        samples: Traces, warm-up included.
        warmup: Traces that set the bar.
        keep: Percent of the warm-up traces at or above the bar.
        window: Tokens of a group.
        top_k: Log-probabilities per token.
        consensus: Share of the weights at which the traces still going on are cancelled. None: never.
    """

    samples: int = 256
    warmup: int = 16
    keep: float = 90.0
    window: int = 2048
    top_k: int = 20
    consensus: float | None = None

    def __post_init__(self) -> None:
        _check("deepconf_online", (self.samples, self.warmup, self.window, self.top_k), self.keep)
        if self.warmup > self.samples:
            raise RecipeError(
                f"deepconf_online: warmup={self.warmup} of samples={self.samples}",
                cure="the warm-up is a part of the samples",
            )
        if self.consensus is not None and not 0 < self.consensus <= 1:
            raise RecipeError(f"deepconf_online: consensus={self.consensus}", cure="give a share up to 1, or null")

    async def run(self, ask: Ask) -> Answer:
        """Warm up, set the bar, and watch the rest."""
        traces = [_Trace(ask.open(sample=number)) for number in range(self.warmup)]
        weigh = partial(lowest_group, window=self.window)
        await race([_generate(ask, trace, top_k=self.top_k, weigh=weigh) for trace in traces])
        bar = confidence_bar([trace.weight for trace in traces], keep=self.keep)
        for trace in traces:
            trace.below = trace.weight < bar
        if not self._agreed(ask, traces):
            traces += await self._watched(ask, traces, bar)
        voters = [place for place, trace in enumerate(traces) if trace.votes]
        return await _vote(ask, traces, voters, {"bar": bar, "below": [trace.below for trace in traces]})

    async def _watched(self, ask: Ask, before: Sequence[_Trace], bar: float) -> list[_Trace]:
        traces = [_Trace(ask.open(sample=number)) for number in range(self.warmup, self.samples)]

        def losers(finished: Sequence[int], running: Collection[int]) -> Collection[int]:
            done = [*before, *(traces[place] for place in sorted(finished))]
            return running if self._agreed(ask, done) else ()

        def watched(trace: _Trace) -> Coroutine[Any, Any, None]:
            watch = LowConfidence(bar=bar, window=self.window, top_k=self.top_k)
            return _generate(ask, trace, top_k=self.top_k, weigh=partial(lowest_group, window=self.window), watch=watch)

        await race([watched(trace) for trace in traces], losers=losers)
        return traces

    def _agreed(self, ask: Ask, traces: Sequence[_Trace]) -> bool:
        if self.consensus is None:
            return False
        voting = [trace for trace in traces if trace.votes]
        answers, weights = [trace.answer for trace in voting], [trace.weight for trace in voting]
        winners, share = weighted_majority(answers, weights, equal=ask.equal)
        return bool(winners) and share >= self.consensus


@dataclass(eq=False)
class _Trace(Candidate):
    confidences: list[float] = field(default_factory=list)
    weight: float = 0.0
    below: bool = False
    """It fell below the bar."""

    @property
    def votes(self) -> bool:
        return super().votes and not self.below


async def _generate(ask: Ask, trace: _Trace, *, top_k: int, weigh: Weigh, watch: LowConfidence | None = None) -> None:
    async for chunk in phases(ask, trace.branch, budget=ask.sampling.max_tokens, hook=watch, top_logprobs=top_k):
        trace.confidences += token_confidences(chunk.tokens, top_k=top_k)
        trace.end(ask, finished=chunk.ended)
        if watch is not None and watch.catch_up(trace.confidences):
            trace.below, trace.finished = True, False
            await trace.branch.close("discarded")
            break
    trace.weight = weigh(trace.confidences)


async def _vote(ask: Ask, traces: Sequence[_Trace], voters: Sequence[int], notes: dict[str, object]) -> Answer:
    answers, weights = [traces[place].answer for place in voters], [traces[place].weight for place in voters]
    winners, share = weighted_majority(answers, weights, equal=ask.equal)
    return await decide(
        ask,
        traces,
        max((traces[voters[place]] for place in winners), key=lambda trace: trace.weight, default=None),
        voters=[traces[place] for place in voters],
        confidence=share if voters else None,
        notes={"answers": answers, "voters": list(voters), "confidences": [trace.weight for trace in traces], **notes},
    )


def _check(who: str, counts: Sequence[int], keep: float) -> None:
    if min(counts) < 1:
        raise RecipeError(f"{who}: a count below 1", cure="samples, warmup, window and top_k are at least 1")
    if not 0 < keep <= 100:
        raise RecipeError(f"{who}: keep={keep}", cure="give the percent to keep, above 0 and at most 100")
