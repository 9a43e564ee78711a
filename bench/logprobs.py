"""Log-probabilities by TRL's fused head beside those of full logits: memory and seconds.

    python bench/logprobs.py [--quick] [--write]

The optimisation phase of GRPO takes log-probability and entropy of every token, with gradients. A body of 2 layers,
256 wide, with random weights and a vocabulary as large as those of well-known models reads the same rows (768 tokens)
in four ways, each in a process of its own, with one thread in float32:

fused   As TRL's trainer does: the head is applied in tiles, and again in the backward pass.
lean    As `LaconicGRPOTrainer` does: at scored positions alone, and where logits are few they are kept.
parts   As `lean`, with a quarter of the rows at a time, as a token budget has it.
logits  `model(...).logits`, then log_softmax, gather and the sum of p log p.

`mebibytes` is how far resident memory rose during one forward and backward pass, gradients included (Linux only);
seconds are the process's own, of that pass. Differences are the largest of log-probabilities, and of the whole gradient
relative to its size, from the side with logits. On a CPU a tile of up to 32,768 logits per token is computed by torch,
which makes copies of it; on a GPU TRL does it in place with Triton, of which this says nothing.

`--write` keeps the figures in bench/results/logprobs.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Before torch is loaded: one core means one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

RESULTS = Path(__file__).parent / "results" / "logprobs.json"
SIDES = ("fused", "lean", "parts", "logits")
VOCABULARIES = {"1k": 1024, "32k": 32_768, "152k": 151_936}
ROWS, LENGTH, PROMPT = 8, 96, 16
PARTS = 4
SEED = 0
_CHILD = "--side"


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] == [_CHILD]:
        side, vocabulary, length, file = sys.argv[2:]
        print(json.dumps(measure(side, int(vocabulary), int(length), Path(file))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small vocabulary only, and shorter rows")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    length = 2 * PROMPT if options.quick else LENGTH
    figures = {}
    for name in ("1k",) if options.quick else VOCABULARIES:
        figures[name] = case = compare(VOCABULARIES[name], length)
        print(name, json.dumps(case), flush=True)
    if options.write:
        from laconic.eval.provenance import provenance

        sizes = {"rows": ROWS, "length": length, "prompt": PROMPT, "parts": PARTS}
        facts = provenance(threads=1, seed=SEED, n=1, **sizes, figures=figures)
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n")


def compare(vocabulary: int, length: int) -> dict[str, Any]:
    """All sides with one vocabulary; ratios are logits / side."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, dict[str, float]] = {}
        for side in SIDES:
            command = [sys.executable, __file__, _CHILD, side, str(vocabulary), str(length), f"{folder}/{side}"]
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[side] = json.loads(process.stdout.splitlines()[-1])
        expected = torch.load(f"{folder}/logits")
        for side in SIDES[:-1]:
            given = torch.load(f"{folder}/{side}")
            apart = (given["gradient"] - expected["gradient"]).norm() / expected["gradient"].norm()
            found[side] |= {
                "memory_ratio": found["logits"]["mebibytes"] / found[side]["mebibytes"],
                "seconds_ratio": found["logits"]["seconds"] / found[side]["seconds"],
                "logprob_difference": float((given["logprobs"] - expected["logprobs"]).abs().max()),
                "entropy_difference": float((given["entropy"] - expected["entropy"]).abs().max()),
                "gradient_difference": float(apart),
            }
    return {"vocabulary": vocabulary, "tokens": ROWS * length} | found


def measure(side: str, vocabulary: int, length: int, file: Path) -> dict[str, float]:
    """Run one side in this process; what it found goes into a file."""
    model = _model(vocabulary, side)
    torch.manual_seed(SEED)
    ids, weights = torch.randint(vocabulary, (ROWS, length)), torch.randn(ROWS, 1)
    _pass(model, side, ids[:, : PROMPT + 1], weights)  # warms up
    model.zero_grad()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark is the present again
    before, start = _resident("VmRSS"), time.process_time()
    logprobs, entropy = _pass(model, side, ids, weights)
    seconds, rise = time.process_time() - start, _resident("VmHWM") - before
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    torch.save({"logprobs": logprobs, "entropy": entropy, "gradient": gradient}, file)
    return {"mebibytes": rise, "seconds": seconds}


def _pass(
    model: torch.nn.Module, side: str, ids: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and backward; log-probabilities and entropies of the completions."""
    take, found = _by_logits if side == "logits" else _by_head, []
    for rows, weight in zip(*(x.chunk(PARTS if side == "parts" else 1) for x in (ids, weights)), strict=True):
        logprobs, entropy = take(model, rows)
        (weight * logprobs - 0.1 * entropy).sum().backward()
        found.append((logprobs.detach(), entropy.detach()))
    return torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])


def _by_head(model: torch.nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    labels = ids.clone()
    labels[:, :PROMPT] = -100
    found = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True)
    columns = ids.size(1) - PROMPT
    return found.log_probs[:, -columns:], found.entropy[:, -columns:]


def _by_logits(model: torch.nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = model(input_ids=ids, use_cache=False).logits[:, PROMPT - 1 : -1]
    every = logits.log_softmax(-1)
    chosen = every.gather(-1, ids[:, PROMPT:, None]).squeeze(-1)
    return chosen, -(every.exp() * every).sum(-1)


def _model(vocabulary: int, side: str) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        "qwen2", vocab_size=vocabulary, num_key_value_heads=4, tie_word_embeddings=True, **sizes
    )
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        # Next tokens are then not all equally likely: that which was read last is the likeliest.
        model.get_input_embeddings().weight *= 2
    if side != "logits":
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    if side in ("lean", "parts"):
        from laconic.training.lean_forward import lean_forward

        assert lean_forward(model, temperature=1.0, outputs=("log_probs", "entropy"))
    return model


def _resident(name: str) -> float:
    """Resident memory of this process, now (VmRSS) or at its highest (VmHWM), in mebibytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
