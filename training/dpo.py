"""Direct preference optimisation on the pairs of a generate stage.

    accelerate launch --config_file launch/profiles/cpu.yaml -m laconic.training.dpo <stage folder>/stage.yaml

``nll_weight`` adds the negative log-likelihood of the chosen completion, as iterative RPO (arXiv:2404.19733) does;
TRL's term is a mean over the batch's chosen tokens, not over each completion's.

Of search episodes, retrieved and forced tokens are left out of every log-probability, those of the reference included.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from laconic.recipes.entry import Opened, run_stage
from laconic.rewards.jsonl import read_jsonl
from laconic.training import session
from laconic.training.model import load_tokenizer, lora_config
from laconic.training.rows import SIDES, RowEncoder, learned_column, preference_dataset


class TokenisedDPOTrainer(DPOTrainer):
    """A DPOTrainer that takes token ids.

    TRL would tokenise the joined strings again: with a template that writes its own begin-of-sequence token the
    prompt would then start with two, and its boundary could move.
    """

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # Columns that are not named here do not reach the collator.
        self._signature_columns += [name for name in map(learned_column, SIDES) if name not in self._signature_columns]


@dataclass
class MaskedPairs(DataCollatorForPreference):
    """TRL's collator, but the completion mask leaves out what was put into a completion instead of generated.

    Rows are not longer than the limit (`preference_dataset`), so that nothing is cut here and positions hold.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """As TRL's: the chosen sides first, then the rejected ones."""
        batch = super().torch_call(examples)
        mask = torch.zeros_like(batch["completion_mask"])
        rows = [(example["prompt_ids"], example[learned_column(side)]) for side in SIDES for example in examples]
        for row, (prompt, learned) in enumerate(rows):
            mask[row, len(prompt) : len(prompt) + len(learned)] = torch.tensor(learned)
        return batch | {"completion_mask": mask}


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
        data_collator=MaskedPairs(pad_token_id=tokenizer.pad_token_id, max_length=arguments.max_length),
        peft_config=lora_config(opened.stage.config.lora),
        callbacks=session.callbacks(opened),
    )
    # As TRL does where it makes the collator itself.
    for config in (trainer.model.config.get_text_config(), trainer.model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
    facts = session.fit(opened, trainer, tokenizer)
    return facts | {"pairs": len(dataset), "pairs_too_long": len(rows) - len(dataset)}


def _losses(opened: Opened) -> dict[str, Any]:
    config = opened.stage.config
    if not config.nll_weight:
        return {}
    return {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.nll_weight]}


if __name__ == "__main__":
    run_stage("dpo", main, sys.argv[1:])
