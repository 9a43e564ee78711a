"""Rollouts between training steps: from the weights of now, with everything left as it was."""

import threading

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from laconic.recipes.model_spec import ScratchModel
from laconic.training import scratch
from laconic.training.rollouts import SampledRollouts

LIMIT = 12
PROMPTS = [[{"role": "user", "content": text}] for text in ("3 + 4 =", "3 + 4 =", "4 + 4 + 4 =", "7 =")]


@pytest.fixture
def trainer(tmp_path):
    tokenizer = scratch.symbolic_tokenizer(["1", "2", "3", "4", "7", "8", "+", "="])
    scratch.build(ScratchModel(hidden_size=32, layers=2, heads=2, max_length=64), tokenizer, seed=3, folder=tmp_path)
    settings = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": LIMIT}
    config = GRPOConfig(output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True, bf16=False, **settings)
    dataset = Dataset.from_list([{"prompt": "3 + 4 ="}] * 4)
    trainer = GRPOTrainer(str(tmp_path), reward_funcs=[len], args=config, train_dataset=dataset)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            # Fresh weights give nearly equal logits, so that rounding would decide what is most likely.
            weight.mul_(6.0 if weight.ndim > 1 else 1.0)
    return trainer


def greedy(trainer, prompt):
    """Of `generate`: token ids after the prompt."""
    ids = trainer.processing_class.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt")
    ids = ids["input_ids"]
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": LIMIT}
    return trainer.model.generate(ids, **options)[0, ids.shape[1] :].tolist()


def test_nothing_of_old_weights_is_remembered(trainer):
    rollouts = SampledRollouts(seed=0)
    trainer.args.temperature = 0.0
    before = rollouts(PROMPTS, trainer)["completion_ids"]
    assert before == [greedy(trainer, prompt) for prompt in PROMPTS]
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.copy_(trainer.model.get_input_embeddings().weight.roll(1, 0))
    after = rollouts(PROMPTS, trainer)["completion_ids"]
    assert after == [greedy(trainer, prompt) for prompt in PROMPTS]
    assert after != before


def test_steps_and_rows_differ_and_the_same_step_repeats(trainer):
    trainer.model.train()
    trainer.args.temperature = 3.0
    threads, rollouts = threading.active_count(), SampledRollouts(seed=0)
    first = rollouts(PROMPTS, trainer)
    assert trainer.model.training
    assert threading.active_count() == threads
    ids = first["completion_ids"]
    assert ids[0] != ids[1], "two rows of one prompt repeat each other"
    assert SampledRollouts(seed=0)(PROMPTS, trainer) == first
    trainer.state.global_step = 1
    assert rollouts(PROMPTS, trainer)["completion_ids"] != ids
    # What comes of them is what training differentiates through: nothing of inference mode may stick to the weights.
    trainer.model(torch.tensor([first["prompt_ids"][0] + ids[0]])).logits.sum().backward()
    assert all(weight.grad is not None for weight in trainer.model.parameters())
