"""Tokens per second of our decode loop against `model.generate`, on a small random model.

    python bench/sampler_speed.py [--device cpu]

Two cases: every completion runs to the token limit, and completions that end at very different lengths (six symbols of
the vocabulary count as end-of-sequence). One thread; on a CPU seconds are the process's own, so that other load on the
machine does not decide. Useful tokens only: what `generate` decodes after a row has ended is padding.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from laconic.data_gen.sampler import TransformersSampler
from laconic.inference.engine import Request, Sampling
from laconic.inference.engines.loading import load_model
from laconic.inference.trace import prompt_text
from laconic.recipes.model_spec import ScratchModel
from laconic.training.scratch import build, symbolic_tokenizer

SYMBOLS = [str(number) for number in range(300)] + list("+-*/=;")
PROMPTS, BATCH, TOKENS = 512, 128, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        build(ScratchModel(), symbolic_tokenizer(SYMBOLS), seed=0, folder=Path(folder))
        model, tokenizer = load_model(folder, device=options.device)
    rng = random.Random(0)
    prompts = [" ".join(rng.choices(SYMBOLS[:300], k=rng.randrange(6, 20))) for _ in range(PROMPTS)]
    print(f"{model.num_parameters():,} parameters, {options.device}")
    for case, eos in {"no end": [len(tokenizer) + 1], "ends vary": list(range(100, 106))}.items():
        model.generation_config.eos_token_id = eos
        sampler = TransformersSampler(model, tokenizer, BATCH)
        sampler.eos_ids = frozenset(eos)
        ours = _rate(lambda sampler=sampler: _ours(sampler, prompts), options.device)
        theirs = _rate(lambda eos=eos: _generate(model, tokenizer, prompts, eos), options.device)
        print(f"{case}: ours {ours:,.0f} tokens/s, generate {theirs:,.0f} tokens/s, ratio {ours / theirs:.2f}")


def _rate(run: Callable[[], int], device: str) -> float:
    """Useful tokens per second: the best of three runs."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    rates = []
    for _ in range(3):
        start = clock()
        tokens = run()
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(tokens / (clock() - start))
    return max(rates)


def _ours(sampler: TransformersSampler, prompts: list[str]) -> int:
    requests = [Request((str(i), 0), prompt, i) for i, prompt in enumerate(prompts)]
    return sum(len(completion.ids) for completion in sampler.sample(requests, Sampling(max_tokens=TOKENS)))


def _generate(model: Any, tokenizer: Any, prompts: list[str], eos: list[int]) -> int:
    config = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=TOKENS, pad_token_id=tokenizer.pad_token_id, eos_token_id=eos
    )
    useful = 0
    for start in range(0, len(prompts), BATCH):
        texts = [prompt_text(tokenizer, prompt) for prompt in prompts[start : start + BATCH]]
        encoded = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        ids, mask = encoded["input_ids"].to(model.device), encoded["attention_mask"].to(model.device)
        for row in model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[
            :, ids.shape[1] :
        ].tolist():
            useful += next((at + 1 for at, token in enumerate(row) if token in eos), len(row))
    return useful


if __name__ == "__main__":
    main()
