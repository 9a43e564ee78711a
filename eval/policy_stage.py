"""The policies of an eval stage: every model answers the stage's problems under each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.data_gen.retrievers import open_for
from laconic.data_gen.scorers import find_scorer
from laconic.eval.policy_results import NONE, Prices, measure_policies
from laconic.eval.policy_runs import Questions, check_choice, run_choice
from laconic.eval.results import Settings
from laconic.inference.ledger import FATES, ROLES
from laconic.inference.opening import Opened as Engines
from laconic.inference.opening import open_engine
from laconic.inference.policies.choose import Choice
from laconic.inference.retrieval.batching import BatchingRetriever
from laconic.inference.trace import prompt_text
from laconic.recipes.policy_entry import file_name
from laconic.rewards.records import Problem, Rollout

if TYPE_CHECKING:
    from laconic.recipes.entry import Opened
    from laconic.recipes.stages import EvalStage

FOLDER = "policies"
"""Holds a folder per model, and in it a file of rollouts per policy."""

Rollouts = Mapping[str, Sequence[Rollout]]


def run_policies(opened: Opened, problems: Sequence[Problem], plain: Rollouts) -> dict[str, dict[str, list[Rollout]]]:
    """Ask every model under every policy that the stage names for it; what a killed stage asked is kept.

    Args:
        opened: The stage.
        problems: Those that the models were asked.
        plain: The models' own rollouts, which stand for no policy.

    Returns:
        Rollouts by model and policy; no policy comes first. Models without any policy are left out.
    """
    config: EvalStage = opened.stage.config
    questions = Questions(
        problems=problems,
        sampling=config.sampling.build(),
        samples=config.samples,
        seed=opened.stage.seed,
        scorer=find_scorer(config.scorer) if config.scorer else None,
    )
    assert config.models is not None
    return {name: _run_model(opened, name, questions, plain[name]) for name in config.models if _choices(config, name)}


def _run_model(opened: Opened, name: str, questions: Questions, plain: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    stage, config = opened.stage, opened.stage.config
    retriever = None if stage.search is None else BatchingRetriever(open_for(opened))
    engine = _open(opened, name)
    others = {other: _open(opened, other).engine for other in sorted(_asked(config, name) - {name})}
    questions = replace(questions, retriever=retriever, engines={**others, name: engine.engine})
    lengths = {problem.id: _prompt_tokens(engine.tokenizer, problem) for problem in questions.problems}
    asked = {NONE: without_policy(plain, lengths)}
    with asyncio.Runner() as runner:
        try:
            for choice in _choices(config, name):
                given = {"scorer": questions.scorer is not None, "retriever": retriever is not None}
                check_choice(choice, engine.engine, **given)
            for choice in _choices(config, name):
                path = policy_file(opened.work, name, choice.label)
                asked[choice.label] = run_choice(choice, engine, questions, runner=runner, path=path, source=name)
        finally:
            for each in (engine.engine, *others.values()):
                runner.run(each.aclose())
            if retriever is not None:
                runner.run(retriever.aclose())
    return asked


def _open(opened: Opened, name: str) -> Engines:
    role = f"model:{name}"
    return open_engine(opened.model_dir(role), dtype=opened.stage.model.dtype, revision=opened.revision(role))


def _asked(config: EvalStage, model: str) -> set[str]:
    """The models that policies of this one ask besides: cascades, routers, drafts."""
    return {name for choice in _choices(config, model) for name in choice.registered.engine_names(choice.build())}


def _choices(config: EvalStage, model: str) -> list[Choice]:
    """The policies that a model is tried with."""
    return [entry.choice for entry in config.policies if entry.models is None or model in entry.models]


def _prompt_tokens(tokenizer: Any, problem: Problem) -> int:
    return len(tokenizer.encode(prompt_text(tokenizer, problem.prompt), add_special_tokens=False))


def policy_file(folder: Path, model: str, label: str) -> Path:
    """Where the rollouts of a model under a policy are."""
    return folder / FOLDER / model / f"{file_name(label)}.jsonl"


def measured(
    problems: Sequence[Problem], asked: Mapping[str, Rollouts], config: EvalStage, settings: Settings
) -> dict[str, Any]:
    """The policies' part of `results.json`."""
    prices = Prices(config.prices.prompt, config.prices.generated) if config.prices else None
    return measure_policies(problems, asked, settings, prices=prices)


def without_policy(rollouts: Sequence[Rollout], prompt_tokens: Mapping[str, int]) -> list[Rollout]:
    """The rollouts of a model by itself in the form that policies' have; one completion has nothing to discard.

    Args:
        rollouts: As the eval stage samples them.
        prompt_tokens: Tokens of each problem's prompt, the chat template's included.
    """
    return [_alone(rollout, prompt_tokens.get(rollout.problem_id)) for rollout in rollouts]


def _alone(rollout: Rollout, prompt: int | None) -> Rollout:
    told = rollout.meta.get("search", {})
    roles = {"think": rollout.think_tokens, "answer": rollout.answer_tokens}
    ledger = {
        "generated": rollout.tokens,
        "by_role": {role: {fate: roles.get(role, 0) * (fate == "kept") for fate in FATES} for role in ROLES},
        "forced": told.get("retrieved_tokens", 0) + told.get("forced_tokens", 0),
        "prompt": told.get("prompt_tokens", prompt),
        "cached": 0,
        "scored": 0,
        "critical_path": rollout.tokens,
        "seconds": told.get("seconds"),
        "exact": {"generated": True, "prompt": True},
    }
    finish = "stop" if rollout.finished else "length"
    meta = {"policy": NONE, "name": NONE, "parameters": {}, "finish": finish, "abstained": False, "ledger": ledger}
    if "searches" in told:
        meta["searches"] = told["searches"]
    return Rollout(**{**rollout.to_json(), "meta": meta})
