"""Groups without signal are drawn again, and what is trained is the batch that has them; two ranks: test_trainer.py."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from pydantic import ValidationError
from trl import GRPOTrainer

from laconic.recipes.stages import GrpoStage
from laconic.rewards.errors import LaunchError
from laconic.rewards.records import Rollout
from laconic.training.dynamic_sampling import DynamicSampling, refills, without_signal
from laconic.training.generations import ExactResume
from laconic.training.group_scorer import GroupScorer
from laconic.training.scratch import symbolic_tokenizer
from laconic.training.segments import joined
from laconic.training.trainer import LaconicGRPOTrainer

NAN = float("nan")


@pytest.fixture
def refilled(fixed, fixed_model, tmp_path):
    """Train with dynamic sampling, where every fourth problem has no signal; returns the trainer and its gradients."""

    def train(rounds=2, scorer=None, by_correctness=False, **case):
        sampling = DynamicSampling(rounds=rounds, scorer=scorer, by_correctness=by_correctness)
        given = {"tokens_per_micro_batch": 96, "dynamic_sampling": sampling}
        return fixed.trained(LaconicGRPOTrainer, fixed_model, tmp_path, given=given, **({"prompts": 14} | case))

    return train


def groups(trainer, column):
    """A column of the log of completions, by group."""
    values = list(column)
    return [values[at : at + trainer.num_generations] for at in range(0, len(values), trainer.num_generations)]


def account(trainer, step=0):
    row = trainer.state.log_history[step]
    return {name.partition("/")[2]: value for name, value in row.items() if name.startswith("refill/")}


@pytest.mark.parametrize(
    "case",
    [
        # Log-probabilities of the old policy and of the reference, tokens that are not learned, two steps.
        {"loss_type": "dapo", "env_mask": True, "beta": 0.1, "num_iterations": 2},
        {"loss_type": "dr_grpo", "scale_rewards": "batch"},
    ],
    ids=["group", "batch"],
)
def test_gradient_is_that_of_the_problems_that_the_batch_ends_with(refilled, fixed, fixed_model, tmp_path, case):
    once = case | {"max_steps": case.get("num_iterations", 1)}
    ours, gradients = refilled(**once)
    problems = set(ours._logs["prompt"])
    assert len(problems) == 4
    assert account(ours)["groups_used"] >= 1
    theirs, expected = fixed.trained(GRPOTrainer, fixed_model, tmp_path, prompts=14, only=problems, **once)
    assert set(theirs._logs["prompt"]) == problems
    assert all(gradient.norm() > 0.01 for gradient in expected)
    assert fixed.difference(gradients, expected) < 1e-5


def test_what_is_logged(refilled, fixed, fixed_model, tmp_path, monkeypatch):
    """Metrics are those of the first draw, but for the count of tokens; rows of the log are those of the batch."""
    usual = fixed.reward

    def telling(completion_ids, number, log_extra, log_metric, **_):
        log_extra("number", number)
        log_metric("raw/number", sum(number) / len(number))
        return usual(completion_ids, number)

    monkeypatch.setattr(fixed, "reward", telling)
    ours, _ = refilled(max_steps=1)
    plain, _ = fixed.trained(LaconicGRPOTrainer, fixed_model, tmp_path, prompts=14, max_steps=1)
    mine, theirs = ours.state.log_history[0], plain.state.log_history[0]
    for name in theirs.keys() - {"step_time", "loss", "grad_norm", "num_tokens"}:
        if not name.startswith(("seconds/", "rollouts/", "micro_batches/", "entropy", "clip_ratio/")):
            assert mine[name] == theirs[name], name
    cost = account(ours)
    assert cost["rounds"] >= 1
    assert cost["groups_used"] == theirs["frac_reward_zero_std"] * 4 - cost["without_signal"]
    # Prompts are counted too.
    assert mine["num_tokens"] > theirs["num_tokens"] + cost["tokens"] > theirs["num_tokens"]
    assert 0 < cost["seconds"] < mine["step_time"]

    logs = ours._logs
    columns = [
        logs["prompt"],
        logs["completion"],
        logs["advantages"],
        logs["rewards"]["telling"],
        logs["extra"]["number"],
    ]
    assert {len(column) for column in columns} == {16}
    for prompts, said, advantages, rewards, numbers in zip(*(groups(ours, column) for column in columns), strict=True):
        assert len(set(prompts)) == len(set(numbers)) == 1
        drawn = [fixed._completion(prompts[0], place, 1)[0] for place in range(4)]
        assert said == ours.processing_class.batch_decode(drawn, skip_special_tokens=True)
        assert rewards == pytest.approx(usual(drawn, numbers))
        spread = torch.tensor(rewards)
        assert advantages == pytest.approx(((spread - spread.mean()) / (spread.std() + 1e-4)).tolist(), abs=1e-5)
        assert len(set(rewards)) > 1


def test_rounds_end(refilled, fixed, monkeypatch):
    """At the cap, or where the training set has no further problems; what has no signal then stays."""
    monkeypatch.setattr(fixed, "reward", lambda number, **_: [0.7] * len(number))
    capped, gradients = refilled(rounds=2, max_steps=1)
    assert gradients[0].norm() == 0
    found = account(capped)
    assert (found["rounds"], found["groups_drawn"], found["groups_used"], found["without_signal"]) == (2, 8, 0, 4)
    small, _ = refilled(rounds=5, prompts=6, max_steps=1)
    found = account(small)
    assert (found["rounds"], found["groups_drawn"], found["groups_used"], found["without_signal"]) == (1, 2, 0, 4)
    none, _ = refilled(rounds=5, prompts=4, max_steps=1)
    assert account(none) | {"seconds": 0.0} == dict.fromkeys(found, 0.0) | {"without_signal": 4.0}


def test_a_resumed_run_draws_the_same(refilled, tmp_path):
    settings = {"num_iterations": 2, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole, gradients = refilled(**settings, callbacks=[ExactResume()])
    drawn = list(whole._logs["prompt"])
    again, late = refilled(**settings, callbacks=[ExactResume()], resume=str(tmp_path / "checkpoint-2"))
    assert account(whole, 2)["groups_used"] >= 1
    assert list(again._logs["prompt"]) == drawn
    assert account(again, 2) | {"seconds": 0} == account(whole, 2) | {"seconds": 0}
    assert all(map(torch.allclose, late, gradients[2:]))


def test_by_correctness(refilled, fixed, monkeypatch):
    """A group whose right and wrong answers are paid the same stays; one with equal answers goes, whatever is paid."""
    scorer = GroupScorer({}, symbolic_tokenizer(["1"]), num_generations=4)

    def reward(completion_ids, number, **_):
        right = [one % 2 == 0 and at % 2 == 0 for at, one in enumerate(number)]
        told = zip(number, right, strict=True)
        scorer.rollouts = [_rollout(str(number), correct) for number, correct in told]
        return [0.5 if one % 4 == 0 else at % 3 / 2 for at, one in enumerate(number)]

    monkeypatch.setattr(fixed, "reward", reward)
    ours, _ = refilled(rounds=4, scorer=scorer, by_correctness=True, max_steps=1)
    assert account(ours)["without_signal"] == 0
    assert account(ours)["groups_used"] >= 1
    numbers = {row["prompt"]: row["number"] for row in ours.train_dataset}
    assert [rollout.problem_id for rollout in scorer.rollouts] == [str(numbers[text]) for text in ours._logs["prompt"]]
    assert all(int(rollout.problem_id) % 2 == 0 for rollout in scorer.rollouts)
    # What was read of the rollouts follows them, as advantages by mode (HGPO) take it.
    assert scorer.column("mode") == [f"{numbers[text]}'s" for text in ours._logs["prompt"]]
    rewards = groups(ours, ours._logs["rewards"]["reward"])
    assert any(len(set(group)) == 1 for group in rewards)


def _rollout(problem, correct):
    counts = dict.fromkeys(("tokens", "think_tokens", "answer_tokens"), 1)
    return Rollout(
        problem_id=problem,
        sample=0,
        task="sum",
        text="1",
        answer="1",
        correct=correct,
        finished=True,
        **counts,
        meta={"mode": f"{problem}'s"},
    )


def test_without_signal():
    values = torch.tensor([[1, 1, 1], [1, 0, 1], [NAN, 2, 2], [NAN, NAN, 3], [NAN, NAN, NAN], [NAN, 1, 2]])
    assert without_signal(values.view(-1), 3) == [0, 2, 3, 4]


def test_padding_of_joined_generations():
    def batch(prompt, completion, value):
        sizes = {"prompt_mask": prompt, "completion_mask": completion, "importance_sampling_ratio": completion}
        return {name: torch.full((1, size), value) for name, size in sizes.items()} | {"num": torch.tensor(value)}

    both = joined(batch(1, 3, 5), batch(2, 1, 7))
    assert both["prompt_mask"].tolist() == [[0, 5], [7, 7]]
    assert both["completion_mask"].tolist() == [[5, 5, 5], [7, 0, 0]]
    assert both["importance_sampling_ratio"].tolist() == [[5, 5, 5], [7, 1, 1]]
    assert both["num"] == 5


def test_what_cannot_be_refilled(refilled):
    with pytest.raises(LaunchError, match="normalize_then_sum"):
        refilled(multi_objective_aggregation="normalize_then_sum")
    for rows, message in (
        (Dataset.from_list([{"prompt": "1"}]).to_iterable_dataset(), "without a length"),
        (Dataset.from_list([{"environment": "maze"}]), "cannot be told apart"),
    ):
        trainer = SimpleNamespace(multi_objective_aggregation="sum_then_normalize", _is_vlm=False, train_dataset=rows)
        with pytest.raises(LaunchError, match=message):
            DynamicSampling().check(trainer)


def test_recipes():
    stage = {"kind": "grpo", "rewards": [{"name": "accuracy"}]}
    plain, asked = GrpoStage(**stage), GrpoStage(**stage, dynamic_sampling={"rounds": 3, "by": "correct"})
    assert "dynamic_sampling" not in plain.model_dump()
    assert refills(plain.dynamic_sampling, None) == {}
    scorer = GroupScorer({}, symbolic_tokenizer(["1"]), num_generations=2)
    assert refills(asked.dynamic_sampling, scorer)["dynamic_sampling"].rounds == 3
    trainer = {"multi_objective_aggregation": "normalize_then_sum"}
    with pytest.raises(ValidationError, match="normalize_then_sum"):
        GrpoStage(**stage, dynamic_sampling={}, trainer=trainer)
    with pytest.raises(ValidationError, match="leave it out or set fast: true"):
        GrpoStage(**stage, dynamic_sampling={}, fast=False)
