"""The decode loop: the tokens of `generate`, the same completion in every batch, the right distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from laconic.data_gen.sampler import TransformersSampler
from laconic.inference.engine import Request, Sampling
from laconic.inference.engines.draw import draw, random_numbers
from laconic.inference.engines.loading import encode_prompt
from laconic.rewards.errors import DataError, ModelError, RecipeError


@pytest.fixture(params=["qwen3", "qwen2", "llama"])
def loaded(request, random_model, tokenizer):
    return random_model(request.param), tokenizer


def requests_for(prompts, samples=1):
    return [Request((f"p{i}", s), prompt, 100 * i + s) for i, prompt in enumerate(prompts) for s in range(samples)]


def completions(sampler, requests, sampling):
    found = list(sampler.sample(requests, sampling))
    assert len({completion.key for completion in found}) == len(found) == len(requests)
    return {completion.key: completion for completion in found}


def test_greedy_equals_generate(loaded, prompts):
    model, tokenizer = loaded
    # Two common tokens end a completion as well, so that rows leave the batch at different times.
    sampler = TransformersSampler(model, tokenizer, batch_size=5)
    plain = completions(sampler, requests_for(prompts), Sampling(temperature=0, max_tokens=40))
    common = np.bincount([token for completion in plain.values() for token in completion.ids]).argsort()[-2:]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *map(int, common)]
    sampler = TransformersSampler(model, tokenizer, batch_size=5)
    ours = completions(sampler, requests_for(prompts), Sampling(temperature=0, max_tokens=40))
    lengths = set()
    for request in requests_for(prompts):
        ids = torch.tensor([encode_prompt(tokenizer, request.prompt)])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)
        expected = tuple(expected[0, ids.shape[1] :].tolist())
        assert ours[request.key].ids == expected
        assert ours[request.key].finished == (expected[-1] in sampler.eos_ids)
        lengths.add(len(expected))
    assert len(lengths) > 3, "all completions are equally long: rows never left the batch one by one"


def test_a_completion_does_not_depend_on_its_batch(loaded, prompts):
    # In double precision: with rounding out of the way, equal means equal.
    loaded = (loaded[0].double(), loaded[1])
    sampling = Sampling(temperature=1.3, top_p=0.9, max_tokens=24)
    requests = requests_for(prompts, samples=3)
    together = completions(TransformersSampler(*loaded, batch_size=len(requests)), requests, sampling)
    few = completions(TransformersSampler(*loaded, batch_size=4), requests[::-1], sampling)
    alone = completions(TransformersSampler(*loaded, batch_size=1), requests[5:9], sampling)
    assert together == few
    assert alone == {key: together[key] for key in alone}
    assert len({completion.ids for completion in together.values()}) == len(requests), "samples repeat each other"


def test_the_first_token_follows_the_models_distribution(loaded, prompts):
    model, tokenizer = loaded
    ids = torch.tensor([encode_prompt(tokenizer, prompts[3])])
    with torch.no_grad():
        expected = (model(ids).logits[0, -1] / 0.7).softmax(-1).numpy()
    requests = [Request(("p", sample), prompts[3], sample) for sample in range(3000)]
    drawn = completions(TransformersSampler(model, tokenizer, 512), requests, Sampling(temperature=0.7, max_tokens=1))
    shares = np.bincount([completion.ids[0] for completion in drawn.values()], minlength=len(expected)) / 3000
    # Five standard errors of a share at its widest.
    assert np.abs(shares - expected).max() < 5 * 0.5 / np.sqrt(3000)
    assert expected.max() < 0.9, "a distribution this sharp proves nothing"


@pytest.mark.parametrize("kwargs", [{"top_k": 4}, {"top_p": 0.6}, {"top_k": 6, "top_p": 0.7}, {}])
def test_draw_matches_transformers_warpers(kwargs):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = 2 * torch.randn(1, 12, generator=torch.Generator().manual_seed(1))
    scores = TemperatureLogitsWarper(0.8)(None, logits)
    if "top_k" in kwargs:
        scores = TopKLogitsWarper(kwargs["top_k"])(None, scores)
    if "top_p" in kwargs:
        scores = TopPLogitsWarper(kwargs["top_p"])(None, scores)
    expected = scores.softmax(-1)[0]
    # A fine grid of numbers makes the shares exact up to its step: no randomness in this test.
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    tokens = draw(logits.expand(20_000, -1), grid, Sampling(temperature=0.8, **kwargs))
    shares = torch.bincount(tokens, minlength=12) / 20_000
    assert torch.allclose(shares, expected, atol=2e-4)
    assert set(tokens.tolist()) == set(expected.nonzero().flatten().tolist())


def test_random_numbers_are_a_function_of_the_seed():
    assert random_numbers(3).random(4).tolist() == random_numbers(3).random(4).tolist()
    # Neighbouring seeds must be unrelated streams, not shifted ones.
    near = [random_numbers(seed).random(50) for seed in range(40)]
    assert len(np.unique(np.concatenate(near))) == 40 * 50


def test_token_limit_and_eos_are_told_apart(loaded, prompts):
    model, tokenizer = loaded
    sampler = TransformersSampler(model, tokenizer, batch_size=8)
    for completion in sampler.sample(requests_for(prompts), Sampling(max_tokens=12)):
        assert completion.finished == (completion.ids[-1] == tokenizer.eos_token_id)
        assert completion.finished or len(completion.ids) == 12
        assert tokenizer.eos_token_id not in completion.ids[:-1]


def test_no_requests_no_completions(loaded):
    assert list(TransformersSampler(*loaded).sample([], Sampling())) == []


def test_the_model_is_left_without_gradients_and_the_caller_with_them(loaded, prompts):
    model, tokenizer = loaded
    model.train()
    first = next(iter(TransformersSampler(model, tokenizer).sample(requests_for(prompts), Sampling(max_tokens=3))))
    assert first.ids
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not model.training


def test_refuses_what_cannot_work(loaded, prompts):
    model, tokenizer = loaded
    sampler = TransformersSampler(model, tokenizer)
    with pytest.raises(RecipeError, match=r"sampling.top_p: 0 is out of range"):
        list(sampler.sample(requests_for(prompts), Sampling(top_p=0)))
    with pytest.raises(DataError, match=r"p\d+: a prompt of \d+ tokens and sampling.max_tokens 250 exceed .* 256"):
        list(sampler.sample(requests_for(prompts), Sampling(max_tokens=250)))
    with torch.no_grad():
        model.get_input_embeddings().weight[3:9] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        list(sampler.sample(requests_for(prompts), Sampling(max_tokens=4)))
