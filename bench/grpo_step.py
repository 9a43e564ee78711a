"""A GRPO step of `LaconicGRPOTrainer` beside one of TRL's `GRPOTrainer`.

    python bench/grpo_step.py [--quick] [--write]

Same seeds, same model, same prompts, same settings: 8 prompts x 8 rollouts a step, TRL's micro-batches of 8, AdamW, one
thread. Seconds are the process's own, so that other load on the machine does not decide, and every case runs its sides
in turn, round after round: a ratio compares runs beside each other, and the median round counts. The first step of
every run warms up and does not count.

long tails    The optimisation phase on given rollouts with log-normal lengths (sigma 0.8, at most 512 tokens), every
              fourth group without signal. Seconds of TRL's training step, log-probabilities to metrics, without the
              rollouts. The difference of the two sides' first gradients is given too.
equal lengths The same with 64 tokens each and signal in every group: what the rearranging itself costs.
whole step    Nothing given: TRL generates with `model.generate`, we with Laconic's engine; lengths are geometric.
peak memory   Long tails again, every side in a process of its own: how far resident memory rose above what it was when
              training began, after one training on the shortest rollouts. Linux only.

`--write` keeps the figures in bench/results/grpo_step.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch is loaded: one core means one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

from laconic.eval.provenance import provenance
from laconic.inference.engines.loading import load_model
from laconic.recipes.model_spec import ScratchModel
from laconic.training.rollouts import SampledRollouts
from laconic.training.scratch import build, symbolic_tokenizer
from laconic.training.trainer import LaconicGRPOTrainer

RESULTS = Path(__file__).parent / "results" / "grpo_step.json"
SYMBOLS = [str(number) for number in range(300)] + list("+-*/=;")
SIDES: dict[str, type[GRPOTrainer]] = {"trl": GRPOTrainer, "laconic": LaconicGRPOTrainer}
PROMPTS, GROUP, MICRO_BATCH = 8, 8, 8
"""Of a step, of a prompt, of TRL."""
LIMIT, DRAWN_LIMIT, EQUAL = 512, 256, 64
SIGMA, MEDIAN = 0.8, 55
ENDS = list(range(100, 106))
"""Symbols that end a drawn completion: with 313 nearly equally likely ones, it has 52 tokens on average."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, one round of one step")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--rise", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    bench = Bench(quick=options.quick)
    if options.rise:
        print(json.dumps(bench.rise(options.rise)))
        return
    figures = {
        "long_tails": bench.optimisation(_log_normal, silent=4),
        "equal_lengths": bench.optimisation(_equal, silent=None),
        "whole_step": bench.whole_step(),
        "peak_memory": bench.peak_memory(),
    }
    for case, values in figures.items():
        print(case, json.dumps(values))
    if options.write:
        facts = provenance(parameters=bench.parameters, threads=1, **bench.sizes, figures=figures)
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n")


