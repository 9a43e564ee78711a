"""Group relative policy optimisation with Laconic's rewards.

accelerate launch --config_file launch/profiles/cpu.yaml -m laconic.training.grpo <stage folder>/stage.yaml
"""

from __future__ import annotations

import os
import sys
from typing import Any

from trl import GRPOConfig, GRPOTrainer

from laconic.data_gen.sources import training_problems, validate_golds
from laconic.inference.engines.loading import eos_ids
from laconic.recipes.entry import Opened, run_stage
from laconic.rewards.records import Problem
from laconic.training import session
from laconic.training.answer_probability import AnswerProbability
from laconic.training.generations import ExactResume
from laconic.training.group_scorer import GroupScorer
from laconic.training.model import generation_config, load_tokenizer, lora_config
from laconic.training.reward_adapter import RewardAdapter
from laconic.training.reward_state import RewardState
from laconic.training.rollouts import SampledRollouts, applicable
from laconic.training.rows import prompt_dataset

# TRL warns that rollout_func may change; a test runs every shipped recipe against the pinned version.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def main(opened: Opened) -> dict[str, Any]:
    """Run the stage; returns facts for its manifest."""
    config = opened.stage.config
    arguments = session.training_arguments(GRPOConfig, opened, reward_weights=[spec.weight for spec in config.rewards])
    tokenizer = load_tokenizer(opened.model_dir(), revision=opened.revision())
    problems = _problems(opened)
    scorer = GroupScorer(
        {problem.id: problem for problem in problems},
        tokenizer,
        num_generations=arguments.num_generations,
        eos_ids=eos_ids(generation_config(opened.model_dir(), revision=opened.revision()), tokenizer),
    )
    rewards = [RewardAdapter(spec.entry, scorer, log_raw=at == 0) for at, spec in enumerate(config.rewards)]
    trainer = GRPOTrainer(
        model=opened.model_dir(),
        reward_funcs=rewards,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=prompt_dataset(problems),
        peft_config=lora_config(config.lora),
        # The last of the session's callbacks seals a checkpoint, so the state of rewards has to be in it by then.
        callbacks=[ExactResume(), RewardState(rewards), *session.callbacks(opened)],
        rollout_func=SampledRollouts(seed=arguments.seed) if applicable(arguments) else None,
    )
    scorer.answer_probability = AnswerProbability(trainer)
    return session.fit(opened, trainer, tokenizer) | {"problems": len(problems)}


def _problems(opened: Opened) -> list[Problem]:
    stage, config = opened.stage, opened.stage.config
    found = training_problems(stage.problems, stage.problems_seed, decontaminated=config.decontaminate)
    return validate_golds(found.kept[: config.limit], stage.problems)


if __name__ == "__main__":
    run_stage("grpo", main, sys.argv[1:])
