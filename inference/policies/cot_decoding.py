"""CoT-decoding: the most likely first tokens, each continued greedily; the surest answer wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

from laconic.inference.engine import Branch, Capability, Chunk, Token
from laconic.inference.policies.base import Answer, Ask, Equal, policy
from laconic.inference.policies.candidates import Candidate, answers_of, best_of, decide, tally, thinks, together
from laconic.inference.policies.plain import answer_of
from laconic.rewards.errors import LaunchError, RecipeError

BAN = -100.0
"""Added to the logits of first tokens that were taken; servers allow no less."""


def answer_confidence(steps: Sequence[Sequence[float]]) -> float:
    """Delta: how much likelier the best token was than the second, on average over the tokens of the answer.

    >>> round(answer_confidence([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.9, 0.05, 0.05]]), 4)
    0.4833

    Args:
        steps: For each token of the answer, probabilities in any order; of a single one the second is 0.

    Raises:
        RecipeError: there are no tokens, or a token without probabilities.
    """
    if not steps or not all(steps):
        raise RecipeError("the confidence of an answer without tokens", cure="give the probabilities of each token")
    ranked = [[*sorted(step, reverse=True), 0.0] for step in steps]
    return sum(step[0] - step[1] for step in ranked) / len(ranked)


def answer_tokens(texts: Sequence[str], answer: str) -> range:
    """Which tokens spell the last occurrence of an answer; all of them if it is nowhere to be found.

    >>> answer_tokens(["It", " is", " 4", "2", "."], "42")
    range(2, 4)
    """
    place = "".join(texts).rfind(answer)
    if place < 0:
        return range(len(texts))
    ends = list(accumulate(map(len, texts)))
    first = next(number for number, end in enumerate(ends) if end > place)
    last = next(number for number, end in enumerate(ends) if end >= place + len(answer))
    return range(first, last + 1)


def choose_path(
    answers: Sequence[str],
    confidences: Sequence[float],
    *,
    how: Literal["max", "sum"] = "max",
    equal: Equal = lambda one, other: one == other,
) -> int:
    """The place of the chosen path: the surest, or the surest one with the answer whose confidences sum to the most.

    >>> choose_path(["7", "8", "8"], [0.6, 0.5, 0.4]), choose_path(["7", "8", "8"], [0.6, 0.5, 0.4], how="sum")
    (0, 1)
    """
    if how == "max":
        return best_of(confidences)
    members = tally(answers, confidences, equal=equal)[0].members
    return members[best_of([confidences[member] for member in members])]


@policy(
    paper="arXiv:2402.10200",
    requires=(Capability.PREFIX, Capability.STOP, Capability.TOKEN_IDS, Capability.TOP_LOGPROBS, Capability.LOGIT_BIAS),
)
@dataclass(frozen=True)
class CotDecoding:
    """The k most likely first tokens, each continued greedily; the answer decoded with the largest margins wins.

    Rule: path i begins with the i-th most likely first token and goes on greedily. Its confidence is the mean of
    ``p1 - p2``, the probabilities of the best and the second token, over the tokens of its answer. The surest path wins
    (``choose: max``), or the answer with the largest sum of confidences (``sum``); then its surest path is returned.
    Ties go to the more likely first token.

    From the paper: all of that, and k = 10. Ours: how tokens of the answer are found (the last place where the answer
    that was read stands; where it stands nowhere, everything after the thinking). For a model that always begins
    with an opening tag, the first tokens are all alike and the paths with them; it is meant for base models, and for
    templates that open the thinking themselves.

    Deviations: optillm averages over the whole text, pairs each token with the probabilities of the next step, and
    reports the tokens of the winner only. Here the first tokens are found one after the other, each with those before
    it banned by a bias, and every path is counted.
    """

    paths: int = 10
    """k."""
    choose: Literal["max", "sum"] = "max"

    def __post_init__(self) -> None:
        if self.paths < 1:
            raise RecipeError(f"cot_decoding: paths={self.paths}", cure="follow at least one path")
        if self.choose not in ("max", "sum"):
            raise RecipeError(f"cot_decoding: choose={self.choose!r}", cure="choose: max, or choose: sum")

    async def run(self, ask: Ask) -> Answer:
        """Find the first tokens, then follow all paths at once."""
        greedy = replace(ask, sampling=replace(ask.sampling, temperature=0.0))
        begun = await self._first_tokens(greedy)
        paths = await together(_follow(greedy, branch, first) for branch, first in begun)
        candidates = [path.candidate for path in paths]
        voters = [path for path in paths if path.candidate.votes]
        if not voters:
            return await decide(ask, candidates, None)
        answers = answers_of([path.candidate for path in voters])
        sure = [path.confidence(answer) for path, answer in zip(voters, answers, strict=True)]
        place = choose_path(answers, sure, how=self.choose, equal=ask.equal)
        notes = {"answers": answers, "confidences": sure}
        return await decide(ask, candidates, voters[place].candidate, confidence=sure[place], notes=notes)

    async def _first_tokens(self, ask: Ask) -> list[tuple[Branch, Chunk]]:
        """Branches with one token each, the most likely one first."""
        found: list[tuple[Branch, Chunk]] = []
        taken: dict[int, float] = {}
        for number in range(self.paths):
            branch = ask.open(sample=number)
            chunk = await branch.generate(max_tokens=1, top_logprobs=2, bias=taken)
            if not thinks(ask, branch.text):
                branch.relabel("answer")
            token = chunk.tokens[0]
            if token.id is None:
                raise LaunchError("cot_decoding: the engine gave a token without its id", cure="use one that has them")
            if token.id in taken:
                break  # no other token is left; the branch is closed as discarded
            taken[token.id] = BAN
            found.append((branch, chunk))
        return found


@dataclass(frozen=True)
class _Path:
    """A path, and its tokens after the thinking."""

    candidate: Candidate
    final: tuple[Token, ...]

    def confidence(self, answer: str) -> float:
        """Delta of its answer."""
        span = answer_tokens([token.text for token in self.final], answer)
        return answer_confidence([_probabilities(self.final[place]) for place in span])


async def _follow(ask: Ask, branch: Branch, first: Chunk) -> _Path:
    """Go on to the end, with the likeliest two tokens at each place."""
    left, final, ended = ask.sampling.max_tokens - 1, first.tokens, first.ended
    thinking = thinks(ask, branch.text)
    if left and not ended:
        stop = [ask.think_close] if thinking else []
        role = "think" if thinking else "answer"
        chunk = await branch.generate(max_tokens=left, stop=stop, keep_stop=True, role=role, top_logprobs=2)
        left, final, ended = left - len(chunk.tokens), final + chunk.tokens, chunk.ended
        if chunk.reason != "stop" and not thinks(ask, branch.text):
            branch.relabel("answer")
        if chunk.reason == "stop" and left:
            answer = await branch.generate(max_tokens=left, role="answer", top_logprobs=2)
            final, ended = answer.tokens, answer.ended
    # The end-of-sequence token is no part of an answer.
    return _Path(Candidate(branch, ended, answer_of(ask, branch.text)), final[:-1] if ended else final)


def _probabilities(token: Token) -> list[float]:
    if not token.top:
        raise LaunchError(
            "cot_decoding: the engine gave no probabilities of the likeliest tokens", cure="use an engine that has them"
        )
    return [math.exp(value) for value in token.top]
