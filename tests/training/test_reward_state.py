"""Rewards with memory: a run that is killed and resumed gives the rewards of one that is not."""

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from laconic.rewards import trl_reward
from laconic.rewards.errors import LaunchError
from laconic.rewards.jsonl import read_jsonl
from laconic.training.reward_state import STATE_FILE, RewardState

LAST = 8
SCORED = [1, 3, 5, 7]  # every generation is used for two steps
PAID = [f"rewards/{name}/mean" for name in ("hapo", "short_rl", "a_dlp", "shorter_better")]
LOGGED = [*PAID, "reward", "reward_std", "raw/accuracy", "raw/tokens"]


def train(run, *, ranks, die_at):
    """Train the stage `memory` until rank 0 is killed; its checkpoints are left as they are."""
    if ranks == 1:
        process = run.python("laconic.training.grpo", "memory", DIE_AT=die_at)
        assert process.returncode == -9, process.stderr[-6000:]
    else:
        process = run.accelerate("cpu2", "grpo", "memory", ACCELERATE_USE_CPU="true", DIE_AT=die_at)
        assert process.returncode != 0
    return process.stdout


def memory(run, step):
    """What a checkpoint says the rewards remember, by name."""
    checkpoint = run.folder("memory", ".partial") / "checkpoints" / f"checkpoint-{step}"
    return {item["name"]: item["state"] for item in json.loads((checkpoint / STATE_FILE).read_text())["rewards"]}


def rewards(run):
    """What each generation was paid, by step."""
    rows = list(read_jsonl(run.folder("memory", ".partial") / "metrics.jsonl"))
    return {row["step"]: {name: row[name] for name in LOGGED} for row in rows if "reward" in row}


@pytest.fixture(scope="module")
def schooled(reference, tmp_path_factory):
    """The reference run with a model that gets some problems right."""
    run = reference.copy(tmp_path_factory.mktemp("schooled"), without=["sft", "grpo"])
    process = run.python("laconic.training.sft", "school")
    assert process.returncode == 0, process.stderr[-6000:]
    return run


@pytest.fixture(scope="module")
def uninterrupted(schooled, tmp_path_factory):
    """The stage `memory` in one process, killed after its last checkpoint so that the checkpoints stay."""
    run = schooled.copy(tmp_path_factory.mktemp("uninterrupted"))
    train(run, ranks=1, die_at=f"on_train_end:{LAST}")
    return run


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_resumed_is_uninterrupted(schooled, uninterrupted, tmp_path, ranks):
    run = schooled.copy(tmp_path)
    train(run, ranks=ranks, die_at="on_step_end:8")
    assert "resuming from checkpoint-6" in train(run, ranks=ranks, die_at=f"on_train_end:{LAST}")
    expected = rewards(uninterrupted)
    assert list(expected) == SCORED
    assert rewards(run) == {step: pytest.approx(row, rel=1e-6) for step, row in expected.items()}
    assert memory(run, LAST) == memory(uninterrupted, LAST)


def test_the_memory_of_that_run_is_worth_keeping(uninterrupted):
    before, after = memory(uninterrupted, 6), memory(uninterrupted, LAST)
    assert all(before[name] and before[name] != after[name] for name in ("hapo", "a_dlp", "shorter_better"))
    assert before["short_rl"]
    rows = rewards(uninterrupted)
    # Without memory HAPO pays accuracy.
    assert any(abs(row["rewards/hapo/mean"] - row["raw/accuracy"]) > 0.01 for row in rows.values())


def test_a_save_waits_until_the_rollouts_are_used_up(uninterrupted):
    checkpoints = uninterrupted.folder("memory", ".partial") / "checkpoints"
    # save_steps is 3: what fell due at 3 was written at 4.
    assert sorted(path.name for path in checkpoints.glob("*-*")) == ["checkpoint-4", "checkpoint-6", "checkpoint-8"]


