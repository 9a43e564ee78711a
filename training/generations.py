"""Where training stands between one generation of rollouts and the next, and what a resume needs there.

TRL (1.16) makes rollouts for ``steps_per_generation x num_iterations`` micro-batches at once, which may be several
optimiser steps, and its checkpoints hold neither those rollouts nor how far they are used. After a resume it starts to
count anew: it makes rollouts again at once, with the weights of now, and every later generation is shifted by as much.
It also begins the order of prompts anew in whatever epoch it resumes.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.utils import RepeatSampler


class CountsMicroBatches(TrainerCallback):
    """Knows when the rollouts at hand are used up, by TRL's own count: of micro-batches since the trainer was made."""

    def __init__(self) -> None:
        self._micro_batches = 0

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A micro-batch that ends no optimiser step."""
        self._micro_batches += 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The micro-batch that ends an optimiser step."""
        self._micro_batches += 1

    def used_up(self, args: TrainingArguments) -> bool:
        """Whether the next micro-batch begins with a generation."""
        return self._micro_batches % (args.steps_per_generation * args.num_iterations) == 0


class ExactResume(CountsMicroBatches):
    """Makes a resumed GRPO run the one that was interrupted.

    A checkpoint that falls due while rollouts are in use is written when they are used up, and a resume in a later
    epoch goes on with that epoch's order of prompts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._due = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader | None = None,
        **_: Any,
    ) -> None:
        """Draw the orders of the epochs that are done; the sampler draws one whenever it is started."""
        for _ in range(int(state.epoch or 0)):
            next(iter(_sampler(train_dataloader)))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put a save off, or make up for it."""
        super().on_step_end(args, state, control)
        self._due = self._due or control.should_save
        # After the last step nothing is generated any more.
        control.should_save = self._due and (self.used_up(args) or control.should_training_stop)
        self._due = self._due and not control.should_save


def _sampler(loader: Any) -> RepeatSampler:
    """The sampler at the bottom of a data loader, through accelerate's sharding."""
    inner = loader.batch_sampler
    while not isinstance(inner, RepeatSampler):
        inner = getattr(inner, "batch_sampler", None) or inner.sampler
    return inner
