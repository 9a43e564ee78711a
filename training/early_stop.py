"""Rollouts that stop where no reward can tell them apart any more (`stop_early`).

Such a rollout earns what it would have earned at any greater length, so rewards and TRL's advantages are those of
training without an early stop, for less decoding. What is trained of it is its beginning. `max_completion_length` stays
what it is: a loss that divides by it (dr_grpo) does not change. One that divides by the tokens of all rollouts (dapo,
cispo) divides by those of the stopped ones.
"""

from __future__ import annotations

from trl import GRPOConfig, GRPOTrainer

from laconic.recipes.early_stop import stop_length
from laconic.recipes.stages import GrpoStage


def rollout_limit(config: GrpoStage, arguments: GRPOConfig) -> int:
    """Generated tokens of a rollout at most."""
    longest = arguments.max_completion_length
    return min(longest, stop_length(config.rewards)) if config.stop_early else longest


def limit_generation(trainer: GRPOTrainer, limit: int) -> None:
    """Have TRL's own generation stop there, by `generate` or by vLLM."""
    if trainer.use_vllm:
        trainer.vllm_generation.max_completion_length = limit
    else:
        trainer.generation_config.max_new_tokens = limit
        trainer.generation_kwargs["max_new_tokens"] = limit
