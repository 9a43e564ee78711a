"""Advantages: TRL's computation restated in torch, and numbers that the authors' own code produced."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.rewards import REWARDS, Batch, Group
from laconic.rewards.advantages import PAPER, dler, dr_saf, grpo, paper, rloo

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "length_rewards.json").read_text())


def cases(entry):
    return [pytest.param(case, id=f"{entry}-{i}") for i, case in enumerate(GOLDEN[entry])]


def batch_of(*sizes):
    return Batch.of(*(Group.of([True] * size, [1] * size) for size in sizes))


@pytest.mark.parametrize("case", cases("gfpo"))
def test_gfpo(case):
    kept = np.isin(np.arange(case["params"]["G"]), case["expected"]["kept_indices"])
    rewards = np.where(kept, case["inputs"]["rewards"], np.nan)
    advantages = PAPER["gfpo"](batch_of(len(rewards)), rewards)
    np.testing.assert_allclose(advantages, case["expected"]["advantages"], atol=1e-5)


@pytest.mark.parametrize("case", cases("dler"))
def test_dler(case):
    rows = case["inputs"]["batch"]
    groups = [[row for row in rows if row["prompt"] == prompt] for prompt in ("a", "b")]
    batch = Batch.of(*(Group.of([r["correct"] for r in group], [r["length"] for r in group]) for group in groups))
    rewards, expected = np.array(case["expected"]["rewards"]), case["expected"]
    boost = case["params"]["correct_sample_advantage_boost_value"]
    np.testing.assert_allclose(PAPER["dler"](batch, rewards), expected["advantage"], atol=1e-4)
    np.testing.assert_allclose(dler(batch, rewards, boost=boost), expected["advantage_after_boost"], atol=1e-4)
    released = paper("dler", batch, rewards, {"as_released": True})
    np.testing.assert_allclose(released, expected["advantage_after_boost"], atol=1e-4)


def test_weights_that_a_division_by_the_spread_would_undo():
    """One right of four, at different weights: GRPO's advantages are the same, those of the paper are not."""
    batch = batch_of(4)
    light, heavy = (np.array([weight, 0.0, 0.0, 0.0]) for weight in (1.0, 2.0))
    np.testing.assert_allclose(grpo(batch, light, eps=0.0), grpo(batch, heavy, eps=0.0))
    np.testing.assert_allclose(2 * paper("bon_aware", batch, light), paper("bon_aware", batch, heavy))
    np.testing.assert_array_equal(paper("o1_pruner", batch, heavy), heavy)
    np.testing.assert_array_equal(paper("kimi_length", batch, heavy), grpo(batch, heavy))


@pytest.mark.parametrize("case", cases("dr_saf"))
def test_dr_saf(case):
    rewards = np.array(case["expected"]["rewards"])
    advantages = PAPER["dr_saf"](batch_of(len(rewards)), rewards)
    np.testing.assert_allclose(advantages, case["expected"]["advantages"], atol=1e-4)


@pytest.mark.parametrize("case", cases("lc_r1_advantage"))
def test_lc_r1(case):
    rows = case["inputs"]["group"]
    length = np.array([row["compressed_length"] for row in rows], dtype=float)
    outcome = np.array([row["format"] + row["accuracy"] for row in rows])
    assert (outcome == 2).any()
    rewards = outcome + 1 - length / (length[outcome == 2].max() + 1e-4)
    np.testing.assert_allclose(PAPER["lc_r1"](batch_of(len(rows)), rewards), case["expected"], atol=1e-5)


@pytest.mark.parametrize("case", cases("s_grpo_early_exit"))
def test_s_grpo(case):
    rewards = np.array(case["expected"]["rewards"])
    advantages = PAPER["s_grpo_early_exit"](batch_of(len(rewards)), rewards)
    np.testing.assert_allclose(advantages, case["expected"]["advantages"], atol=1e-9)


@pytest.mark.parametrize("case", cases("thinkless_advantage"))
def test_thinkless(case):
    rewards = np.array(case["inputs"]["rewards"])
    advantages = PAPER["thinkless"](batch_of(len(rewards)), rewards)
    np.testing.assert_allclose(advantages, case["expected"], atol=1e-9)


def test_every_paper_is_a_registered_reward():
    assert set(PAPER) <= set(REWARDS)


