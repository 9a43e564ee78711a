"""A generation batch whose rewards are known, on its way to the loss; where methods with a say in both step in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from laconic.training.micro_batches import Batch


@dataclass(frozen=True, slots=True)
class Scored:
    """Rollouts of one generation, N on all processes together and B on this one, groups one after the other.

    Attributes:
        batch: This process's rollouts as TRL keeps them, with TRL's advantages of shape (B,).
        rewards: Weighted sum over the reward functions, shape (N,); NaN where none gave one.
        tokens: In the loss, shape (N,).
        mine: This process's rows of the N.
        rows: This process's data set rows, with the columns that a rollout function returned; one per rollout.
        num_generations: Rollouts of a group.
    """

    batch: Batch
    rewards: torch.Tensor
    tokens: torch.Tensor
    mine: slice
    rows: Sequence[Mapping[str, Any]]
    num_generations: int


class AfterScoring(Protocol):
    """What a method does between the rewards and the loss."""

    def __call__(self, trainer: Any, scored: Scored) -> Batch:
        """Fields of the batch that are new, others stay: ``advantages`` of shape (B,), or (B, T) for one per token of
        the padded completions; ``old_per_token_logps`` of shape (B, T). Called on every process alike.
        """
        ...


def loss_mask(batch: Batch) -> torch.Tensor:
    """Which tokens of the padded completions are in the loss, shape (B, T)."""
    mask = batch["completion_mask"]
    return mask * batch["tool_mask"] if "tool_mask" in batch else mask


def note_advantages(trainer: Any, batch: Batch) -> None:
    """Put a batch's advantages in the place of those that TRL has logged with its completions.

    Of advantages per token the mean over a rollout's tokens in the loss is shown.

    Args:
        trainer: Whose log it is.
        batch: This process's rollouts.
    """
    advantages, mask = batch["advantages"], loss_mask(batch)
    if advantages.ndim > 1:
        advantages = (advantages * mask).sum(1) / mask.sum(1).clamp(min=1)
    shown = trainer.accelerator.gather(advantages).tolist()
    logged = trainer._logs["advantages"]
    for _ in range(min(len(shown), len(logged))):
        logged.pop()
    logged.extend(shown)
