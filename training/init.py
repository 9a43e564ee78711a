"""Build the small model that a recipe's `model.scratch` describes.

python -m laconic.training.init <stage folder>/stage.yaml
"""

from __future__ import annotations

import sys
from typing import Any

from laconic.data_gen.sources import training_text, vocabulary
from laconic.recipes.entry import Opened, run_stage
from laconic.training import scratch


def main(opened: Opened) -> dict[str, Any]:
    """Run the stage; returns facts for its manifest."""
    stage, spec = opened.stage, opened.stage.model.scratch
    if spec.tokenizer == "symbolic":
        tokenizer = scratch.symbolic_tokenizer(vocabulary(stage.problems, stage.problems_seed))
    else:
        tokenizer = scratch.bpe_tokenizer(training_text(stage.problems, stage.seed), vocab_size=spec.vocab_size)
    parameters = scratch.build(spec, tokenizer, seed=stage.seed, folder=opened.work / "model")
    print(f"{spec.architecture}: {parameters:,} parameters, {len(tokenizer)} tokens", flush=True)
    return {"parameters": parameters, "vocabulary": len(tokenizer)}


if __name__ == "__main__":
    run_stage("init", main, sys.argv[1:])
