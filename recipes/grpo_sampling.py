"""Which groups a grpo stage trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic_core import InitErrorDetails

from laconic.recipes.strict import Count, StrictModel, mistake


class DynamicSampling(StrictModel):
    """Groups whose rollouts are all alike teach nothing; they are drawn again from other problems (DAPO)."""

    rounds: Count = 1
    """At most so many times per generation."""
    by: Literal["reward", "correct"] = "reward"
    """What rollouts have to differ in: their rewards, or whether they are correct, whatever rewards make of it."""

    def clashes(self, trainer: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
        """What is wrong with it beside a stage's `trainer:` settings."""
        if trainer.get("multi_objective_aggregation") == "normalize_then_sum":
            message = "advantages of normalize_then_sum are those of the whole batch; leave one of the two out"
            yield mistake(("dynamic_sampling",), message)
