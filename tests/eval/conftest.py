"""Synthetic evaluations: problems, rollouts with log-normal lengths, and whole run folders on disk."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from laconic.eval.results import Settings, build_results
from laconic.rewards.jsonl import write_jsonl
from laconic.rewards.records import Problem, Rollout


def make_problems(n, *, tasks=("chain_sum",), seed=0):
    rng = np.random.default_rng(seed)
    problems = []
    for i in range(n):
        terms = rng.integers(1, 100, size=rng.integers(2, 7)).tolist()
        prompt = " + ".join(map(str, terms)) + " ="
        problems.append(Problem(f"{tasks[i % len(tasks)]}-{i}", prompt, str(sum(terms)), tasks[i % len(tasks)]))
    return problems


def make_rollouts(problems, *, samples=4, ease=0.0, mean_tokens=50.0, seed=0, limit=256, source="m"):
    """Rollouts whose accuracy falls with a difficulty shared by all models, and whose lengths are log-normal."""
    hard = np.random.default_rng(99).normal(size=len(problems))
    rng = np.random.default_rng(seed)
    rows = []
    for problem, difficulty in zip(problems, hard, strict=True):
        chance = 1 / (1 + np.exp(-(1.2 + ease - 1.3 * difficulty)))
        for sample in range(samples):
            wanted = int(mean_tokens * np.exp(0.25 * difficulty + 0.35 * rng.normal())) + 3
            tokens = min(wanted, limit)
            finished = wanted < limit
            answer = str(int(problem.answer) + int(rng.random() > chance) * int(rng.integers(1, 4)))
            answer = answer if finished else None
            rows.append(
                Rollout(
                    problem_id=problem.id,
                    sample=sample,
                    task=problem.task,
                    text=_text(problem, tokens, answer),
                    answer=answer,
                    correct=answer == problem.answer,
                    finished=finished,
                    tokens=tokens,
                    think_tokens=tokens - 2 * finished,
                    answer_tokens=2 * finished,
                    source=source,
                )
            )
    return rows


def _text(problem, tokens, answer):
    words = problem.prompt.split()[:-1]
    thinking = " ".join([*words, "=", problem.answer, ";", "check", ":"] * tokens)
    body = "<think> " + " ".join(thinking.split()[: max(tokens - 4, 1)])
    return f"{body} </think> {answer}" if answer is not None else body


def make_settings(**changes):
    plain = {"name": "eval", "baseline": "sft", "samples": 4, "budgets": (32, 64, 128, 256), "repetitions": 2000}
    return Settings(**(plain | changes))


FACTS = {
    "command": "python -m laconic.eval.stage stage.yaml",
    "commit": {"hash": "0123abcd" * 5, "dirty": True},
    "hardware": {"cpu": "Example CPU", "cores": 2, "gpus": []},
    "versions": {"python": "3.12.0", "torch": "2.9.0"},
    "date": "2025-01-02T03:04:05+00:00",
    "recipe": "demo",
    "seed": 0,
    "split": "test",
    "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": None, "max_tokens": 256},
}


def make_models(problems, *, seed=0):
    return {
        "sft": make_rollouts(problems, ease=0.0, mean_tokens=52, seed=seed + 1, source="sft"),
        "dpo": make_rollouts(problems, ease=0.1, mean_tokens=38, seed=seed + 2, source="dpo"),
        "grpo": make_rollouts(problems, ease=0.55, mean_tokens=25, seed=seed + 3, source="grpo"),
    }


def write_stage(run, name, kind, inputs=None, *, complete=True):
    folder = run / name
    folder.mkdir(parents=True)
    short, digest = name.split("-")[1], name.split("-")[-1]
    about = {"name": short, "kind": kind, "recipe": run.name, "hash": digest, "seed": 0, "inputs": inputs or {}}
    (folder / "stage.yaml").write_text(yaml.safe_dump(about))
    if complete:
        (folder / "manifest.json").write_text(json.dumps({"seconds": 83.2}))
    return folder


def write_metrics(folder, kind, steps=80):
    rng = np.random.default_rng(0)
    rows = []
    for step in range(1, steps + 1):
        done = step / steps
        noise = rng.normal(size=3) * 0.03
        row = {"step": step, "loss": 2 * np.exp(-3 * done) + 0.2 + noise[0]}
        if kind == "sft":
            row["mean_token_accuracy"] = 0.95 - 0.6 * np.exp(-4 * done) + noise[1] / 3
        if kind == "dpo":
            row |= {"rewards/accuracies": 0.5 + 0.4 * done + noise[1], "rewards/margins": done + noise[2]}
        if kind == "grpo":
            row |= {"reward": 0.6 + 0.2 * done + noise[0], "raw/accuracy": 0.7 + 0.1 * done + noise[1]}
            row["raw/tokens"] = 50 - 25 * done + 30 * noise[2]
        rows.append(row)
    write_jsonl(folder / "metrics.jsonl", rows)


def write_run(run, problems, models, **settings):
    """A finished run: teacher, three trained stages, one evaluation."""
    write_stage(run, "00-teach-aaaaaaaa", "generate")
    source = "00-teach-aaaaaaaa"
    chain = {}
    for index, kind in enumerate(("sft", "dpo", "grpo"), start=1):
        name = f"{index:02d}-{kind}-{kind * 2}ff"
        write_metrics(write_stage(run, name, kind, {"data" if kind == "sft" else "model": source}), kind)
        chain[f"model:{kind}"] = source = name
    return write_eval(run, "04-eval-eeeeeeee", problems, models, chain, **settings)


def write_eval(run, folder_name, problems, models, inputs=None, **settings):
    folder = write_stage(run, folder_name, "eval", inputs)
    (folder / "rollouts").mkdir()
    write_jsonl(folder / "problems.jsonl", [problem.to_json() for problem in problems])
    for name, rows in models.items():
        write_jsonl(folder / "rollouts" / f"{name}.jsonl", [row.to_json() for row in rows])
    chosen = make_settings(name=folder_name.split("-")[1], **settings)
    results = build_results(problems, models, chosen, provenance=FACTS)
    (folder / "results.json").write_text(json.dumps(results, allow_nan=False))
    return folder


BUILDERS = SimpleNamespace(
    problems=make_problems,
    rollouts=make_rollouts,
    models=make_models,
    settings=make_settings,
    stage=write_stage,
    eval=write_eval,
    run=write_run,
    facts=FACTS,
)


@pytest.fixture(scope="session")
def make():
    """The builders above: tests in this folder cannot import each other's modules."""
    return BUILDERS
