"""Loading a model folder, and what is said about one that lacks a part."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from laconic.inference.engines.loading import attention_config, encode_prompt, eos_ids, fitting_batch_size, load_model
from laconic.rewards.errors import ModelError


def test_a_folder_loads_as_what_was_saved(model_folder, random_model, tokenizer):
    model, loaded = load_model(model_folder, device="cpu")
    assert not model.training
    saved = random_model().state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in model.state_dict().items())
    assert encode_prompt(loaded, "3 + 4") == tokenizer.encode("<|user|> 3 + 4 <|assistant|>")
    assert load_model(model_folder, dtype="bfloat16", device="cpu")[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("part", "named"),
    [("tokenizer*", "without tokenizer"), ("*.safetensors", "without weights"), ("config.json", "without config.json")],
)
def test_a_folder_without_a_part_is_named(model_folder, part, named):
    removed = list(model_folder.glob(part))
    assert removed
    for file in removed:
        file.unlink()
    with pytest.raises(ModelError, match=f"random-model: a model folder {named}") as caught:
        load_model(model_folder)
    assert "save_pretrained" in caught.value.cure


def test_a_missing_folder_is_not_taken_for_a_hub_id(tmp_path):
    with pytest.raises(ModelError, match="absent: no such model folder"):
        load_model(tmp_path / "absent")


def test_broken_weights_and_missing_templates_are_model_errors(model_folder):
    (model_folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_model(model_folder)
    (model_folder / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(model_folder)


def test_every_end_of_sequence_token_counts(random_model, tokenizer):
    model = random_model()
    model.generation_config.eos_token_id = [4, 5]
    assert eos_ids(model.generation_config, tokenizer) == {4, 5, tokenizer.eos_token_id}
    model.generation_config.eos_token_id = None
    assert eos_ids(model.generation_config, tokenizer) == {tokenizer.eos_token_id}
    assert fitting_batch_size(model, 100) == 128


def test_layers_without_keys_and_values_are_refused():
    config = AutoConfig.for_model("qwen3", num_hidden_layers=2, layer_types=["full_attention", "full_attention"])
    assert attention_config(config) is config
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ModelError, match="'linear_attention'"):
        attention_config(config)
