"""Where the seconds of a GRPO step go, as metrics.

`seconds/decode` (rollouts), `seconds/reward`, `seconds/logprobs` (of the old policy and the reference), `seconds/wait`
(for the slowest process, and for micro-batches to be made), `seconds/train` (forward and backward) and
`seconds/optimiser`, each summed up per optimiser step: zero in one that needs no new generation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback
from trl import GRPOTrainer

PREFIX = "seconds/"
"""Of the metrics' names."""
_OWNER = "_seconds_mode"


@contextmanager
def seconds(trainer: GRPOTrainer, name: str) -> Iterator[None]:
    """Note how long something takes among the trainer's metrics.

    On a GPU, work that nobody has waited for yet counts where it is waited for. What is noted meanwhile, as
    log-probabilities that a reward asks for, counts there and not here.

    Args:
        trainer: Holds the metrics.
        name: Of what is done.
    """
    # A reward that asks the model puts it into evaluation meanwhile: whoever is outermost decides whose seconds it is.
    outer = getattr(trainer, _OWNER, None)
    mode = outer or ("train" if trainer.model.training else "eval")
    setattr(trainer, _OWNER, mode)
    before, started = _noted(trainer), time.perf_counter()
    try:
        yield
    finally:
        setattr(trainer, _OWNER, outer)
    spent = time.perf_counter() - started - (_noted(trainer) - before)
    trainer._metrics[mode][f"{PREFIX}{name}"].append(spent)


def _noted(trainer: GRPOTrainer) -> float:
    every = (pair for metrics in trainer._metrics.values() for pair in metrics.items())
    return sum(sum(values) for name, values in every if name.startswith(PREFIX))


class OptimiserSeconds(TrainerCallback):
    """Notes how long the optimiser takes, and makes one value per step of all that was noted in it.

    DeepSpeed's optimiser is part of the last backward pass.

    Args:
        trainer: Holds the metrics.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer
        self._started = 0.0
        self._names: set[str] = set()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The optimiser begins."""
        self._started = time.perf_counter()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The optimiser is done, and with it the step."""
        metrics = self._trainer._metrics["train"]
        metrics[f"{PREFIX}optimiser"].append(time.perf_counter() - self._started)
        # The trainer empties its metrics when it logs their means.
        before = len(metrics[f"{PREFIX}optimiser"]) - 1
        noted = {name for name in metrics if name.startswith(PREFIX)}
        for name in noted - self._names:
            metrics[name][:0] = [0.0] * before
        self._names |= noted
        for name in self._names:
            metrics[name][before:] = [sum(metrics[name][before:])]
