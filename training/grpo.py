"""Group relative policy optimisation with Laconic's rewards.

accelerate launch --config_file launch/profiles/cpu.yaml -m laconic.training.grpo <stage folder>/stage.yaml
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import Any

from trl import GRPOConfig, GRPOTrainer

from laconic.data_gen.retrievers import open_for
from laconic.data_gen.sources import training_problems, validate_golds
from laconic.inference.engines.loading import eos_ids
from laconic.recipes.entry import Opened, run_stage
from laconic.recipes.grpo_rollouts import Budgets, EarlyExits, Modes
from laconic.recipes.stages import GrpoStage
from laconic.rewards.errors import LaunchError
from laconic.rewards.records import Problem
from laconic.training import session
from laconic.training.advantages import pieces
from laconic.training.answer_probability import AnswerProbability
from laconic.training.budget_rollouts import budget_pieces, budget_rollouts
from laconic.training.dynamic_sampling import refills
from laconic.training.early_stop import limit_generation, rollout_limit
from laconic.training.episode_rollouts import SampledEpisodes
from laconic.training.exit_rollouts import exit_rollouts
from laconic.training.generations import ExactResume
from laconic.training.group_scorer import GroupScorer
from laconic.training.judging import before_generation
from laconic.training.mode_rollouts import first_token_pieces, mode_rollouts
from laconic.training.model import generation_config, load_tokenizer, lora_config
from laconic.training.prompt_budgets import asked_budgets
from laconic.training.reference_accuracy import with_reference_accuracy
from laconic.training.reward_adapter import RewardAdapter
from laconic.training.reward_state import RewardState
from laconic.training.rollouts import SampledRollouts, applicable
from laconic.training.rows import prompt_dataset
from laconic.training.search_columns import check_columns, searched_problem
from laconic.training.search_health import SearchHealth
from laconic.training.trainer import LaconicGRPOTrainer
from laconic.training.trl_trainer import TimedGRPOTrainer
from laconic.training.vllm_episodes import VllmEpisodes
from laconic.training.vllm_server import server_address

# TRL warns that rollout_func may change; a test runs every shipped recipe against the pinned version.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def main(opened: Opened) -> dict[str, Any]:
    """Run the stage; returns facts for its manifest."""
    config = opened.stage.config
    weights = [spec.weight for spec in config.rewards]
    place = server_address(config.trainer)
    arguments = session.training_arguments(GRPOConfig, opened, reward_weights=weights, **place)
    tokenizer = load_tokenizer(opened.model_dir(), revision=opened.revision())
    problems = _problems(opened)
    check_columns(config.rewards, problems)
    scorer = GroupScorer(
        {problem.id: problem for problem in problems},
        tokenizer,
        num_generations=arguments.num_generations,
        eos_ids=eos_ids(generation_config(opened.model_dir(), revision=opened.revision()), tokenizer),
    )
    rewards = [RewardAdapter(spec.entry, scorer, log_raw=at == 0) for at, spec in enumerate(config.rewards)]
    searching = opened.stage.search is not None
    with _rollouts(opened, arguments, scorer) as rollouts:
        trainer = _trainer(config)(
            model=opened.model_dir(),
            reward_funcs=rewards,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=prompt_dataset(problems),
            peft_config=lora_config(config.lora),
            # The last of the session's callbacks seals a checkpoint, so the state of rewards has to be in it by then;
            # the first of them writes the metrics, alarms included.
            callbacks=[
                ExactResume(),
                RewardState(rewards),
                *([SearchHealth(opened.work / "health.jsonl")] if searching else []),
                *session.callbacks(opened),
            ],
            rollout_func=rollouts,
            **refills(config.dynamic_sampling, scorer),
            **before_generation(scorer, asked_budgets(config.budgets, seed=arguments.seed)),
            **_after_scoring(config, scorer),
        )
        if config.stop_early:
            limit_generation(trainer, rollout_limit(config, arguments))
        # Before an episode's answer there is no one stretch of thinking to measure.
        scorer.answer_probability = None if searching else AnswerProbability(trainer)
        return session.fit(opened, trainer, tokenizer) | {"problems": len(problems)}


def _trainer(config: GrpoStage) -> Callable[..., GRPOTrainer]:
    if config.fast:
        return partial(LaconicGRPOTrainer, tokens_per_micro_batch=config.tokens_per_micro_batch)
    return TimedGRPOTrainer


def _after_scoring(config: GrpoStage, scorer: GroupScorer) -> dict[str, Any]:
    """Methods with a say between the rewards and the loss, one after the other."""
    methods = [*pieces(config, scorer), *first_token_pieces(config), *budget_pieces(config)]
    return {"after_scoring": methods} if methods else {}


def _rollouts(opened: Opened, arguments: GRPOConfig, scorer: GroupScorer) -> AbstractContextManager[Any]:
    """What TRL gets as its rollout function; None leaves its own generation in place."""
    stage = opened.stage
    if isinstance(stage.config.rollouts, Modes):
        return nullcontext(mode_rollouts(stage.config, arguments, on_finished=scorer.finished))
    if isinstance(stage.config.rollouts, EarlyExits):
        return nullcontext(exit_rollouts(stage.config.rollouts, arguments, on_told=scorer.told))
    if isinstance(stage.config.rollouts, Budgets):
        return nullcontext(budget_rollouts(stage.config.rollouts, arguments, on_told=scorer.told))
    if stage.search is None:
        limit = rollout_limit(stage.config, arguments)
        given = {"seed": arguments.seed, "max_tokens": limit, "on_finished": scorer.finished}
        return nullcontext(SampledRollouts(**given) if applicable(arguments) else None)
    if not (arguments.use_vllm or applicable(arguments)):
        raise LaunchError(
            "search episodes are run by Laconic's own engine, which this stage's trainer or launch leaves out",
            cure="set use_vllm, or leave out FSDP and the sampling settings that only TRL's generation has",
        )
    episodes = VllmEpisodes if arguments.use_vllm else SampledEpisodes
    disabled = stage.config.search_disabled
    given = {"search": stage.search, "seed": arguments.seed, "disabled": disabled, "columns": scorer.columns}
    return closing(episodes(open_for(opened), **given, on_told=scorer.told))


def _problems(opened: Opened) -> list[Problem]:
    stage, config = opened.stage, opened.stage.config
    found = training_problems(stage.problems, stage.problems_seed, decontaminated=config.decontaminate)
    problems = validate_golds(found.kept[: config.limit], stage.problems)
    if config.reference is not None:
        problems = with_reference_accuracy(problems, opened.input("reference"))
    if stage.search is None:
        return problems
    of_world = stage.problems.source == "world"
    documents = stage.problems.world(stage.problems_seed).documents if of_world else ()
    texts = {document.id: document.contents for document in documents} if of_world else None
    return [searched_problem(problem, tool=stage.search.tags.tool, texts=texts) for problem in problems]


if __name__ == "__main__":
    run_stage("grpo", main, sys.argv[1:])
