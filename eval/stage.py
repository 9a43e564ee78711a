"""The `eval` stage: ``python -m laconic.eval.stage <stage.yaml, or recipe.yaml [--stage NAME]>``.

Every model answers the same problems with the same sampling and the same random numbers. Rollouts are kept as they
come, so a killed stage goes on where it stopped.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from laconic.eval.cost import AesWeights, budget_grid
from laconic.eval.headline import headline
from laconic.eval.provenance import provenance
from laconic.eval.results import Settings, build_results
from laconic.inference.trace import prompt_text
from laconic.rewards.jsonl import write_atomic, write_jsonl
from laconic.rewards.records import Problem, Rollout

if TYPE_CHECKING:
    from laconic.eval.search_results import Asked
    from laconic.recipes.entry import Opened
    from laconic.recipes.stages import EvalStage


def main(opened: Opened) -> dict[str, Any]:
    """Run an opened eval stage.

    Returns:
        Facts for the manifest: how many rollouts and generated tokens, and the headline.

    Raises:
        DataError: the problems cannot be used.
        ModelError: a model cannot be loaded or sampled from.
    """
    started = time.monotonic()
    problems = _problems(opened)
    write_jsonl(opened.work / "problems.jsonl", (problem.to_json() for problem in problems))
    (opened.work / "rollouts").mkdir(exist_ok=True)
    rollouts, templates, searched = {}, {}, {}
    for name in opened.stage.config.models:
        if opened.stage.search is None:
            rollouts[name], templates[name] = _sample(opened, name, problems)
        else:
            searched[name], templates[name] = _search(opened, name, problems)
            rollouts[name] = list(searched[name].episodes)
    facts = _facts(opened, templates) | {"seconds": round(time.monotonic() - started, 1)}
    results = build_results(problems, rollouts, _settings(opened), provenance=provenance(**facts))
    if searched:
        from laconic.eval.search_stage import measured_searches

        results["search"] = measured_searches(opened, problems, searched, _settings(opened))
    if opened.stage.config.policies:
        results["policies"] = _policies(opened, problems, rollouts)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(opened.work / "results.json", text + "\n")
    print(headline(results).sentence, flush=True)
    every = [row for rows in rollouts.values() for row in rows]
    return {"rollouts": len(every), "tokens": sum(row.tokens for row in every), "headline": headline(results).sentence}


def _problems(opened: Opened) -> list[Problem]:
    """The problems of the stage's split; they depend on the recipe's seed only, so that training never saw them."""
    from laconic.data_gen.sources import load_problems, validate_golds

    stage, config = opened.stage, opened.stage.config
    problems = load_problems(stage.problems, config.split, stage.problems_seed)[: config.limit]
    return validate_golds(problems, stage.problems)


def _sample(opened: Opened, name: str, problems: Sequence[Problem]) -> tuple[list[Rollout], dict[str, str]]:
    """The rollouts of one model, and what its chat template makes of the first problem."""
    from laconic.data_gen.rollouts import sample_rollouts
    from laconic.inference.engines.loading import load_model
    from laconic.inference.engines.transformers import TransformersEngine
    from laconic.inference.sampling import EngineSampler
    from laconic.inference.trace import TraceReader

    stage, config, role = opened.stage, opened.stage.config, f"model:{name}"
    given = stage.model.model_dump(include={"dtype", "attn_implementation"})
    model, tokenizer = load_model(opened.model_dir(role), revision=opened.revision(role), **given)
    engine = TransformersEngine(model, tokenizer, signals=False)
    with EngineSampler(engine) as sampler:
        rollouts = sample_rollouts(
            sampler,
            TraceReader(tokenizer, eos_ids=engine.eos_ids),
            problems,
            samples=config.samples,
            sampling=config.sampling.build(),
            seed=stage.seed,
            path=opened.work / "rollouts" / f"{name}.jsonl",
            source=name,
        )
    template = _template(prompt_text(tokenizer, problems[0].prompt), tokenizer.chat_template)
    del model, engine, sampler
    _free_memory()
    return rollouts, template


def _search(opened: Opened, name: str, problems: Sequence[Problem]) -> tuple[Asked, dict[str, str]]:
    """The same for a model that searches."""
    from laconic.eval.search_stage import ask_with_searches

    asked, example, template = ask_with_searches(opened, name, problems)
    _free_memory()
    return asked, _template(example, template)


def _template(example: str, template: str) -> dict[str, str]:
    return {"example": example, "template_sha256": hashlib.sha256(str(template).encode()).hexdigest()}


def _policies(opened: Opened, problems: Sequence[Problem], rollouts: dict[str, list[Rollout]]) -> dict[str, Any]:
    """The part of the results that is about policies."""
    from laconic.eval.policy_stage import measured, run_policies

    asked = run_policies(opened, problems, rollouts)
    _free_memory()
    return measured(problems, asked, opened.stage.config, _settings(opened))


def _free_memory() -> None:
    """Two large models do not fit on one accelerator."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _settings(opened: Opened) -> Settings:
    config: EvalStage = opened.stage.config
    budgets = sorted(set(config.budgets)) if config.budgets else budget_grid(config.sampling.max_tokens)
    return Settings(
        name=config.name,
        baseline=config.baseline,
        samples=config.samples,
        budgets=tuple(budgets),
        margin=config.margin,
        weights=AesWeights(**config.aes.model_dump()),
        seed=opened.stage.seed,
    )


def _facts(opened: Opened, templates: dict[str, dict[str, str]]) -> dict[str, Any]:
    """What the provenance says about the recipe, the sampling and the stages that made the models."""
    stage, config = opened.stage, opened.stage.config
    prompts = {template["template_sha256"]: template for template in templates.values()}
    return {
        "recipe": stage.recipe,
        "seed": stage.seed,
        "split": config.split,
        "sampling": config.sampling.model_dump(),
        "model": stage.model.model_dump(exclude_none=True),
        "prompts": list(prompts.values()),
        "stage_hashes": dict(sorted(_ancestors(opened.run_dir, stage.inputs.values()))) | {stage.name: stage.hash},
    }


def _ancestors(run: Path, folders: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and hash of every stage that the given folders rest on, themselves included."""
    for folder in folders:
        about = yaml.safe_load((run / folder / "stage.yaml").read_text(encoding="utf-8"))
        yield about["name"], about["hash"]
        yield from _ancestors(run, about["inputs"].values())


if __name__ == "__main__":
    from laconic.recipes.entry import run_stage

    run_stage("eval", main, sys.argv[1:])
