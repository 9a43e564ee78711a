"""Where the seconds of a GRPO step go, as metrics.

`seconds/decode` (rollouts), `seconds/reward`, `seconds/logprobs` (of the old policy and the reference), `seconds/wait`
(for the slowest process, and for micro-batches to be made), `seconds/train` (forward and backward) and
`seconds/optimiser`, each per optimiser step or, where one generation serves several, per generation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback
from trl import GRPOTrainer


@contextmanager
def seconds(trainer: GRPOTrainer, name: str) -> Iterator[None]:
    """Note how long something takes among the trainer's metrics.

    On a GPU, work that nobody has waited for yet counts where it is waited for.

    Args:
        trainer: Holds the metrics.
        name: Of what is done.
    """
    started = time.perf_counter()
    yield
    mode = "train" if trainer.model.training else "eval"
    trainer._metrics[mode][f"seconds/{name}"].append(time.perf_counter() - started)


class OptimiserSeconds(TrainerCallback):
    """Notes how long the optimiser takes; DeepSpeed's is part of the last backward pass.

    Args:
        trainer: Holds the metrics.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer
        self._started = 0.0

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The optimiser begins."""
        self._started = time.perf_counter()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The optimiser is done."""
        self._trainer._metrics["train"]["seconds/optimiser"].append(time.perf_counter() - self._started)
