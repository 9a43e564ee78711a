"""Whether length moves wrong answers, in files that are too long to try every one of them."""

import numpy as np
import pytest

from laconic.rewards import REWARDS, Batch, Group, registry
from laconic.rewards.registry import build
from laconic.rewards.score import Chosen, Score
from laconic.rewards.score_length import FEWEST, length_changes


@pytest.fixture
def own_rewards():
    """Rewards that a test registers are gone after it."""
    before = set(REWARDS)
    yield
    for name in set(REWARDS) - before:
        del REWARDS[name]


def scored(name, *batches):
    scorer = build(name)
    rewards = tuple(scorer(batch) for batch in batches)
    return Score(Chosen(name), batches, rewards, rewards)


def groups(number, size, *, seed=0):
    """Groups whose rollouts are all wrong but the first."""
    draw = np.random.default_rng(seed)
    correct = [True] + [False] * (size - 1)
    return [Group.of(correct, draw.integers(100, 4000, size), problem_id=f"{seed}.{at}") for at in range(number)]


@pytest.mark.usefixtures("own_rewards")
def test_rollouts_from_the_whole_of_a_long_batch_stand_for_it():
    @registry.reward(paper="-", kind="length", scope="batch")
    def late_pressure(batch: Batch) -> np.ndarray:
        # Only problems of the second half feel their length, against the mean of all.
        late = batch.gather(lambda group: np.full(group.size, float(group.problem_id.split(".")[1]) >= 500))
        return late * batch.length / batch.length.mean()

    score = scored("late_pressure", Batch.of(*groups(1000, 16)))
    changes = length_changes(score)
    assert changes.shape == (2, FEWEST)
    moved = (changes != 0).any(axis=0)
    assert moved.sum() == pytest.approx(FEWEST / 2, abs=1)
    # From the first groups to the last ones.
    assert not moved[:30].any()
    assert moved[-30:].all()


def test_a_long_batch_gives_what_its_part_would():
    # The price of a_dlp falls on every rollout alike, so that a part of the batch says it exactly.
    changes = length_changes(scored("a_dlp", Batch.of(*groups(1000, 16))))
    assert changes.shape == (2, FEWEST)
    np.testing.assert_allclose(changes[0], -2 * changes[1], rtol=0.01)
    assert (changes[0] < 0).all()


@pytest.mark.usefixtures("own_rewards")
def test_every_step_is_tried():
    @registry.reward(paper="-", kind="length", scope="batch")
    def step_pressure(batch: Batch) -> np.ndarray:
        # Each step has its own price: 1, 2, ... per token.
        return batch.gather(lambda group: group.length * (1 + float(group.problem_id.split(".")[0])))

    batches = [Batch.of(*groups(100, 16, seed=seed)) for seed in range(8)]
    changes = length_changes(scored("step_pressure", *batches))
    wrong = 8 * 100 * 15
    assert FEWEST <= changes.shape[1] < wrong
    # Twice a length of 100 to 4000 adds it, times the price of the step; the tried ones are those at even distances.
    number = changes.shape[1]
    places = ((np.arange(number) + 0.5) * wrong / number).astype(int)
    prices = np.repeat(np.arange(1, 9), 100 * 15)
    lengths = np.concatenate([batch.length[~batch.correct] for batch in batches])
    np.testing.assert_allclose(changes[0], (prices * lengths)[places])


def test_groups_are_tried_together_and_each_sees_only_its_own_change():
    batch = Batch.of(*groups(7, 5))
    changes = length_changes(scored("shorter_better", batch))
    reward, expected = build("shorter_better"), []
    for turn in range(1, 5):
        for group in batch:
            columns = []
            for factor in (2.0, 0.5):
                length = group.length.copy()
                length[turn] = np.round(length[turn] * factor)
                columns.append(reward(Group.of(group.correct, length))[turn] - reward(group)[turn])
            expected.append(columns)
    np.testing.assert_allclose(changes, np.array(expected).T, atol=1e-12)


def test_a_single_long_group_is_tried_more_than_once():
    changes = length_changes(scored("shorter_better", Batch.of(*groups(1, 30_000))))
    assert changes.shape == (2, FEWEST)
    assert (changes != 0).any(axis=0).all()


def test_without_wrong_rollouts_nothing_is_tried():
    for name in ("accuracy", "shorter_better", "a_dlp"):
        assert length_changes(scored(name, Batch.of(Group.of([True], [5], problem_id="p")))).shape == (2, 0)