class Bench:
    """A random model, prompts, and the cases."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.sizes = {"rollouts": PROMPTS * GROUP, "micro_batch": MICRO_BATCH, "rounds": 1 if quick else 3}
        self.steps = 2 if quick else 3
        self._spec = ScratchModel() if quick else ScratchModel(hidden_size=192, layers=4, heads=6, max_length=1024)
        self.parameters = self._model()[0].num_parameters()
        rng = random.Random(0)
        texts = [" ".join(rng.choices(SYMBOLS[:300], k=rng.randrange(6, 60))) for _ in range(PROMPTS * self.steps)]
        self.rows = [{"prompt": [{"role": "user", "content": text}], "number": at} for at, text in enumerate(texts)]

    def optimisation(self, lengths: Callable[[random.Random], int], *, silent: int | None) -> dict[str, float]:
        """Seconds of a step's optimisation phase on given rollouts."""
        given, reward = _Given(lengths), _reward(silent)
        return self._sides(lambda side: self._run(side, reward, given))

    def whole_step(self) -> dict[str, float]:
        """Seconds of a step, rollouts included."""
        ways = {"trl": None, "laconic": SampledRollouts(seed=0)}
        figures = self._sides(lambda side: self._run(side, _reward(4), ways[side]))
        del figures["gradient_difference"]  # of different rollouts
        return figures

    def peak_memory(self) -> dict[str, float]:
        """Mebibytes that training took on top."""
        found: dict[str, float] = {}
        for side in SIDES:
            command = [sys.executable, __file__, "--rise", side, *(["--quick"] if self.quick else [])]
            process = subprocess.run(command, capture_output=True, text=True, check=True)
            found[f"{side}_mebibytes"] = json.loads(process.stdout.splitlines()[-1])
        return found | {"ratio": found["laconic_mebibytes"] / found["trl_mebibytes"]}

    def rise(self, side: str) -> float:
        """How far this process's resident memory rises while a side trains."""
        self._run(side, _reward(4), _Given(lambda _: 2))
        gc.collect()
        watch = _Watch()
        self._run(side, _reward(4), _Given(_log_normal), watch)
        return _resident("VmHWM") - watch.before

    def _sides(self, run: Callable[[str], tuple[float, torch.Tensor]]) -> dict[str, float]:
        rounds = [{side: run(side) for side in SIDES} for _ in range(self.sizes["rounds"])]
        seconds = {side: [one[side][0] for one in rounds] for side in SIDES}
        ours, theirs = rounds[0]["laconic"][1], rounds[0]["trl"][1]
        return {
            **{f"{side}_seconds": statistics.median(values) for side, values in seconds.items()},
            "ratio": statistics.median(a / b for a, b in zip(seconds["trl"], seconds["laconic"], strict=True)),
            "gradient_difference": float((ours - theirs).norm() / theirs.norm()),
        }

    def _run(
        self, side: str, reward: Callable[..., list[float]], rollouts: Any, watch: _Watch | None = None
    ) -> tuple[float, torch.Tensor]:
        """Seconds per step, given rollouts not counted, and the first gradient."""
        watch = watch or _Watch()
        model, tokenizer = self._model()
        model.generation_config.eos_token_id = ENDS
        with tempfile.TemporaryDirectory() as folder:
            trainer = SIDES[side](
                model,
                reward_funcs=reward,
                args=self._arguments(folder, drawn=not isinstance(rollouts, _Given)),
                processing_class=tokenizer,
                train_dataset=Dataset.from_list(self.rows),
                rollout_func=rollouts,
                callbacks=[watch],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        untimed = rollouts.seconds if isinstance(rollouts, _Given) else [0.0] * self.steps
        seconds = [step - given for step, given in zip(watch.seconds, untimed[-self.steps :], strict=True)]
        return statistics.mean(seconds[1:]), watch.gradient

    def _arguments(self, folder: str, *, drawn: bool) -> GRPOConfig:
        return GRPOConfig(
            output_dir=folder,
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
            max_steps=self.steps,
            learning_rate=1e-5,
            gradient_checkpointing=False,
            num_generations=GROUP,
            per_device_train_batch_size=MICRO_BATCH,
            gradient_accumulation_steps=PROMPTS * GROUP // MICRO_BATCH,
            max_completion_length=DRAWN_LIMIT if drawn else LIMIT,
            shuffle_dataset=False,
        )

    def _model(self) -> tuple[Any, Any]:
        with tempfile.TemporaryDirectory() as folder:
            build(self._spec, symbolic_tokenizer(SYMBOLS), seed=0, folder=Path(folder))
            return load_model(folder, device="cpu", dtype="float32")


class _Watch(TrainerCallback):
    """Seconds of every optimiser step, the first gradient, and resident memory before training (mebibytes)."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.gradient = torch.empty(0)
        self.before = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # the highest mark is the present again
            self.before = _resident("VmRSS")

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.process_time()

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        if not len(self.gradient):
            self.gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.process_time() - self._start)


class _Given:
    """A `rollout_func` whose completions depend on prompt and place alone; what it takes itself is not counted."""

    def __init__(self, lengths: Callable[[random.Random], int]) -> None:
        self.lengths, self.seconds = lengths, []

    def __call__(self, prompts: list[list[dict[str, str]]], trainer: GRPOTrainer) -> dict[str, Any]:
        start, tokenizer = time.process_time(), trainer.processing_class
        given = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
        completions = []
        for place, prompt in enumerate(prompts):
            rng = random.Random(zlib.crc32(f"{prompt[-1]['content']}/{place % GROUP}".encode()))
            completions.append([rng.randrange(110, 300) for _ in range(self.lengths(rng) - 1)] + [ENDS[0]])
        self.seconds.append(time.process_time() - start)
        return {"prompt_ids": given["input_ids"], "completion_ids": completions, "logprobs": None}


def _resident(name: str) -> float:
    """Resident memory of this process, now (VmRSS) or at its highest (VmHWM), in mebibytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _log_normal(rng: random.Random) -> int:
    return max(2, min(LIMIT, round(MEDIAN * rng.lognormvariate(0.0, SIGMA))))


def _equal(rng: random.Random) -> int:
    return EQUAL


def _reward(silent: int | None) -> Callable[..., list[float]]:
    """Of token ids; the same for a whole group with every `silent`-th prompt."""

    def reward(completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
        return [
            0.5 if silent is not None and at % silent == 0 else sum(ids) % 7 / 7
            for at, ids in zip(number, completion_ids, strict=True)
        ]

    return reward


if __name__ == "__main__":
    main()
