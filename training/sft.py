"""Supervised fine-tuning on the rows of a generate stage.

accelerate launch --config_file launch/profiles/cpu.yaml -m laconic.training.sft <stage folder>/stage.yaml
"""

from __future__ import annotations

import sys
from typing import Any

from trl import SFTConfig, SFTTrainer

from laconic.recipes.entry import Opened, run_stage
from laconic.rewards.jsonl import read_jsonl
from laconic.training import session
from laconic.training.lean_forward import make_lean
from laconic.training.model import load_tokenizer, lora_config
from laconic.training.rows import RowEncoder, sft_dataset


def main(opened: Opened) -> dict[str, Any]:
    """Run the stage; returns facts for its manifest."""
    arguments = session.training_arguments(SFTConfig, opened)
    tokenizer = load_tokenizer(opened.model_dir(), revision=opened.revision())
    encoder = RowEncoder(tokenizer, max_length=arguments.max_length)
    rows = list(read_jsonl(opened.input("data") / "rows.jsonl"))
    dataset = sft_dataset(rows, encoder)
    trainer = SFTTrainer(
        model=opened.model_dir(),
        args=arguments,
        processing_class=tokenizer,
        train_dataset=dataset,
        peft_config=lora_config(opened.stage.config.lora),
        callbacks=session.callbacks(opened),
    )
    make_lean(trainer)
    facts = session.fit(opened, trainer, tokenizer)
    return facts | {"rows": len(dataset), "rows_too_long": len(rows) - len(dataset)}


if __name__ == "__main__":
    run_stage("sft", main, sys.argv[1:])
