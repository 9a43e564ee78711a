"""The in-process engine against `model.generate`, and what probing with forks costs.

    python bench/engine_speed.py [--quick] [--write]

One thread; seconds are the process's own, so that other load on the machine does not decide, and every case runs its
sides in turn, round after round: a ratio compares runs beside each other, and the median round counts.

long tails    64 prompts x 8 samples whose lengths are geometric: in both loops every token ends a completion with
              nearly the same probability. Useful tokens only: what `generate` decodes after a row has ended is padding.
equal lengths The same without an end: every completion runs to the token limit.
probing       Completions that stop every 32 tokens to answer in a fork, against the same completions without; the
              difference is set against what the probes' tokens cost as ordinary ones. Once more with the fork replaced
              by a branch that reads prompt and text again, as clients of a stateless server do.

`--write` keeps the figures in bench/results/engine_speed.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

# Before torch is loaded: one core means one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import GenerationConfig

from laconic.eval.provenance import provenance
from laconic.inference.engines.loading import load_model
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.ledger import Ledger
from laconic.inference.trace import prompt_text
from laconic.recipes.model_spec import ScratchModel
from laconic.training.scratch import build, symbolic_tokenizer

RESULTS = Path(__file__).parent / "results" / "engine_speed.json"
SYMBOLS = [str(number) for number in range(300)] + list("+-*/=;")
BATCH, LIMIT, EQUAL, EVERY, PROBE = 128, 256, 64, 32, 20
ENDS = 6
"""Symbols that count as end-of-sequence: with 313 nearly equally likely ones, a completion has 52 tokens on average."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, few prompts, one round")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(quick=options.quick)
    figures = {"long_tails": bench.against_generate(ends=True), "equal_lengths": bench.against_generate(ends=False)}
    figures["probing"] = bench.probing()
    for case, values in figures.items():
        print(case, json.dumps(values))
    if options.write:
        facts = provenance(parameters=bench.model.num_parameters(), threads=1, **bench.sizes, figures=figures)
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n")


class Bench:
    """A random model, prompts, and the cases."""

    def __init__(self, *, quick: bool) -> None:
        spec = ScratchModel() if quick else ScratchModel(hidden_size=192, layers=4, heads=6)
        with tempfile.TemporaryDirectory() as folder:
            build(spec, symbolic_tokenizer(SYMBOLS), seed=0, folder=Path(folder))
            self.model, self.tokenizer = load_model(folder, device="cpu", dtype="float32")
        self.sizes = {"prompts": 8 if quick else 64, "samples": 8, "rounds": 1 if quick else 3, "batch": BATCH}
        rng = random.Random(0)
        texts = [" ".join(rng.choices(SYMBOLS[:300], k=rng.randrange(6, 60))) for _ in range(self.sizes["prompts"])]
        self.prompts = [text for text in texts for _ in range(self.sizes["samples"])]
        self.no_end = [len(self.tokenizer) + 1]

    def against_generate(self, *, ends: bool) -> dict[str, Any]:
        """Useful tokens per second of both loops."""
        eos = list(range(100, 100 + ENDS)) if ends else self.no_end
        limit = LIMIT if ends else EQUAL
        sides = {
            "engine": lambda: self._engine(eos, lambda engine: self._samples(engine, limit)),
            "generate": lambda: self._generate(eos, limit),
        }
        rounds = [{name: _timed(side) for name, side in sides.items()} for _ in range(self.sizes["rounds"])]
        rates = {name: [tokens / seconds for tokens, seconds in (one[name] for one in rounds)] for name in sides}
        return {
            **{f"{name}_tokens_per_second": statistics.median(values) for name, values in rates.items()},
            "ratio": statistics.median(a / b for a, b in zip(rates["engine"], rates["generate"], strict=True)),
        }

    def probing(self) -> dict[str, Any]:
        """What a probe's token costs, in units of what a token costs where nobody probes."""
        ways = {"none": None, "fork": _fork, "read_again": _read_again}
        found: dict[str, list[float]] = {"fork": [], "read_again": []}
        for _ in range(self.sizes["rounds"]):
            done = {
                name: _timed(lambda way=way: self._engine(self.no_end, lambda engine: self._probed(engine, way)))
                for name, way in ways.items()
            }
            tokens, seconds = done["none"]
            for name, values in found.items():
                extra, more = done[name][0] - tokens, done[name][1] - seconds
                values.append((more / extra) / (seconds / tokens))
        return {f"{name}_cost_per_probe_token": statistics.median(values) for name, values in found.items()}

    def _engine(self, eos: list[int], work: Callable[[TransformersEngine], Awaitable[int]]) -> int:
        self.model.generation_config.eos_token_id = eos
        engine = TransformersEngine(self.model, self.tokenizer, batch_size=BATCH, signals=False)
        engine.eos_ids, engine.decoder.eos = frozenset(eos), sorted(eos)

        async def run() -> int:
            tokens = await work(engine)
            await engine.aclose()
            return tokens

        return asyncio.run(run())

    async def _samples(self, engine: TransformersEngine, limit: int) -> int:
        async def one(number: int, prompt: str) -> int:
            async with engine.open(prompt, ledger=Ledger(), seed=number) as branch:
                return len((await branch.generate(max_tokens=limit)).tokens)

        return sum(await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(self.prompts))))

    async def _probed(self, engine: TransformersEngine, way: Callable[..., Awaitable[Any]] | None) -> int:
        """32 completions of 256 tokens; returns all tokens that were generated."""
        ledger = Ledger()

        async def one(number: int, prompt: str) -> None:
            async with engine.open(prompt, ledger=ledger, seed=number) as branch:
                for _ in range(LIMIT // EVERY):
                    await branch.generate(max_tokens=EVERY)
                    if way is not None:
                        await way(engine, prompt, branch, ledger)

        chosen = list(dict.fromkeys(self.prompts))[:32]
        await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(chosen)))
        return ledger.generated

    def _generate(self, eos: list[int], limit: int) -> int:
        config = GenerationConfig(
            do_sample=True, top_k=0, max_new_tokens=limit, pad_token_id=self.tokenizer.pad_token_id, eos_token_id=eos
        )
        texts = [prompt_text(self.tokenizer, prompt) for prompt in self.prompts]
        useful = 0
        for start in range(0, len(texts), BATCH):
            given = self.tokenizer(
                texts[start : start + BATCH],
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
            )
            ids, mask = given["input_ids"], given["attention_mask"]
            rows = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            for row in rows[:, ids.shape[1] :].tolist():
                useful += next((at + 1 for at, token in enumerate(row) if token in eos), len(row))
        return useful


async def _fork(engine: TransformersEngine, prompt: str, branch: Any, ledger: Ledger) -> None:
    async with await branch.fork() as probe:
        await probe.extend("</think>")
        await probe.generate(max_tokens=PROBE, role="probe")


async def _read_again(engine: TransformersEngine, prompt: str, branch: Any, ledger: Ledger) -> None:
    async with engine.open(prompt, ledger=ledger) as probe:
        await probe.extend(branch.text + " </think>")
        await probe.generate(max_tokens=PROBE, role="probe")


def _timed(run: Callable[[], int]) -> tuple[int, float]:
    """Tokens and seconds."""
    start = time.process_time()
    tokens = run()
    return tokens, time.process_time() - start


if __name__ == "__main__":
    main()
