"""How much memory training stages really take, beside what `laconic plan` says.

    python bench/memory.py [--quick] [--write]

Linux only. Every case is a stage process of its own on one CPU rank, one thread, float32: sft (also with LoRA, and with
gradient checkpointing), dpo and grpo of a decoder with 0.8 million parameters and of one with 20 million, all rows
exactly as long as the trainer allows.
Measured is by how much the process grew, at its fullest, over what it held after its imports; the estimate is that of
`laconic plan` for the same stage, and the ratio is estimate / measured.

`--write` keeps the figures in bench/results/memory.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import random
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from laconic.eval.provenance import provenance
from laconic.launch.counts import training
from laconic.launch.environment import stage_environment
from laconic.launch.estimate import model_shape, training_memory
from laconic.launch.profiles import load_profile
from laconic.recipes.entry import run_stage
from laconic.recipes.folder import STAGE_FILE, StageFolder
from laconic.recipes.resolve import Plan, resolve
from laconic.recipes.source import load_recipe

RESULTS = Path(__file__).parent / "results" / "memory.json"
MODELS = {
    "0.8M": {"hidden_size": 96, "layers": 4, "heads": 4},
    "20M": {"hidden_size": 448, "layers": 6, "heads": 7},
}
STAGES = ("sft", "sft_lora", "sft_checkpointing", "dpo", "grpo")
ROWS, LENGTH = 64, 256
PROMPT = 20
"""Digits of a question. The tokenizer makes one token of each, and the template puts one before and one after."""
RECIPE = """
name: memory
problems: {{source: jsonl, train: train.jsonl, test: test.jsonl, task: exact}}
model: {{scratch: {{tokenizer: bpe, vocab_size: 2048, max_length: {room}, hidden_size: {hidden_size},
  layers: {layers}, heads: {heads}}}}}
defaults: {{trainer: {{max_steps: 3, save_strategy: "no", logging_steps: 1}}}}
stages:
  - {{kind: generate, name: rows, teacher: {{source: gold}}}}
  - {{kind: generate, name: pairs, model: base, keep: shortest_vs_longest, sampling: {{max_tokens: {length}}}}}
  - kind: sft
    model: base
    data: rows
    batch_size: 32
    trainer: {{per_device_train_batch_size: 16, max_length: {length}}}
  - kind: sft
    name: sft_lora
    model: base
    data: rows
    batch_size: 32
    lora: {{r: 16}}
    trainer: {{per_device_train_batch_size: 16, max_length: {length}}}
  - kind: sft
    name: sft_checkpointing
    model: base
    data: rows
    batch_size: 32
    trainer: {{per_device_train_batch_size: 16, max_length: {length}, gradient_checkpointing: true}}
  - kind: dpo
    model: base
    data: pairs
    batch_size: 16
    trainer: {{per_device_train_batch_size: 8, max_length: {length}}}
  - kind: grpo
    model: base
    batch_size: 32
    rewards: [{{name: shorter_better}}]
    trainer: {{per_device_train_batch_size: 16, num_generations: 8, max_completion_length: {length}, beta: 0.04}}
"""
_CHILD = "--stage"


def main() -> None:
    if sys.argv[1:2] == [_CHILD]:
        print(json.dumps(measure(*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small model only, and shorter rows")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    length = 64 if options.quick else LENGTH
    figures = {}
    for name in ("0.8M",) if options.quick else MODELS:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            plan = prepare(MODELS[name], length)
            for stage in STAGES:
                figures[f"{stage} {name}"] = case = compare(plan, stage)
                print(f"{stage} {name}", json.dumps(case), flush=True)
    if options.write:
        facts = provenance(threads=1, length=length, figures=figures)
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n")


def prepare(sizes: dict[str, int], length: int) -> Plan:
    """A run in the current folder whose training stages can start: the model is built, the rows are there."""
    rng = random.Random(0)
    questions = ["".join(rng.choices(string.digits, k=PROMPT)) for _ in range(ROWS)]
    # Enough different text for the tokenizer to find its whole vocabulary in.
    lessons = [" ".join("".join(rng.choices(string.ascii_lowercase, k=5)) for _ in range(60)) for _ in questions]
    problems = [
        {"prompt": question, "answer": "7", "solution": lesson}
        for question, lesson in zip(questions, lessons, strict=True)
    ]
    _write_lines(Path("train.jsonl"), problems)
    _write_lines(Path("test.jsonl"), [{"prompt": "again ?", "answer": "7"}])
    Path("memory.yaml").write_text(RECIPE.format(length=length, room=length + 2 * PROMPT, **sizes))
    plan = resolve(load_recipe(Path("memory.yaml")), Path("runs"))
    _python("-m", "laconic.training.init", _prepared(plan, "init"))
    # With the template's two tokens and the end of the sequence.
    digits = length - PROMPT - 3
    texts = {"completion": "7" * digits, "chosen": "7" * digits, "rejected": "8" * digits}
    for name in ("rows", "pairs"):
        folder = StageFolder(plan.run_dir, plan.stage(name))
        folder.prepare()
        _write_lines(folder.work / "rows.jsonl", [{"prompt": question, **texts} for question in questions])
        folder.commit(0.0)
    return plan


def compare(plan: Plan, name: str) -> dict[str, Any]:
    """One stage, run and estimated; bytes."""
    stage, profile = plan.stage(name), load_profile("cpu")
    view = training(plan, stage, 1)
    shape = model_shape(stage.model, stage.problems)
    assert shape is not None
    need = training_memory(view.config, stage.model, shape, profile, batch=view.batch)
    measured = json.loads(_python(__file__, _CHILD, view.config.kind, _prepared(plan, name)).splitlines()[-1])
    grown = measured["peak"] - measured["imported"]
    parts = {part: getattr(need, part) for part in need.__slots__}
    return {
        "parameters": shape.parameters,
        "measured": grown,
        "estimate": need.device,
        "ratio": need.device / grown,
    } | {
        "estimated_parts": parts,
        **measured,
    }


def measure(kind: str, stage_yaml: str) -> dict[str, float]:
    """Run a stage in this process; what it held after its imports and at its fullest."""
    module = importlib.import_module(f"laconic.training.{kind}")
    imported = _resident("VmRSS")
    run_stage(kind, module.main, [stage_yaml])
    return {"imported": imported, "peak": _resident("VmHWM"), "cpu_seconds": time.process_time()}


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"this system does not tell {field}")


def _prepared(plan: Plan, name: str) -> str:
    folder = StageFolder(plan.run_dir, plan.stage(name))
    folder.prepare()
    return str(folder.work / STAGE_FILE)


def _write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _python(*arguments: str) -> str:
    env = stage_environment(load_profile("cpu"), 1)
    done = subprocess.run([sys.executable, *arguments], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
