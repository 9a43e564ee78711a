"""Log-probabilities without padding: TRL's forward pass, called for rollouts of like length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from accelerate import Accelerator

from laconic.training.micro_batches import plan_rounds, width

Found: TypeAlias = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Log-probabilities and entropies of shape (rows, completion columns), and no auxiliary loss."""


@torch.no_grad()
def by_length(
    forward: Callable[[torch.Tensor, torch.Tensor, int], Found],
    ids: torch.Tensor,
    mask: torch.Tensor,
    columns: int,
    *,
    budget: int,
    accelerator: Accelerator,
) -> Found:
    """Call `forward` for micro-batches of like length; where no token stands, the result is zero, as in TRL's.

    Sharded models gather their weights in every forward pass, so all processes make the same number of them.

    Args:
        forward: Takes token ids, attention mask and the number of completion columns.
        ids: Prompts padded on the left and completions padded on the right.
        mask: Of the tokens that are there.
        columns: Of the completions.
        budget: Tokens of one forward pass, padding included.
        accelerator: Knows the other processes.
    """
    boundary = ids.size(1) - columns
    lengths = torch.stack([mask[:, :boundary].sum(1), mask[:, boundary:].sum(1)], dim=1).tolist()
    sizes = [(prompt, completion) for prompt, completion in lengths]
    plan = [rows for (rows,) in plan_rounds(sizes, processes=1, budget=budget)]
    count = int(accelerator.gather(torch.tensor([len(plan)], device=accelerator.device)).max())
    shortest = plan[-1][-1:]
    found: list[torch.Tensor | None] = [None, None]
    for rows in plan + [shortest] * (count - len(plan)):
        prompt, completion = width([sizes[row] for row in rows])
        window = slice(max(0, boundary - prompt), boundary + completion)
        parts: tuple[Any, ...] = forward(ids[rows, window], mask[rows, window], completion)
        for place, part in enumerate(parts[:2]):
            if part is not None:
                if found[place] is None:
                    found[place] = part.new_zeros(len(ids), columns)
                found[place][rows, :completion] = part  # type: ignore[index]
    return found[0], found[1], None  # type: ignore[return-value]
