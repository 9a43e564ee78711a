"""The memory of rewards in checkpoints: a resumed run scores as the interrupted one would have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from laconic.rewards.errors import LaunchError
from laconic.rewards.jsonl import write_atomic
from laconic.training.generations import CountsMicroBatches

__all__ = ["STATE_FILE", "RewardState"]

STATE_FILE = "laconic_rewards.json"


class RewardState(CountsMicroBatches):
    """Saves the memory of reward functions in every checkpoint, and takes it up again on resume.

    For any of TRL's online trainers::

        rewards = [trl_reward("hapo")]
        trainer = GRPOTrainer(..., reward_funcs=rewards, callbacks=[RewardState(rewards)])

    Rank 0 writes `laconic_rewards.json` into the checkpoint; on resume every rank reads it from
    ``<output_dir>/checkpoint-<step>``. What is saved is the memory from before the rollouts in use were scored: if
    they are not used up at that step, TRL makes and scores rollouts for the same prompts again when it resumes.
    What the rewards see in an evaluation of the training loop is forgotten again.

    Args:
        reward_funcs: What the trainer gets. Those with `state_dict` and `load_state_dict` are saved, models are not.
    """

    def __init__(self, reward_funcs: Sequence[Any]) -> None:
        super().__init__()
        self._rewards = [reward for reward in reward_funcs if _remembers(reward)]
        self._saved = self._memory()
        self._before_evaluation: str | None = None
        """Set from the moment that the training loop decides to evaluate until it has."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take up the memory of the checkpoint that training resumes from.

        Raises:
            LaunchError: the checkpoint has no memory of these rewards.
        """
        if state.global_step > 0:
            self.load(_checkpoint(args, state))
        self._saved = self._memory()
        self._before_evaluation = self._saved if args.eval_on_start else None

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note the memory before the next generation."""
        super().on_substep_end(args, state, control)
        self._note(args)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note the memory before the next generation, and before an evaluation."""
        super().on_step_end(args, state, control)
        self._note(args)
        self._note_before_evaluation(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note the memory before an evaluation."""
        self._note_before_evaluation(control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Forget what was seen in an evaluation of the training loop; one that a person asks for is theirs."""
        if self._before_evaluation is not None:
            self._take_up(self._before_evaluation)
            self._before_evaluation = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the memory into the checkpoint."""
        if state.is_world_process_zero and self._rewards:
            write_atomic(_checkpoint(args, state) / STATE_FILE, self._saved + "\n")

    def load(self, checkpoint: Path) -> None:
        """Take up the memory that a checkpoint holds.

        Raises:
            LaunchError: it holds none, or that of other rewards.
        """
        ours = ", ".join(map(_name, self._rewards))
        cure = "train with the rewards of that checkpoint, or remove it to begin again"
        file = checkpoint / STATE_FILE
        if not file.is_file():
            if not any(reward.state_dict() for reward in self._rewards):
                return
            raise LaunchError(f"{checkpoint} has no {STATE_FILE}, the memory of {ours}", cure=cure)
        theirs = ", ".join(item["name"] for item in json.loads(file.read_text())["rewards"])
        if theirs != ours:
            raise LaunchError(f"{file} is the memory of {theirs}; the rewards are {ours}", cure=cure)
        self._take_up(file.read_text())

    def _note(self, args: TrainingArguments) -> None:
        if self.used_up(args):
            self._saved = self._memory()

    def _note_before_evaluation(self, control: TrainerControl) -> None:
        if control.should_evaluate:
            self._before_evaluation = self._memory()

    def _memory(self) -> str:
        """Of all rewards, as text: it neither changes with them nor with those who read it."""
        states = [{"name": _name(reward), "state": reward.state_dict()} for reward in self._rewards]
        return json.dumps({"rewards": states})

    def _take_up(self, memory: str) -> None:
        for reward, saved in zip(self._rewards, json.loads(memory)["rewards"], strict=True):
            reward.load_state_dict(saved["state"])


def _remembers(reward: Any) -> bool:
    # A reward model has the same methods for its weights, which do not change.
    return hasattr(reward, "state_dict") and hasattr(reward, "load_state_dict") and not isinstance(reward, nn.Module)


def _name(reward: Any) -> str:
    return getattr(reward, "__name__", type(reward).__name__)


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
