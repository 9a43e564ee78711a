"""Editing activations of some rows of a batch and leaving the others as they are.

What steers a strand is a schedule over its tokens, not over time: a token whose keys and values were given up and are
read again is read under the same edit as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn

from laconic.inference.engine import Steering
from laconic.rewards.errors import RecipeError

Schedule: TypeAlias = tuple[tuple[int, Steering | None], ...]
"""From which token on which edit holds, ascending; nothing before the first."""
Edit: TypeAlias = tuple[int, int, Steering]
"""Row and column of a token in a batch, and what is added to its state."""


def changed(schedule: Schedule, place: int, steering: Steering | None) -> Schedule:
    """The same up to a token, and another edit from it on.

    >>> changed(changed((), 3, None), 5, None)
    ()
    """
    if steering is not None and steering.strength == 0:
        steering = None
    kept = tuple(entry for entry in schedule if entry[0] < place)
    return kept if steering is (kept[-1][1] if kept else None) else (*kept, (place, steering))


def cut(schedule: Schedule, length: int) -> Schedule:
    """For a beginning of so many tokens: its newest one, and what follows, is edited as the whole would be from now
    on.
    """
    return changed(schedule, length - 1, schedule[-1][1]) if schedule else schedule


def edits(schedule: Schedule, row: int, first: int, count: int) -> Iterator[Edit]:
    """What is added to which of `count` tokens, the first of which has this place in its strand."""
    for at, (start, steering) in enumerate(schedule):
        end = schedule[at + 1][0] if at + 1 < len(schedule) else first + count
        if steering is not None:
            for place in range(max(start, first), min(end, first + count)):
                yield row, place - first, steering


class Steerer:
    """Adds vectors to the outputs of a model's layers.

    Args:
        model: A causal language model.
        layers: How many decoder layers it has.
    """

    def __init__(self, model: Any, layers: int) -> None:
        self._hidden = model.get_input_embeddings().embedding_dim
        blocks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == layers]
        # Of several lists as long, the decoder's blocks are the outermost, and modules come in that order.
        self._modules = [model.get_input_embeddings(), *blocks[0]] if blocks else []
        self._vectors: dict[int, tuple[Steering, torch.Tensor]] = {}

    @property
    def can(self) -> bool:
        """Whether the layers were found."""
        return bool(self._modules)

    def check(self, steering: Steering) -> None:
        """Refuse what does not fit the model.

        Raises:
            RecipeError: there is no such layer, or the vector has another shape.
        """
        if not 0 <= steering.layer < len(self._modules):
            cure = f"layers go from 0, the embedding, to {len(self._modules) - 1}"
            raise RecipeError(f"steer: layer {steering.layer}", cure=cure)
        if steering.vector.shape != (self._hidden,):
            cure = f"this model's states have shape ({self._hidden},)"
            raise RecipeError(f"steer: a vector of shape {steering.vector.shape}", cure=cure)

    @contextmanager
    def adding(self, wanted: Sequence[Edit]) -> Iterator[None]:
        """While a pass runs: edit these tokens' states and no others."""
        with ExitStack() as hooks:
            for layer in sorted({steering.layer for _, _, steering in wanted}):
                hook = self._hook([edit for edit in wanted if edit[2].layer == layer])
                # First of all hooks, so that whoever records states records what the next layer sees.
                hooks.callback(self._modules[layer].register_forward_hook(hook, prepend=True).remove)
            yield

    def _hook(self, wanted: Sequence[Edit]) -> Any:
        rows, columns = [edit[0] for edit in wanted], [edit[1] for edit in wanted]

        def add(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            states = (output[0] if isinstance(output, tuple) else output).clone()
            states[rows, columns] += torch.stack([self._vector(edit[2], states) for edit in wanted])
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return add

    def _vector(self, steering: Steering, like: torch.Tensor) -> torch.Tensor:
        if id(steering) not in self._vectors:
            if len(self._vectors) >= 256:
                self._vectors.clear()
            vector = torch.as_tensor(steering.vector, dtype=torch.float64) * steering.strength
            self._vectors[id(steering)] = steering, vector.to(like)
        return self._vectors[id(steering)][1]
