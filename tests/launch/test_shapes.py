"""Model sizes, against the published numbers and against transformers itself."""

from __future__ import annotations

import json

import pytest

from laconic.launch.shapes import KNOWN, Shape, local_folder, pretrained_shape, shape_from_config

PUBLISHED = {
    "deepseek-ai/deepseek-r1-distill-qwen-1.5b": 1_777_088_000,
    "deepseek-ai/deepseek-r1-distill-qwen-7b": 7_615_616_512,
    "qwen/qwen2.5-0.5b": 494_032_768,
    "qwen/qwen2.5-1.5b": 1_543_714_304,
    "qwen/qwen2.5-3b": 3_085_938_688,
    "qwen/qwen3-0.6b": 596_049_920,
    "qwen/qwen3-1.7b": 1_720_574_976,
    "qwen/qwen3-4b": 4_022_468_096,
    "qwen/qwen3-8b": 8_190_735_360,
}
"""Parameters as the model pages on the hub count them (tied embeddings once)."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_models_have_their_published_size(name):
    assert KNOWN[name].parameters == PUBLISHED[name]


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize(("kv_heads", "tied"), [(4, True), (2, False)])
def test_parameters_are_those_that_transformers_makes(architecture, kv_heads, tied):
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture,
        vocab_size=101,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=12,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shape_from_config(config.to_dict())
    assert shape.parameters == model.num_parameters()
    linear = [module for name, module in model.named_modules() if name.endswith("_proj")]
    assert shape.lora_parameters(8) == sum(8 * (m.in_features + m.out_features) for m in linear)


def write_config(folder, **changes):
    folder.mkdir(parents=True)
    config = {
        "model_type": "qwen2",
        "vocab_size": 10,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_local_folder_is_read(tmp_path):
    write_config(tmp_path / "model", num_key_value_heads=1, tie_word_embeddings=False)
    assert pretrained_shape(str(tmp_path / "model")) == Shape(
        architecture="qwen2",
        vocab=10,
        hidden=8,
        layers=1,
        heads=2,
        kv_heads=1,
        head_dim=4,
        intermediate=16,
        tied=False,
    )


def test_the_hub_cache_counts_as_local(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert local_folder("some/model") is None
    cache = tmp_path / "models--some--model"
    write_config(cache / "snapshots" / "c0ffee", vocab_size=77)
    assert local_folder("some/model") is None
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("c0ffee\n")
    assert local_folder("some/model") == cache / "snapshots" / "c0ffee"
    assert local_folder("some/model", "c0ffee") == cache / "snapshots" / "c0ffee"
    assert local_folder("some/model", "v2") is None
    assert pretrained_shape("some/model").vocab == 77


def test_unknown_models_have_no_shape(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert pretrained_shape("nobody/nothing") is None
    write_config(tmp_path / "other", model_type="mamba")
    assert pretrained_shape(str(tmp_path / "other")) is None
    assert pretrained_shape("Qwen/Qwen3-8B").parameters == PUBLISHED["qwen/qwen3-8b"]
