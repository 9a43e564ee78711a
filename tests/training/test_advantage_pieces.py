"""Advantages of papers, through TRL's loss: golden numbers, and gradients beside losses written by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from trl import GRPOTrainer

from laconic.recipes.stages import GrpoStage
from laconic.rewards import advantages
from laconic.rewards.records import Problem
from laconic.training.advantages import Decoupled, Estimated, Hybrid, pieces
from laconic.training.group_scorer import GroupScorer
from laconic.training.reward_adapter import RewardAdapter
from laconic.training.scored import Scored
from laconic.training.trainer import LaconicGRPOTrainer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "length_rewards.json").read_text())


@pytest.fixture(scope="module")
def children(fixed):
    """The modules with fixed rollouts and with the losses written by hand."""
    import by_hand

    return fixed, by_hand


def scored(rewards, tokens, *, group, mask=None):
    """What a piece sees on one process."""
    tokens = torch.tensor(tokens)
    columns = torch.arange(int(tokens.max()))
    batch = {
        "completion_mask": (columns < tokens[:, None]).long() if mask is None else mask,
        "advantages": torch.zeros(len(tokens)),
        "num_items_in_batch": tokens.sum(),
    }
    rewards = torch.tensor([np.nan if reward is None else reward for reward in rewards], dtype=torch.float)
    return Scored(batch, rewards, tokens, slice(0, len(tokens)), [{}] * len(tokens), group)


def found(name, given, **parameters):
    """The advantages that a recipe's key leads to."""
    config = GrpoStage(kind="grpo", rewards=[{"name": "accuracy"}], advantages={"name": name, **parameters})
    (piece,) = pieces(config, SimpleNamespace(require=lambda *_: None, column=lambda _: ["think"] * len(given.tokens)))
    return piece(SimpleNamespace(accelerator=Accelerator(cpu=True)), given)["advantages"]


def cases(entry):
    return [pytest.param(case, id=f"{entry}-{at}") for at, case in enumerate(GOLDEN[entry])]


@pytest.mark.parametrize("case", cases("dler"))
def test_dler(case):
    expected, tokens = case["expected"], [row["length"] for row in case["inputs"]["batch"]]
    rollouts = scored(expected["rewards"], tokens, group=4)
    np.testing.assert_allclose(found("dler", rollouts), expected["advantage"], atol=1e-4)
    boosted = found("dler", rollouts, boost=case["params"]["correct_sample_advantage_boost_value"])
    np.testing.assert_allclose(boosted, expected["advantage_after_boost"], atol=1e-4)


@pytest.mark.parametrize("case", cases("dr_saf"))
def test_dr_saf(case):
    expected = case["expected"]
    rollouts = scored(
        expected["rewards"], [row["length"] for row in case["inputs"]["group"]], group=len(expected["rewards"])
    )
    np.testing.assert_allclose(found("dr_saf", rollouts), expected["advantages"], atol=1e-4)


