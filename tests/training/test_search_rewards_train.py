"""Every search reward trains a model that searches; an interrupted run pays what a whole one does."""

import json
import math
import shutil

import pytest
from transformers import TrainerCallback

from laconic.rewards import REWARDS
from laconic.training.generations import ExactResume
from laconic.training.reward_adapter import RewardAdapter
from laconic.training.reward_state import STATE_FILE, RewardState

NAMES = sorted(name for name, reward in REWARDS.items() if reward.kind == "search")


def entry(name):
    return {"name": name} | ({"judge": "judges:by_searches"} if REWARDS[name].judged else {})


@pytest.mark.parametrize("name", NAMES)
def test_two_steps(searching, searcher, tmp_path, name):
    trainer, rollouts, _ = searching.make_trainer(searcher, tmp_path, [entry(name)])
    trainer.train()
    rollouts.close()
    steps = [row for row in trainer.state.log_history if "reward" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(math.isfinite(row[f"rewards/{name}/{part}"]) for row in steps for part in ("mean", "std"))
    # It tells rollouts apart, and training hears of it.
    assert any(row[f"rewards/{name}/std"] > 0 and row["grad_norm"] > 0 for row in steps)
    assert any(row["raw/searches"] > 0 for row in steps)


class Interrupted(RuntimeError):
    pass


class StopAt(TrainerCallback):
    """The process dies at the end of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Interrupted


REMEMBERING = [{"name": "mash", "decay": 0.5}, {"name": "inforage", "gate": {"kind": "running_best"}}]


def run(searching, searcher, out, *, stop_at=None, resume=None):
    """Six steps over four problems, saved after every second; each problem comes up several times."""
    settings = {"steps": 6, "save_strategy": "steps", "save_steps": 2, "rows": 8, "seed": 3}
    trainer, rollouts, rewards = searching.make_trainer(searcher, out, REMEMBERING, problems=4, **settings)
    stop = [] if stop_at is None else [StopAt(stop_at)]
    for callback in (ExactResume(), RewardState(rewards), *stop):
        trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=resume)
    except Interrupted:
        pass
    finally:
        rollouts.close()
    names = ["loss", "reward", *(f"rewards/{entry['name']}/mean" for entry in REMEMBERING), "raw/searches"]
    logs = {row["step"]: [row[name] for name in names] for row in trainer.state.log_history if "reward" in row}
    return logs, [reward.state_dict() for reward in rewards]


@pytest.fixture(scope="module")
def whole(searching, searcher, tmp_path_factory):
    """An uninterrupted run: its folder, what it logged, what its rewards remember."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *run(searching, searcher, folder)


def test_interrupted_and_resumed_is_uninterrupted(searching, searcher, whole, tmp_path):
    _, expected, memory = whole
    before, _ = run(searching, searcher, tmp_path, stop_at=5)
    after, kept = run(searching, searcher, tmp_path, resume=str(tmp_path / "checkpoint-4"))
    assert list(expected) == [1, 2, 3, 4, 5, 6]
    assert list(before) == [1, 2, 3, 4]
    for step, row in {**before, **{step: after[step] for step in (5, 6)}}.items():
        assert row == pytest.approx(expected[step], rel=1e-4, abs=1e-5)
    assert kept == memory


def test_the_memory_of_that_run_is_worth_keeping(searching, searcher, whole, tmp_path):
    folder, expected, _ = whole
    shutil.copytree(folder / "checkpoint-4", tmp_path / "checkpoint-4")
    kept, empty = json.loads((tmp_path / "checkpoint-4" / STATE_FILE).read_text()), run_memory(searching, searcher)
    assert all(item["state"] != nothing for item, nothing in zip(kept["rewards"], empty, strict=True))
    states = [{"name": item["name"], "state": state} for item, state in zip(kept["rewards"], empty, strict=True)]
    (tmp_path / "checkpoint-4" / STATE_FILE).write_text(json.dumps({"rewards": states}))
    forgetful, _ = run(searching, searcher, tmp_path, resume=str(tmp_path / "checkpoint-4"))
    assert any(forgetful[step] != pytest.approx(expected[step], rel=1e-4, abs=1e-5) for step in (5, 6))


def run_memory(searching, searcher):
    """What those rewards remember before anything was scored."""
    return [RewardAdapter(each, searching.scorer(searcher)).state_dict() for each in REMEMBERING]
