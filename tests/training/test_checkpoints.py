"""Which checkpoint is resumed from; real kills are in test_resume.py, real shards in test_deepspeed.py."""

import json
from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import TrainerState

from laconic.rewards.errors import LaunchError
from laconic.training.checkpoints import CheckpointSeal, is_last, last_checkpoint


@pytest.fixture
def folder(tmp_path):
    """Two sealed checkpoints, of steps 3 and 10."""
    AcceleratorState._reset_state(reset_partial_state=True)
    Accelerator(cpu=True)
    for step in (3, 10):
        checkpoint = tmp_path / f"checkpoint-{step}"
        (checkpoint / "shards").mkdir(parents=True)
        state = TrainerState(global_step=step, max_steps=10)
        state.save_to_json(str(checkpoint / "trainer_state.json"))
        (checkpoint / "shards" / "optimizer.pt").write_bytes(b"12345678")
        CheckpointSeal().on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    return tmp_path


def reseal(checkpoint, **layout):
    seal = json.loads((checkpoint / "laconic.json").read_text())
    (checkpoint / "laconic.json").write_text(json.dumps(seal | {"layout": layout}))


def test_newest_by_number(folder):
    assert last_checkpoint(folder) == folder / "checkpoint-10"
    assert last_checkpoint(folder / "nothing") is None


def test_is_last(folder):
    assert is_last(folder / "checkpoint-10")
    assert not is_last(folder / "checkpoint-3")


@pytest.mark.parametrize("damage", ["missing", "shorter", "unsealed"])
def test_damaged_ones_are_removed(folder, damage):
    newest = folder / "checkpoint-10"
    if damage == "shorter":
        (newest / "shards" / "optimizer.pt").write_bytes(b"1234")
    else:
        (newest / ("laconic.json" if damage == "unsealed" else "trainer_state.json")).unlink()
    assert last_checkpoint(folder) == folder / "checkpoint-3"
    assert not newest.exists()


def test_another_launch(folder):
    reseal(folder / "checkpoint-10", sharding=None, processes=4)
    assert last_checkpoint(folder) == folder / "checkpoint-10"
    reseal(folder / "checkpoint-10", sharding="ZeRO-3", processes=4)
    with pytest.raises(LaunchError, match=r"written by 4 process\(es\) with ZeRO-3 sharding, this is 1 .* no sharding"):
        last_checkpoint(folder)
