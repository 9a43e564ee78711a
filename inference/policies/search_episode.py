"""Policies that search: how many searches a question gets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from laconic.inference.engine import Branch, Capability, Chunk
from laconic.inference.episode_record import Search
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.searching import Searching, answered
from laconic.rewards.errors import RecipeError

_NEEDS = (Capability.PREFIX, Capability.STOP)


@policy(paper="arXiv:2503.09516", requires=_NEEDS)
@dataclass(frozen=True, kw_only=True)
class SearchEpisode(Searching):
    """Think and search as the model sees fit, within a budget of searches.

    Source: Search-R1's loop, with the differences that `laconic.inference.episode` names.
    """

    async def run(self, ask: Ask) -> Answer:
        """One episode."""
        return answered(ask, await self.episode(self.asked(ask), follow=True))


@policy(paper="-", requires=(*_NEEDS, Capability.FORK))
@dataclass(frozen=True, kw_only=True)
class StableSearch(Searching):
    """Search until the answer no longer changes: after every observation, ask for the answer on the side.

    When `agree` probes in a row give the same answer, it is put in and the episode ends. A probe sees the text so far
    and an opening answer tag; its tokens are counted as probe, discarded.

    Source: ours; answer consistency applied to searches, as AutoSearch (arXiv:2604.17337) asks for the answer after
    every search, there to reward it.

    Args:
        agree: Equal answers in a row.
        probe_tokens: Generated tokens of a probe at most.
    """

    agree: int = 2
    probe_tokens: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_least(self, agree=1, probe_tokens=1)

    async def run(self, ask: Ask) -> Answer:
        """One episode with a probe after every search."""
        asked = self.asked(ask)
        probes: list[str | None] = []

        async def look(branch: Branch, searches: tuple[Search, ...]) -> str | None:
            said = await self._probe(asked, branch)
            probes.append(ask.extract(said) if said else None)
            if not said or not stable(ask, probes, self.agree):
                return None
            return f"{self.tags.answer_open}{said}{self.tags.answer_close}"

        episode = await self.episode(asked, follow=True, after_search=look)
        return answered(ask, episode, probes=probes)

    async def _probe(self, ask: Ask, branch: Branch) -> str | None:
        """What the model would answer now; None if it comes to no end."""
        fork = await ask.fork(branch)
        await fork.extend(self.tags.answer_open)
        guess = await _guess(ask, fork, self.tags.answer_close, self.probe_tokens)
        await fork.close("discarded")
        return guess.text.strip() if guess.reason != "length" else None


@policy(paper="-", requires=(*_NEEDS, Capability.LOGPROBS))
@dataclass(frozen=True, kw_only=True)
class SelfAnswerSearch(Searching):
    """Answer from memory first, and search only if that answer is not sure enough.

    The closed-book answer is generated right behind an opening answer tag, greedily; its confidence is the geometric
    mean of the probabilities of its tokens:

        confidence = exp(mean_i log p_i)

    From `threshold` on it is returned; else it is discarded, counted as probe, and an episode begins that has not seen
    it. A threshold above 1 always searches, 0 never where the model gives any answer.

    Source: ours; AdaSearch (arXiv:2512.16883) trains the decision that is made here by a threshold.

    Args:
        threshold: Confidence from which on nothing is searched.
        probe_tokens: Generated tokens of the closed-book answer at most.
        before: Text that is put in before the answer tag, such as a closed thinking block.
    """

    threshold: float = 0.9
    probe_tokens: int = 32
    before: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_least(self, threshold=0, probe_tokens=1)

    async def run(self, ask: Ask) -> Answer:
        """The closed-book answer, or an episode."""
        probe = self.asked(ask).open(sample=1)
        await probe.extend(f"{self.before}{self.tags.answer_open}")
        guess = await _guess(ask, probe, self.tags.answer_close, self.probe_tokens)
        said = guess.text.strip()
        confidence = confidence_of(guess) if said and guess.reason != "length" else 0.0
        notes = {"closed_book": said, "closed_book_confidence": confidence}
        if not said or guess.reason == "length" or confidence < self.threshold:
            await probe.close("discarded")
            return answered(ask, await self.episode(self.asked(ask), follow=True), **notes)
        probe.relabel("answer")
        await probe.extend(self.tags.answer_close)
        await probe.close("kept")
        notes |= {"citations": [], "searches": [], "invalid": 0, "refused": 0, "finish": "answer"}
        answer = Answer(probe.text, ask.extract(said), "stop", ask.ledger, confidence, notes | {"retrieved_tokens": 0})
        ask.tell(answer.text, probe)
        return answer


def stable(ask: Ask, probes: list[str | None], agree: int) -> bool:
    """Whether the newest `agree` answers are there and equal."""
    newest = probes[-agree:]
    last = newest[-1]
    return len(newest) == agree and last is not None and all(one is not None and ask.equal(last, one) for one in newest)


def confidence_of(guess: Chunk) -> float:
    """Geometric mean of the probabilities of the tokens that spell the answer, those of the closing tag left out.

    Raises:
        LaunchError: the engine gave no log-probabilities.
    """
    length, used = 0, 0
    for token in guess.tokens:
        if length >= len(guess.text):
            break
        length, used = length + len(token.text), used + 1
    logprobs = replace(guess, tokens=guess.tokens[:used]).logprobs
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else 0.0


async def _guess(ask: Ask, branch: Branch, close: str, tokens: int) -> Chunk:
    greedy = replace(ask.sampling, temperature=0.0)
    return await branch.generate(max_tokens=tokens, stop=[close], role="probe", sampling=greedy)


def _check_least(policy: Searching, **least: float) -> None:
    for name, low in least.items():
        if not getattr(policy, name) >= low:
            raise RecipeError(f"{type(policy).__name__}: {name}={getattr(policy, name)}", cure=f"give {low} or more")