def trl_advantages(rewards, scale):
    """The lines of TRL's trainer that follow its weighted sum, for rewards of shape (groups, generations)."""
    torch = pytest.importorskip("torch")
    from trl.trainer.utils import nanstd

    rewards, generations = torch.tensor(rewards).view(-1), rewards.shape[1]
    grouped = rewards.view(-1, generations)
    mean = torch.nanmean(grouped, dim=1).repeat_interleave(generations, dim=0)
    if scale == "batch":
        std = nanstd(rewards).expand_as(rewards) if rewards.numel() > 1 else torch.zeros_like(rewards)
    elif generations > 1:
        std = nanstd(grouped, dim=1).repeat_interleave(generations, dim=0)
    else:
        std = torch.zeros_like(rewards)
    advantages = rewards - mean
    if scale != "none":
        advantages = advantages / (std + 1e-4)
    return torch.nan_to_num(advantages, nan=0.0).numpy()


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("missing", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize(("groups", "generations"), [(1, 1), (3, 1), (1, 8), (4, 2), (6, 16)])
def test_grpo_is_what_trl_computes(scale, missing, groups, generations):
    rng = np.random.default_rng(groups * generations)
    for spread in (1.0, 1e-3):
        rewards = spread * rng.integers(-2, 3, size=(groups, generations)).astype(float)
        rewards[rng.random(rewards.shape) < missing] = np.nan
        ours = grpo(batch_of(*[generations] * groups), rewards.ravel(), scale=scale)
        np.testing.assert_allclose(ours, trl_advantages(rewards, scale), atol=1e-9)


REWARD = st.one_of(st.just(float("nan")), st.floats(-5, 5))
RAGGED = st.lists(st.lists(REWARD, min_size=1, max_size=6), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(groups=RAGGED)
def test_rloo_compares_with_the_mean_of_the_others(groups):
    expected = []
    for rewards in groups:
        for i, own in enumerate(rewards):
            others = [other for other in rewards[:i] + rewards[i + 1 :] if other == other]
            expected.append(own - np.mean(others) if own == own and others else 0.0)
    ours = rloo(batch_of(*map(len, groups)), np.concatenate(groups))
    np.testing.assert_allclose(ours, expected, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(groups=RAGGED)
def test_a_rollout_without_reward_changes_nothing(groups):
    """Every estimator gives it 0, and the others what they get without it."""
    rewards, sizes = np.concatenate(groups), [len(group) for group in groups]
    scored = ~np.isnan(rewards)
    kept = [sum(reward == reward for reward in group) for group in groups]
    for name, estimator in {**PAPER, "grpo": grpo}.items():
        advantages = estimator(batch_of(*sizes), rewards)
        assert (advantages[~scored] == 0).all(), name
        alone = estimator(batch_of(*[size for size in kept if size]), rewards[scored])
        np.testing.assert_allclose(advantages[scored], alone, atol=1e-9, err_msg=name)


def test_groups_may_differ_in_size_and_do_not_mix():
    rewards = np.array([1.0, 0.0, 5.0, 5.0, 5.0, 9.0])
    advantages = grpo(batch_of(2, 3, 1), rewards, eps=1e-12)
    np.testing.assert_allclose(advantages, [0.5**0.5, -(0.5**0.5), 0, 0, 0, 0], atol=1e-9)


def test_dler_is_whitening_of_one_value_per_token():
    """Against the plain thing: repeat each centred reward once per token, standardise."""
    rng = np.random.default_rng(0)
    lengths, rewards = rng.integers(1, 50, 12), rng.random(12)
    batch = Batch.of(*(Group.of([True] * 4, lengths[i : i + 4]) for i in (0, 4, 8)))
    centred = (rewards.reshape(3, 4) - rewards.reshape(3, 4).mean(1, keepdims=True)).ravel()
    tokens = np.repeat(centred, lengths)
    expected = (centred - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(dler(batch, rewards), expected, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(rewards=st.lists(st.floats(0, 1.1), min_size=1, max_size=8))
def test_dr_saf_never_pushes_a_right_answer_down(rewards):
    rewards = np.array(rewards)
    advantages = dr_saf(batch_of(len(rewards)), rewards)
    assert (advantages[rewards > 0.5] >= 0).all()
    plain = grpo(batch_of(len(rewards)), rewards, eps=1e-6)
    np.testing.assert_allclose(advantages[rewards <= 0.5], plain[rewards <= 0.5], atol=1e-9)


def test_no_groups_no_advantages():
    for estimator in (grpo, rloo, *PAPER.values()):
        assert estimator(Batch.of(), np.zeros(0)).shape == (0,)