def test_rloo_and_rewards_themselves():
    rewards = [1.0, 0.0, 0.5, None, 0.2, 0.2, 0.2, 0.2]
    rollouts = scored(rewards, range(1, 9), group=4)
    np.testing.assert_allclose(found("rloo", rollouts), [0.75, -0.75, 0, 0, 0, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(found("rewards", rollouts), [1.0, 0.0, 0.5, 0, 0.2, 0.2, 0.2, 0.2])


@pytest.mark.parametrize("name", ["rloo", "dler", "dr_saf", "rewards", "thinkless", "hgpo"])
def test_a_rollout_without_reward(name):
    """It gets nothing; what the others get of their group is what they get without it."""
    whole = found(name, scored([1.0, 0.0, None, 0.5, 0.9, None], [3, 1, 4, 2, 5, 6], group=3))
    alone = found(name, scored([1.0, 0.0, 0.5, 0.9], [3, 1, 2, 5], group=2))
    assert not whole[[2, 5]].any()
    kept = whole[[0, 1, 3, 4]]
    if name == "thinkless":  # its tokens are in the means all the same, as they are in TRL's
        firsts, others = kept[:, 0] * 6 / 21, kept[0, 1] * 15 / 21
        np.testing.assert_allclose(firsts, alone[:, 0] * 4 / 11, rtol=1e-6)
        np.testing.assert_allclose(others, alone[0, 1] * 7 / 11, rtol=1e-6)
        return
    np.testing.assert_allclose(kept[..., :5] if kept.ndim == 2 else kept, alone, atol=1e-6)


@pytest.mark.parametrize("case", cases("thinkless_advantage"))
def test_thinkless_advantage(case):
    """Under the weights that make two means of one."""
    advantages = found("thinkless", scored(case["inputs"]["rewards"], [1, 2, 3, 4], group=4), control_weight=0.01)
    expected = np.array(case["expected"])
    np.testing.assert_allclose(advantages[:, 0], expected * 0.01 * 10 / 4, rtol=1e-6)
    np.testing.assert_allclose(advantages[1:, 1], expected[1:] * 10 / 6, rtol=1e-6)
    # The first rollout is nothing but its end: a first token, and no other.
    assert not advantages[0, 1:].any()


@pytest.fixture(scope="module")
def trainer(children, fixed_model, tmp_path_factory):
    """A trainer whose loss can be asked."""
    settings = {"loss_type": "dapo", "max_steps": 1}
    trained, _ = children[0].trained(LaconicGRPOTrainer, fixed_model, tmp_path_factory.mktemp("out"), **settings)
    trained.model.eval()
    return trained


@pytest.mark.parametrize("case", cases("thinkless_degrpo_loss"))
def test_thinkless_loss(trainer, monkeypatch, case):
    """The authors' loss of their token probabilities. Their advantages come from rewards here: every rollout gets a
    partner that is not in the loss."""
    given = {name: torch.tensor(value, dtype=torch.float) for name, value in case["inputs"].items()}
    rows, columns = given["mask"].shape
    beside = torch.zeros(rows, columns)
    mask = torch.stack([given["mask"], beside], dim=1).view(-1, columns).long()
    rewards = [value for advantage in case["inputs"]["advantages"] for value in (2 * advantage, 0.0)]
    rollouts = scored(rewards, mask.sum(1).tolist(), group=2, mask=mask)
    piece = Decoupled(case["params"]["thinkless_alpha"])
    old, new = (
        torch.stack([given[f"{which}_token_probs"].log(), beside], dim=1).view(-1, columns) for which in ("old", "new")
    )
    batch = rollouts.batch | piece(trainer, rollouts) | {"old_per_token_logps": old}
    ones = torch.ones(2 * rows, 2, dtype=torch.long)
    batch |= {"prompt_ids": ones, "prompt_mask": ones, "completion_ids": mask}
    monkeypatch.setattr(
        trainer, "_get_per_token_logps_and_entropies", lambda *_, **__: (new, beside.repeat(2, 1), None)
    )
    loss = GRPOTrainer._compute_loss(trainer, trainer.model, batch)
    assert loss.item() == pytest.approx(case["expected"]["loss"], rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_thinkless_gradient(children, fixed_model, tmp_path, monkeypatch, beta):
    """Rollouts of 1 to 48 tokens in several micro-batches, some left out; beside the two means written down. The second
    step is off the policy, with ratios to clip."""
    fixed, by_hand = children
    drawn = fixed._completion
    end_alone = lambda prompt, place, eos: ([eos], [1]) if place == 3 else drawn(prompt, place, eos)  # noqa: E731
    monkeypatch.setattr(fixed, "_completion", end_alone)
    settings = {"loss_type": "dapo", "num_iterations": 2, "learning_rate": 3.0}
    settings |= {"beta": beta, "use_bias_correction_kl": False}
    given = {"tokens_per_micro_batch": 96, "after_scoring": [Decoupled(by_hand.WEIGHT)]}
    ours, gradients = fixed.trained(LaconicGRPOTrainer, fixed_model, tmp_path, given=given, **settings)
    _, expected = fixed.trained(by_hand.TwoMeans, fixed_model, tmp_path, scale_rewards="none", **settings)
    assert all(gradient.norm() > 0.01 for gradient in expected)
    assert fixed.difference(gradients, expected) < 1e-5
    first, second = ours.state.log_history[:2]
    assert first["completions/min_length"] == 1
    assert first["micro_batches/count"] > 2
    assert (first["rollouts/skipped"] > 0) == (beta == 0)
    assert second["clip_ratio/region_mean"] > 0


def fix(monkeypatch, fixed, completions, reward):
    """These completions in the place of the module's."""

    def roll(prompts, trainer):
        encode = trainer.processing_class.encode
        return {"prompt_ids": [encode(prompt) for prompt in prompts], "completion_ids": completions, "logprobs": None}

    monkeypatch.setattr(fixed, "rollouts", lambda env_mask: roll)
    monkeypatch.setattr(fixed, "reward", reward)


def test_dler_trains_on_a_group_of_equal_rewards(children, fixed_model, tmp_path, monkeypatch):
    """It has signal through the batch, so none of it is left out; the gradient is that of the authors' advantages."""
    fixed, by_hand = children
    case = GOLDEN["dler"][1]
    rewards, lengths = case["expected"]["rewards"], [row["length"] for row in case["inputs"]["batch"]]
    fix(
        monkeypatch,
        fixed,
        [[5 + (row + at) % 25 for at in range(length)] for row, length in enumerate(lengths)],
        lambda completion_ids, **_: rewards,
    )
    settings = {"loss_type": "dapo", "max_steps": 1, "prompts": 2, "per_device_train_batch_size": 4}
    given = {"tokens_per_micro_batch": 64, "after_scoring": [Estimated(advantages.dler)]}
    ours, gradients = fixed.trained(LaconicGRPOTrainer, fixed_model, tmp_path, given=given, **settings)
    theirs = by_hand.given(torch.tensor(case["expected"]["advantage"]))
    _, expected = fixed.trained(theirs, fixed_model, tmp_path, **settings)
    assert len(set(rewards[:4])) == 1
    assert ours.state.log_history[0]["rollouts/skipped"] == 0
    np.testing.assert_allclose(list(ours._logs["advantages"]), case["expected"]["advantage"], atol=1e-4)
    assert fixed.difference(gradients, expected) < 1e-4


@pytest.mark.parametrize("case", cases("hgpo_inter_group"))
def test_hgpo(children, fixed_model, tmp_path, monkeypatch, case):
    """Completions in both modes, read and verified; the golden number is who wins between the modes."""
    fixed, by_hand = children
    think, direct = case["inputs"]["think_rewards"], case["inputs"]["no_think_rewards"]
    monkeypatch.setattr(fixed, "GROUP", len(think) + len(direct))
    scorer = GroupScorer(
        {"a": Problem("a", "3 + 4 =", "7", "chain_sum")}, tokenizer(fixed_model), num_generations=fixed.GROUP
    )
    adapter = RewardAdapter({"name": "accuracy"}, scorer)
    texts = [f"<think> 3 </think> {'7' if right else '8'}" for right in think]
    texts += [f"</think> {'7' if right else '8'}" for right in direct]
    ids = [[*scorer.reader.tokenizer.encode(text), *scorer.reader.eos_ids] for text in texts]
    asked = {"problem_id": ["a"] * len(ids)}
    fix(monkeypatch, fixed, ids, lambda completion_ids, **_: adapter(completion_ids=completion_ids, **asked))

    stage = {"kind": "grpo", "rewards": [{"name": "accuracy"}]}
    spec = {"name": "hgpo", "alpha": 0.5, "delta": case["params"]["delta"]}
    (piece,) = pieces(GrpoStage(**stage, advantages=spec), scorer)
    assert isinstance(piece, Hybrid)
    settings = {"loss_type": "dapo", "max_steps": 1, "prompts": 1, "per_device_train_batch_size": 4}
    given = {"tokens_per_micro_batch": 24, "after_scoring": [piece]}
    _, gradients = fixed.trained(LaconicGRPOTrainer, fixed_model, tmp_path, given=given, **settings)

    between = standardised([case["expected"]["think"]] * len(think) + [case["expected"]["no_think"]] * len(direct))
    within = np.concatenate([standardised(think), standardised(direct)])
    advantages = np.repeat(within[:, None], max(map(len, ids)), axis=1)
    advantages[:, 0] += 0.5 * between
    theirs = by_hand.given(torch.tensor(advantages, dtype=torch.float))
    _, expected = fixed.trained(theirs, fixed_model, tmp_path, **settings)
    assert fixed.difference(gradients, expected) < 1e-5


def test_hgpo_without_a_choice():
    """One mode only: nothing to choose between. No mode at all: the first token chose nothing."""
    rewards, tokens = [3.0, 1.0, 3.0, 2.0], [2, 2, 2, 2]
    trainer = SimpleNamespace(accelerator=Accelerator(cpu=True))
    for modes in (["think"] * 4, [None] * 4):
        (one,) = Hybrid(1.0, 0.2, lambda modes=modes: modes)(trainer, scored(rewards, tokens, group=4)).values()
        best = standardised([1, 0, 1, 0])
        np.testing.assert_allclose(one, np.stack([best, best], axis=1), atol=1e-4)
    mixed = Hybrid(1.0, 0.2, lambda: ["think", None, "no_think", "no_think"])
    (both,) = mixed(trainer, scored(rewards, tokens, group=4)).values()
    # Thinking has a mean of 2, direct answers of 2.5: those win.
    chosen = standardised([0, 0, 1, 1]) * [1, 0, 1, 1]
    np.testing.assert_allclose(both[:, 1], [*standardised([1, 0]), *standardised([1, 0])], atol=1e-4)
    np.testing.assert_allclose(both[:, 0] - both[:, 1], chosen, atol=1e-4)


def standardised(values):
    values = np.array(values, dtype=float)
    return (values - values.mean()) / (values.std(ddof=1) + 1e-6)


def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
