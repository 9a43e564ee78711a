"""What a right rollout that was cut by the token limit is worth: the code and the words of every docstring agree."""

import numpy as np
import pytest

from laconic.rewards import REWARDS
from laconic.rewards.example import group_of, random_rollout

NAMES = sorted(
    name
    for name, reward in REWARDS.items()
    if reward.function.__module__.startswith(("laconic.rewards.length.", "laconic.rewards.mode."))
)
# Their papers or their authors' code say that a cut rollout is none of the right ones.
CUT_IS_NOT_RIGHT = {"concise_rl", "dler", "efficient_reasoning", "thinkless"}
# Terms that do not ask whether a rollout is right.
VERDICT_BLIND = {"repetition", "soft_overlong"}

SAID_IF_IGNORED = "as the verifier judged it"
SAID_IF_VERDICT_BLIND = "whether a rollout ended by itself does not matter"


def rows():
    """Right rollouts, whole and cut, and wrong ones, in the form the prompt asked for."""
    rng = np.random.default_rng(5)
    flags = [(True, True), (True, False), (True, False), (True, True), (False, True), (False, False)]
    return [
        random_rollout(rng, correct=correct, finished=finished, well_formed=True, judgement=7, answer_prob=0.5)
        for correct, finished in flags
    ]


def rewards(name, **changed):
    """Of a reward that has seen the group once, so that what it remembers takes part."""
    group = group_of([row | changed for row in rows()])
    scorer = REWARDS[name].build()
    scorer(group)
    return scorer(group)


def depends_on(name, column):
    return not np.array_equal(rewards(name), rewards(name, **{column: True}), equal_nan=True)


def test_which_rewards_look_at_the_token_limit():
    assert {name for name in NAMES if depends_on(name, "finished")} == CUT_IS_NOT_RIGHT


def test_which_rewards_do_not_look_at_the_verdict():
    # rational_metareasoning has the verdict stand in where no probability is given.
    assert {name for name in NAMES if not depends_on(name, "correct")} == VERDICT_BLIND | {"rational_metareasoning"}


@pytest.mark.parametrize("name", sorted(CUT_IS_NOT_RIGHT))
def test_a_cut_rollout_is_worth_what_a_wrong_one_is(name):
    whole, cut, wrong = (
        {"correct": correct, "finished": finished} for correct, finished in ((True, True), (True, False), (False, True))
    )
    first, *rest = rows()
    got = [REWARDS[name](group_of([first | row, *rest]))[0] for row in (whole, cut, wrong)]
    assert got[0] > got[1] == got[2]


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_says_which(name):
    body = " ".join(REWARDS[name].documentation.body.split())
    assert (SAID_IF_IGNORED in body) == (name not in CUT_IS_NOT_RIGHT | VERDICT_BLIND)
    assert (SAID_IF_VERDICT_BLIND in body) == (name in VERDICT_BLIND)
    assert (name in VERDICT_BLIND) or "cut by the token limit" in body
