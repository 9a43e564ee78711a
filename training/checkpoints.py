"""Which checkpoint a stage may resume from: one that every process wrote to its end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from laconic.rewards.errors import LaunchError
from laconic.rewards.jsonl import write_atomic

_SEAL = "laconic.json"


class CheckpointSeal(TrainerCallback):
    """Lists the files of a checkpoint once all processes have written their parts of it.

    The trainer's own last file says less: one process writes it, which may be ahead of the others, and it may outlast
    other files of a checkpoint whose removal was cut short.
    """

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called on every process after its part is written."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_atomic(folder / _SEAL, json.dumps({"layout": _layout(), "files": _sizes(folder)}, indent=1) + "\n")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; unfinished ones are removed. Every process calls this, and gets the same answer.

    Raises:
        LaunchError: it was written by a launch that shards the training state differently.
    """
    # One process looks: the others could see a folder that is being removed.
    found = [_search(folder) if PartialState().is_main_process else None]
    checkpoint = broadcast_object_list(found)[0]
    if checkpoint is not None:
        _check_layout(checkpoint)
    return checkpoint


def is_last(checkpoint: Path) -> bool:
    """Whether nothing is left to train after this checkpoint."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state.global_step >= state.max_steps


def _search(folder: Path) -> Path | None:
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    for path in newest_first:
        if _whole(path):
            return path
        shutil.rmtree(path)
    return None


def _whole(checkpoint: Path) -> bool:
    seal = checkpoint / _SEAL
    return seal.is_file() and json.loads(seal.read_text())["files"].items() <= _sizes(checkpoint).items()


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _layout() -> dict[str, Any]:
    """How the training state is cut into files."""
    state = AcceleratorState()
    sharding = None
    if state.distributed_type == DistributedType.DEEPSPEED:
        sharding = f"ZeRO-{state.deepspeed_plugin.zero_stage}"
    elif state.distributed_type == DistributedType.FSDP:
        sharding = "FSDP"
    return {"sharding": sharding, "processes": state.num_processes}


def _check_layout(checkpoint: Path) -> None:
    written, now = json.loads((checkpoint / _SEAL).read_text())["layout"], _layout()
    # Unsharded state is whole in one file, for any number of processes.
    if written == now or (written["sharding"] is None and now["sharding"] is None):
        return
    raise LaunchError(
        f"{checkpoint} was written by {_words(written)}, this is {_words(now)}",
        cure="launch it as before, or remove the checkpoint to begin the stage again",
    )


def _words(layout: dict[str, Any]) -> str:
    return f"{layout['processes']} process(es) with {layout['sharding'] or 'no'} sharding"
