"""From rollouts to preference rows: which completion is better than which. One pure function per method.

A pairing sees all rollouts of a stage and gives rows ``{"problem_id", "prompt", "chosen", "rejected"}``, in the order
of the problems. None depends on the order of the rollouts. What is chosen is correct, no teacher's guess, was not cut
by the token limit, and never equals what is rejected; pairing again what was paired changes nothing. Rows of search
episodes have `chosen_pieces` and `rejected_pieces` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

from laconic.data_gen.select import by_problem, correct_ones, pieces_of, shortest_first
from laconic.rewards.records import Problem, Rollout

Row = dict[str, Any]
Pair = tuple[Rollout, Rollout]
"""(chosen, rejected)."""
Pairing = Callable[[Sequence[Rollout], dict[str, Problem]], list[Row]]

PAIRINGS: dict[str, Pairing] = {}
"""By the name that a recipe's `keep:` uses."""

NEEDS: dict[str, str] = {}
"""By the same name: what a problem must have to yield a row, for the message when none does."""

IRPO_PAIRS = 10
KIMI_RATIO = 1.5
WEB_THINKER_RATIO = 1.5


def _pairing(*, needs: str) -> Callable[[Callable[[list[Rollout]], list[Pair]]], Pairing]:
    """Register a rule that pairs one problem's rollouts; recipes use the rule's own name."""

    def register(pair: Callable[[list[Rollout]], list[Pair]]) -> Pairing:
        @wraps(pair)
        def build(rollouts: Sequence[Rollout], problems: dict[str, Problem]) -> list[Row]:
            return [
                _row(problem, chosen, rejected)
                for problem, group in by_problem(rollouts, problems)
                for chosen, rejected in pair(group)
                # Two samples may say the same and differ in what is not text, such as their searches.
                if chosen.text != rejected.text
            ]

        PAIRINGS[pair.__name__], NEEDS[pair.__name__] = build, needs
        return build

    return register


def _row(problem: Problem, chosen: Rollout, rejected: Rollout) -> Row:
    row = {"problem_id": problem.id, "prompt": problem.prompt, "chosen": chosen.text, "rejected": rejected.text}
    pieces = {"chosen_pieces": pieces_of(chosen), "rejected_pieces": pieces_of(rejected)}
    return row if None in pieces.values() else row | pieces


def wrong_ones(group: Iterable[Rollout]) -> list[Rollout]:
    """The rollouts that the verifier refused, truncated ones among them; an unverifiable one is not wrong."""
    return [rollout for rollout in group if rollout.correct is False]


def _length_pair(group: list[Rollout]) -> list[Pair]:
    right = shortest_first(correct_ones(group))
    if len(right) < 2 or right[0].tokens == right[-1].tokens:
        return []
    longest = next(rollout for rollout in right if rollout.tokens == right[-1].tokens)
    return [(right[0], longest)]


@_pairing(needs="two correct samples of different length")
def shortest_vs_longest(group: list[Rollout]) -> list[Pair]:
    """Shortest correct over longest correct: Sky-T1-Flash (NovaSky, `recipes/sky-t1-flash`), 8 samples at T = 1.

    Nothing for a problem with fewer than two correct samples, or with all of one length.
    """
    return _length_pair(group)


@_pairing(needs="two correct samples of different length, or a wrong one shorter than a correct one")
def silc(group: list[Rollout]) -> list[Pair]:
    """`shortest_vs_longest`, and longest correct over shortest wrong where the wrong one is shorter.

    Sky-T1-Flash's "short incorrect, long correct" pairs, which keep accuracy from collapsing. A truncated rollout does
    not count as short.
    """
    right = shortest_first(correct_ones(group))
    wrong = shortest_first(rollout for rollout in wrong_ones(group) if rollout.finished)
    pairs = _length_pair(group)
    if right and wrong and wrong[0].tokens < right[-1].tokens:
        longest = next(rollout for rollout in right if rollout.tokens == right[-1].tokens)
        pairs.append((longest, wrong[0]))
    return pairs


@_pairing(needs="a correct and a wrong sample")
def correct_vs_wrong(group: list[Rollout]) -> list[Pair]:
    """Correct over wrong, whatever their lengths: Iterative RPO (arXiv:2404.19733); wants `nll_weight` above 0.

    The paper draws up to K pairs per problem at random. Here the i-th correct sample meets the i-th wrong one, up to
    10 pairs: no sample is used twice, and no random numbers are needed.
    """
    return list(zip(correct_ones(group), wrong_ones(group), strict=False))[:IRPO_PAIRS]


@_pairing(needs="a correct sample and a longer one that is wrong or 1.5 times as long")
def kimi(group: list[Rollout]) -> list[Pair]:
    """Long2short DPO of Kimi k1.5 (arXiv:2501.12599, section 2.4): shortest correct over each longer response.

    Rejected are wrong responses that are longer than the chosen one, and correct ones at least 1.5 times as long.
    """
    right = shortest_first(correct_ones(group))
    if not right:
        return []
    best = right[0]
    longer = [rollout for rollout in wrong_ones(group) if rollout.tokens > best.tokens]
    longer += [rollout for rollout in right if rollout.tokens >= KIMI_RATIO * best.tokens and rollout is not best]
    return [(best, rejected) for rejected in sorted(longer, key=lambda rollout: rollout.sample)]


@_pairing(needs="a correct sample, and one that is wrong, searches more often or thinks more than 1.5 times as long")
def web_thinker(group: list[Rollout]) -> list[Pair]:
    """Preferences of WebThinker (arXiv:2504.21776): correctness, then fewer searches, then shorter thinking.

    Every pair of samples that `prefers` can tell apart is a row; the paper chains two rounds of online DPO on them. No
    training code was released and the paper's length ratio is not known here: 1.5 is ours.
    """
    right = correct_ones(group)
    others = sorted([*right, *wrong_ones(group)], key=lambda rollout: rollout.sample)
    return [(chosen, other) for chosen in right for other in others if prefers(chosen, other)]


def prefers(one: Rollout, other: Rollout) -> bool:
    """Whether WebThinker's criteria put `one` above `other`.

    A correct rollout beats a wrong one. Of two correct ones the one with fewer executed searches wins (see
    `executed_searches`), and at equal searches the other must have thought more than `WEB_THINKER_RATIO` times as long;
    nothing is known of two whose searches are unknown, and no ratio can be taken with a rollout that has no thinking. A
    rollout that could not be verified neither wins nor loses.
    """
    if not one.correct or other.correct is None:
        return False
    if not other.correct:
        return True
    mine, theirs = executed_searches(one), executed_searches(other)
    if mine is None or theirs is None:
        return False
    if mine != theirs:
        return mine < theirs
    return 0 < WEB_THINKER_RATIO * one.think_tokens < other.think_tokens


def executed_searches(rollout: Rollout) -> int | None:
    """How many searches a rollout executed: those of its episode (``meta["search"]``), or else ``meta["searches"]``, or
    how many `queries` or `retrieved` lists it has.

    None if that is null: somebody meant to count and could not. A rollout that says nothing about searching made none.
    """
    meta = rollout.meta
    if "search" in meta:
        return len(meta["search"]["searches"])
    if "searches" in meta:
        return meta["searches"]
    listed = next((meta[name] for name in ("queries", "retrieved") if name in meta), ())
    return None if listed is None else len(listed)
