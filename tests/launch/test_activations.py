"""What a backward pass needs, against what autograd really saves."""

from __future__ import annotations

import pytest

from laconic.launch.activations import TILE_TOKENS, TILE_VOCABULARY, cache_bytes, layer_bytes, logit_bytes
from laconic.launch.shapes import KNOWN, shape_from_config

ROWS, LENGTH = 4, 32


def saved_in_layers(architecture, kv_heads, precision, *, padded, layers):
    """Bytes that autograd keeps in a decoder of so many layers, its weights' own storage left out; and its shape."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "head_dim": 16}
    config = AutoConfig.for_model(
        architecture, vocab_size=50, num_hidden_layers=layers, num_key_value_heads=kv_heads, **sizes
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if precision == "half" else torch.float32)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, :3] = int(not padded)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed"),
    ):
        output = model.model(ids, attention_mask=mask)
    assert output.last_hidden_state.requires_grad
    return sum(size for size, _ in kept.values()), shape_from_config(config.to_dict())


@pytest.mark.parametrize("precision", ["float32", "mixed", "half"])
@pytest.mark.parametrize("architecture", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize(("kv_heads", "padded"), [(4, False), (2, False), (4, True), (2, True)])
def test_a_layer_saves_what_is_estimated(architecture, kv_heads, padded, precision):
    pytest.importorskip("torch")
    given = {"precision": precision, "padded": padded}
    more, shape = saved_in_layers(architecture, kv_heads, layers=4, **given)
    less, _ = saved_in_layers(architecture, kv_heads, layers=2, **given)
    found = (more - less) / 2
    if precision == "mixed":
        # Autocast's own copies of a layer's matrices are no activations, and are counted elsewhere.
        found -= 2 * (2 * 64 * 64 + 2 * 64 * kv_heads * 16 + 3 * 64 * 160)
    assert layer_bytes(shape, rows=ROWS, length=LENGTH, **given) == pytest.approx(found, rel=0.02)


def test_logits_are_one_tile():
    shape = KNOWN["qwen/qwen2.5-0.5b"]
    summed = 4 * shape.hidden * (10_000 + shape.vocab)
    tile = TILE_TOKENS * TILE_VOCABULARY
    assert logit_bytes(shape, "mixed", tokens=10_000, fused=True, trains_head=True) == 2 * tile + summed
    assert logit_bytes(shape, "float32", tokens=10_000, fused=False, trains_head=True) == 33 * tile + summed
    adapters = logit_bytes(shape, "half", tokens=10_000, fused=True, trains_head=False)
    assert adapters == 2 * tile + 4 * shape.hidden * 10_000
    few = {"tokens": 100, "fused": False, "trains_head": False}
    assert logit_bytes(shape, "float32", keeps=True, **few) == (16 * shape.vocab + 4 * shape.hidden) * 100
    assert logit_bytes(shape, "float32", keeps=True, **few | {"tokens": 1000}) == logit_bytes(
        shape, "float32", **few | {"tokens": 1000}
    )


def test_tiles_are_those_of_trl():
    kernel = pytest.importorskip("trl.kernels.chunked_logprob")
    utils = pytest.importorskip("trl.trainer.utils")
    assert (kernel.TOKEN_CHUNK_SIZE, utils._CHUNKED_LOGPROB_CHUNK_SIZE) == (TILE_TOKENS, TILE_VOCABULARY)


def test_there_is_room_for_what_the_engine_reserves():
    torch = pytest.importorskip("torch")
    from laconic.inference.engines.kv import KVRows

    shape = KNOWN["qwen/qwen2.5-0.5b"]
    kv = KVRows()
    like = [(torch.zeros(shape.kv_heads, 1, shape.head_dim),) * 2 for _ in range(shape.layers)]
    for rows, columns in ((1, 8), (6, 8), (8, 20), (8, 40), (8, 64)):
        kv.reserve(rows, columns, used=rows, like=like)
    needed = 8 * 64 * 2 * shape.layers * shape.kv_heads * shape.head_dim * 4
    assert needed <= kv.nbytes <= cache_bytes(shape, "float32", rows=8, length=64) / 1.8
