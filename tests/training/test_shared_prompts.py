"""The rollouts of a group share the reading of their prompt: every token of it goes through the model once."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from trl import GRPOConfig

from laconic.inference.engines.loading import encode_prompt, load_model
from laconic.recipes.model_spec import ScratchModel
from laconic.training import scratch
from laconic.training.rollouts import SampledRollouts

SYMBOLS = [str(number) for number in range(30)]
GROUP, LIMIT = 8, 5
TEXTS = [" ".join(SYMBOLS[(7 * at + word) % 30] for word in range(20 + 10 * at)) for at in range(3)]


@pytest.fixture
def trainer(tmp_path):
    """As much of one as rollouts look at; its model draws no token that ends a completion."""
    tokenizer = scratch.symbolic_tokenizer(SYMBOLS)
    scratch.build(ScratchModel(hidden_size=32, layers=1, heads=2, max_length=64), tokenizer, seed=0, folder=tmp_path)
    model, tokenizer = load_model(tmp_path, device="cpu", dtype="float32")
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        rows[tokenizer.eos_token_id] = 0.0
        model.lm_head.weight = torch.nn.Parameter(rows.clone())
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(rows)))
        model.lm_head.bias[tokenizer.eos_token_id] = -1e4
    settings = {"max_completion_length": LIMIT, "use_cpu": True, "bf16": False, "report_to": []}
    return SimpleNamespace(
        args=GRPOConfig(output_dir=str(tmp_path / "out"), **settings),
        accelerator=Accelerator(cpu=True),
        processing_class=tokenizer,
        state=SimpleNamespace(global_step=0),
        model=model,
        model_wrapped=model,
    )


@pytest.mark.parametrize("at_once", [24, 5, 1])
def test_a_prompt_is_read_once_for_its_group(trainer, at_once):
    read = []
    trainer.model.register_forward_pre_hook(lambda *given: read.append(given[2]["input_ids"]), with_kwargs=True)
    prompts = [[{"role": "user", "content": text}] for text in TEXTS for _ in range(GROUP)]
    rollouts = SampledRollouts(seed=0, batch_size=at_once)(prompts, trainer)
    assert [len(ids) for ids in rollouts["completion_ids"]] == [LIMIT] * len(prompts)
    assert len({tuple(ids) for ids in rollouts["completion_ids"]}) > GROUP
    # The first token of a rollout follows from the prompt's reading; its last is never read.
    beyond = [ids for ids in read if ids.shape[1] == 1]
    assert sum(ids.numel() for ids in beyond) == len(prompts) * (LIMIT - 1)
    tokens = {text: encode_prompt(trainer.processing_class, text) for text in TEXTS}
    rows = [row for ids in read if ids.shape[1] > 1 for row in ids.tolist()]
    assert len(rows) == len(TEXTS)
    for ids in tokens.values():
        assert sum(row[: len(ids)] == ids for row in rows) == 1
    if at_once == 1:
        # Read each by itself, they are not padded either.
        assert sum(map(len, rows)) == sum(map(len, tokens.values()))
