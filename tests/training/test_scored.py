"""What a method's advantages look like in the log of completions."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from laconic.training.scored import note_advantages

MASKS = {
    "completion_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]),
    "tool_mask": torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]),
}


@pytest.mark.parametrize(
    ("advantages", "shown"),
    [
        (torch.tensor([1.5, -2.0, 0.0]), [1.5, -2.0, 0.0]),
        # The mean over what is in the loss: not the second token of the first, nor padding.
        (torch.tensor([[3.0, 99.0, 1.0, 2.0], [-1.0, -3.0, 99.0, 99.0], [9.0, 9.0, 9.0, 9.0]]), [2.0, -2.0, 0.0]),
    ],
)
def test_the_last_ones_are_replaced_by_one_number_per_rollout(advantages, shown):
    trainer = SimpleNamespace(accelerator=Accelerator(cpu=True), _logs={"advantages": deque([7.0, 0.1, 0.2, 0.3])})
    note_advantages(trainer, {**MASKS, "advantages": advantages})
    assert list(trainer._logs["advantages"]) == [7.0, *shown]


def test_a_log_that_is_shorter_than_the_batch_is_no_error():
    trainer = SimpleNamespace(accelerator=Accelerator(cpu=True), _logs={"advantages": deque([0.1, 0.2], maxlen=2)})
    note_advantages(trainer, {**MASKS, "advantages": torch.tensor([1.0, 2.0, 3.0])})
    assert list(trainer._logs["advantages"]) == [2.0, 3.0]
