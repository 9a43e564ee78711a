"""What holds for every registered reward, whatever it computes."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.rewards import REWARDS, Group, length, outcome


@st.composite
def groups(draw):
    size = draw(st.integers(1, 12))
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    lengths = draw(st.lists(st.integers(1, 32768), min_size=size, max_size=size))
    text = st.sampled_from(["<think> 1 </think> 2", "2", "<think> <think> </think> 1", "</think>", "x </think> y"])
    return Group.of(draw(flags), lengths, draw(flags), lengths, [draw(text) for _ in range(size)])


def permuted(group: Group, order: np.ndarray) -> Group:
    return Group(
        group.correct[order],
        group.length[order],
        group.finished[order],
        group.think_length[order],
        tuple(group.text[i] for i in order),
    )


@pytest.mark.parametrize("name", sorted(REWARDS))
@settings(max_examples=60, deadline=None)
@given(group=groups(), seed=st.integers(0, 2**32 - 1))
def test_finite_and_equivariant(name, group, seed):
    rewards = REWARDS[name](group)
    assert rewards.shape == (group.size,)
    assert np.isfinite(rewards).all()
    order = np.random.default_rng(seed).permutation(group.size)
    np.testing.assert_allclose(REWARDS[name](permuted(group, order)), rewards[order], atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(group=groups(), alpha=st.floats(0, 1))
def test_efficient_reasoning_never_puts_a_right_answer_below_a_wrong_one(group, alpha):
    rewards = REWARDS["efficient_reasoning"](group, alpha=alpha)
    counted = group.correct & group.finished
    assert (rewards[~counted] == 0).all()
    assert (rewards[counted] >= 0).all()
    order = np.argsort(group.length[counted])
    assert (np.diff(rewards[counted][order]) <= 1e-12).all()


@pytest.mark.parametrize("module", [length, outcome])
def test_docstring_examples(module):
    result = doctest.testmod(module, extraglobs={"Group": Group})
    assert result.attempted >= 2
    assert result.failed == 0
