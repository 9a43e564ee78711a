"""Direct preference optimisation on the pairs of a generate stage.

    accelerate launch --config_file launch/profiles/cpu.yaml -m laconic.training.dpo <stage folder>/stage.yaml

``nll_weight`` adds the negative log-likelihood of the chosen completion, as iterative RPO (arXiv:2404.19733) does;
TRL's term is a mean over the batch's chosen tokens, not over each completion's.
"""

from __future__ import annotations

import sys
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from laconic.recipes.entry import Opened, run_stage
from laconic.rewards.jsonl import read_jsonl
from laconic.training import session
from laconic.training.model import load_tokenizer, lora_config
from laconic.training.rows import RowEncoder, preference_dataset


class TokenisedDPOTrainer(DPOTrainer):
    """A DPOTrainer that takes token ids.

    TRL would tokenise the joined strings again: with a template that writes its own begin-of-sequence token the
    prompt would then start with two, and its boundary could move.
    """

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


def main(opened: Opened) -> dict[str, Any]:
    """Run the stage; returns facts for its manifest."""
    arguments = session.training_arguments(DPOConfig, opened, **_losses(opened))
    tokenizer = load_tokenizer(opened.model_dir(), revision=opened.revision())
    encoder = RowEncoder(tokenizer, max_length=arguments.max_length)
    rows = list(read_jsonl(opened.input("data") / "rows.jsonl"))
    dataset = preference_dataset(rows, encoder)
    trainer = TokenisedDPOTrainer(
        model=opened.model_dir(),
        args=arguments,
        processing_class=tokenizer,
        train_dataset=dataset,
        peft_config=lora_config(opened.stage.config.lora),
        callbacks=session.callbacks(opened),
    )
    facts = session.fit(opened, trainer, tokenizer)
    return facts | {"pairs": len(dataset), "pairs_too_long": len(rows) - len(dataset)}


def _losses(opened: Opened) -> dict[str, Any]:
    config = opened.stage.config
    if not config.nll_weight:
        return {}
    return {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.nll_weight]}


if __name__ == "__main__":
    run_stage("dpo", main, sys.argv[1:])