class Counts:
    """A reward that remembers how many batches it has scored, and pays the longer the more."""

    __name__ = "counts"

    def __init__(self):
        self.seen = 0
        self.calls = []

    def __call__(self, completion_ids, trainer_state, **_):
        self.calls.append((trainer_state.global_step, self.seen))
        self.seen += 1
        return [float(len(ids)) for ids in completion_ids]

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def plain_trl(model, folder, reward, **settings):
    """A TRL script of somebody's own: each generation is for two optimiser steps, and every step is saved."""
    dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": "3 + 4 ="}], "answer": "7"}] * 8)
    fixed = {"num_generations": 2, "per_device_train_batch_size": 2, "max_completion_length": 4, "num_iterations": 2}
    fixed |= {"gradient_accumulation_steps": 1, "save_steps": 1, "save_only_model": False, "learning_rate": 1e-4}
    quiet = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}
    return GRPOTrainer(
        model=str(model),
        reward_funcs=[reward],
        args=GRPOConfig(output_dir=str(folder), **(fixed | quiet | settings)),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(2)),
        callbacks=[RewardState([reward])],
    )


@pytest.fixture(scope="module")
def model(schooled):
    return schooled.folder("school") / "model"


def saved(folder, step):
    return json.loads((folder / f"checkpoint-{step}" / STATE_FILE).read_text())["rewards"]


def test_a_save_inside_a_generation_has_the_memory_from_before_it(model, tmp_path):
    first = Counts()
    plain_trl(model, tmp_path, first, max_steps=3).train()
    assert first.calls == [(0, 0), (2, 1)]
    assert [saved(tmp_path, step)[0]["state"]["seen"] for step in (1, 2, 3)] == [0, 1, 1]
    # TRL makes and scores rollouts at once when it resumes: at step 2 new ones, at step 1 those of the same prompts.
    for step, seen in ((2, 1), (1, 0)):
        resumed = Counts()
        trainer = plain_trl(model, tmp_path, resumed, max_steps=3)
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert resumed.calls == [(step, seen)]


def test_registered_rewards_in_any_trl_script(model, tmp_path):
    def reward():
        return trl_reward("hapo", verify=lambda completion, /, **_: True)

    first = reward()
    plain_trl(model, tmp_path, first, max_steps=2).train()
    assert saved(tmp_path, 2) == [{"name": "hapo", "state": first.state_dict()}]
    assert first.state_dict() != reward().state_dict()
    second = reward()
    plain_trl(model, tmp_path, second, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    # One problem, whose history went on.
    (before,), (after,) = (one.state_dict()["history"].values() for one in (first, second))
    assert after[0] <= before[0]
    assert after[1] > before[1]


def test_an_evaluation_leaves_no_trace(model, tmp_path):
    reward = Counts()
    settings = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 2, "eval_on_start": True}
    plain_trl(model, tmp_path, reward, max_steps=4, **settings).train()
    # Before training, and after each of four steps, an evaluation scores two batches.
    assert len(reward.calls) == 2 + 5 * 2
    assert reward.seen == 2
    assert [saved(tmp_path, step)[0]["state"]["seen"] for step in (1, 2, 3, 4)] == [0, 1, 1, 2]


def test_an_evaluation_after_training_leaves_the_memory(model, tmp_path):
    reward = Counts()
    trainer = plain_trl(model, tmp_path, reward, max_steps=2, per_device_eval_batch_size=2)
    trainer.train()
    seen = reward.seen
    trainer.evaluate()
    assert reward.seen >= seen > 0


def test_a_checkpoint_without_the_memory_is_refused(model, tmp_path):
    plain_trl(model, tmp_path, Counts(), max_steps=2).train()
    (tmp_path / "checkpoint-1" / STATE_FILE).unlink()
    resumed = plain_trl(model, tmp_path, Counts(), max_steps=2)
    with pytest.raises(LaunchError, match=f"checkpoint-1 has no {STATE_FILE}, the memory of counts"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_the_memory_of_other_rewards_is_refused(tmp_path):
    checkpoint = tmp_path / "checkpoint-5"
    checkpoint.mkdir()
    (checkpoint / STATE_FILE).write_text('{"rewards": [{"name": "hapo", "state": {"history": {}}}]}')
    with pytest.raises(LaunchError, match="is the memory of hapo; the rewards are counts, counts"):
        RewardState([Counts(), Counts()]).load(checkpoint)


def test_rewards_without_memory_need_none(tmp_path):
    plain = SimpleNamespace(__name__="accuracy", state_dict=dict, load_state_dict=lambda state: None)
    RewardState([plain, len]).load(tmp_path)
