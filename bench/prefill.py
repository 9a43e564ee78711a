"""What it saves that rollouts of a group share the reading of their prompt.

    python bench/prefill.py [--quick] [--write]

8 groups of 8 short completions after long prompts, as a GRPO step draws them: by the sampler that training uses. Once a
group asks the same prompt, which the engine reads once; once every rollout has a prompt of its own, with the same words
in another order, so that every prompt has to be read. All else is equal. One thread; seconds are the process's own, so
that other load on the machine does not decide; both sides run in turn, round after round, and the median of the rounds'
ratios counts. The tokens that the model reads are counted, not timed.

`--write` keeps the figures in bench/results/prefill.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

# Before torch is loaded: one core means one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from laconic.eval.provenance import provenance
from laconic.inference.engine import Sampling
from laconic.inference.engines.loading import load_model
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.sampling import EngineSampler, Request
from laconic.recipes.model_spec import ScratchModel
from laconic.training.scratch import build, symbolic_tokenizer

RESULTS = Path(__file__).parent / "results" / "prefill.json"
SYMBOLS = [str(number) for number in range(300)] + list("+-*/=;")
GROUPS, GROUP = 8, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, shorter prompts, one round")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(quick=options.quick)
    figures = bench.run()
    print(json.dumps(figures, indent=2))
    if options.write:
        facts = provenance(parameters=bench.model.num_parameters(), threads=1, seed=0, **bench.sizes, figures=figures)
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n")


class Bench:
    """A random model and both kinds of prompts."""

    def __init__(self, *, quick: bool) -> None:
        small, long = ScratchModel(), ScratchModel(hidden_size=192, layers=4, heads=6, max_length=1024)
        with tempfile.TemporaryDirectory() as folder:
            build(small if quick else long, symbolic_tokenizer(SYMBOLS), seed=0, folder=Path(folder))
            self.model, self.tokenizer = load_model(folder, device="cpu", dtype="float32")
        self.sizes = {
            "groups": GROUPS,
            "rollouts_per_group": GROUP,
            "words_per_prompt": 64 if quick else 512,
            "completion_tokens": 8 if quick else 64,
            "rounds": 1 if quick else 5,
        }
        self.read = 0
        self.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def run(self) -> dict[str, Any]:
        """Seconds of a step's rollouts and tokens read, of both sides."""
        rng = random.Random(0)
        words = [rng.choices(SYMBOLS[:300], k=self.sizes["words_per_prompt"]) for _ in range(GROUPS)]
        prompts = {
            "shared": [" ".join(group) for group in words for _ in range(GROUP)],
            "apart": [" ".join(rng.sample(group, k=len(group))) for group in words for _ in range(GROUP)],
        }
        rounds = [{side: self._timed(given) for side, given in prompts.items()} for _ in range(self.sizes["rounds"])]
        seconds = {side: [one[side][0] for one in rounds] for side in prompts}
        return {
            **{f"{side}_seconds": statistics.median(values) for side, values in seconds.items()},
            **{f"{side}_tokens_read": rounds[0][side][1] for side in prompts},
            "ratio": statistics.median(a / b for a, b in zip(seconds["apart"], seconds["shared"], strict=True)),
        }

    def _timed(self, prompts: list[str]) -> tuple[float, int]:
        """Seconds, and the tokens that the model read."""
        requests = [Request((str(row), 0), prompt, row) for row, prompt in enumerate(prompts)]
        engine = TransformersEngine(self.model, self.tokenizer, batch_size=GROUPS * GROUP, signals=False)
        # No token ends a completion: all are as long as the limit.
        engine.eos_ids = frozenset([len(self.tokenizer) + 1])
        self.read, start = 0, time.process_time()
        with EngineSampler(engine) as sampler:
            for completion in sampler.sample(requests, Sampling(max_tokens=self.sizes["completion_tokens"])):
                assert not completion.finished
        return time.process_time() - start, self.read

    def _count(self, model: Any, arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
        self.read += given["input_ids"].numel()


if __name__ == "__main__":
    main()
