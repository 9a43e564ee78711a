"""Completions through an engine: the tokens of `generate`, the same in every batch, clean ends whoever ends it."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from laconic.inference.engine import Capability, Sampling
from laconic.inference.engines.draw import draw, random_numbers
from laconic.inference.engines.loading import encode_prompt
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.sampling import EngineSampler, Request
from laconic.rewards.errors import DataError, LaunchError, ModelError, RecipeError


@pytest.fixture(params=["qwen3", "qwen2", "llama"])
def loaded(request, random_model, tokenizer):
    return random_model(request.param), tokenizer


def requests_for(prompts, samples=1):
    return [Request((f"p{i}", s), prompt, 100 * i + s) for i, prompt in enumerate(prompts) for s in range(samples)]


def sampler_for(loaded, batch_size=None, **options):
    return EngineSampler(TransformersEngine(*loaded, batch_size=batch_size, signals=False), **options)


def completions(sampler, requests, sampling):
    with sampler:
        found = list(sampler.sample(requests, sampling))
    assert len({completion.key for completion in found}) == len(found) == len(requests)
    return {completion.key: completion for completion in found}


def test_greedy_equals_generate(loaded, prompts):
    model, tokenizer = loaded
    # Two common tokens end a completion as well, so that rows leave the batch at different times.
    plain = completions(sampler_for(loaded, 5), requests_for(prompts), Sampling(temperature=0, max_tokens=40))
    common = np.bincount([token for completion in plain.values() for token in completion.ids]).argsort()[-2:]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *map(int, common)]
    sampler = sampler_for(loaded, 5)
    ours = completions(sampler, requests_for(prompts), Sampling(temperature=0, max_tokens=40))
    lengths = set()
    for request in requests_for(prompts):
        ids = torch.tensor([encode_prompt(tokenizer, request.prompt)])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)
        expected = tuple(expected[0, ids.shape[1] :].tolist())
        assert ours[request.key].ids == expected
        assert ours[request.key].finished == (expected[-1] in sampler.engine.eos_ids)
        lengths.add(len(expected))
    assert len(lengths) > 3, "all completions are equally long: rows never left the batch one by one"


def test_a_completion_does_not_depend_on_its_batch(loaded, prompts):
    # In double precision: with rounding out of the way, equal means equal.
    loaded = (loaded[0].double(), loaded[1])
    sampling = Sampling(temperature=1.3, top_p=0.9, max_tokens=24)
    requests = requests_for(prompts, samples=3)
    together = completions(sampler_for(loaded, len(requests)), requests, sampling)
    few = completions(sampler_for(loaded, 4, at_once=6), requests[::-1], sampling)
    alone = completions(sampler_for(loaded, 1), requests[5:9], sampling)
    assert together == few
    assert alone == {key: together[key] for key in alone}
    assert len({completion.ids for completion in together.values()}) == len(requests), "samples repeat each other"


def test_the_first_token_follows_the_models_distribution(loaded, prompts):
    model, tokenizer = loaded
    ids = torch.tensor([encode_prompt(tokenizer, prompts[3])])
    with torch.no_grad():
        expected = (model(ids).logits[0, -1] / 0.7).softmax(-1).numpy()
    requests = [Request(("p", sample), prompts[3], sample) for sample in range(3000)]
    drawn = completions(sampler_for(loaded, 512), requests, Sampling(temperature=0.7, max_tokens=1))
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
    _, tokenizer = loaded
    for completion in completions(sampler_for(loaded, 8), requests_for(prompts), Sampling(max_tokens=12)).values():
        assert completion.finished == (completion.ids[-1] == tokenizer.eos_token_id)
        assert completion.finished or len(completion.ids) == 12
        assert tokenizer.eos_token_id not in completion.ids[:-1]


def test_a_rollout_is_the_inversion_of_its_own_numbers(loaded, prompts):
    """One sequence at a time, by hand: what a seed says does not depend on the engine."""
    model, tokenizer = loaded[0].double(), loaded[1]
    sampling = Sampling(temperature=0.8, max_tokens=15)
    drawn = completions(sampler_for((model, tokenizer), 3), requests_for(prompts), sampling)
    for request in requests_for(prompts):
        ids, numbers = encode_prompt(tokenizer, request.prompt), random_numbers(request.seed)
        start = len(ids)
        while len(ids) < start + 15 and (len(ids) == start or ids[-1] != tokenizer.eos_token_id):
            with torch.no_grad():
                shares = (model(torch.tensor([ids])).logits[0, -1] / 0.8).softmax(-1).cumsum(-1)
            ids.append(int((shares <= numbers.random() * shares[-1]).sum()))
        assert drawn[request.key].ids == tuple(ids[start:])


def test_no_requests_no_completions(loaded):
    assert completions(sampler_for(loaded), [], Sampling()) == {}


def test_the_model_is_left_without_gradients_and_the_caller_with_them(loaded, prompts):
    model, _ = loaded
    model.train()
    with sampler_for(loaded) as sampler:
        first = next(sampler.sample(requests_for(prompts), Sampling(max_tokens=3)))
    assert first.ids
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not model.training


def test_refuses_what_cannot_work(loaded, prompts):
    model, tokenizer = loaded
    with pytest.raises(RecipeError, match=r"sampling.top_p: 0 is out of range"):
        completions(sampler_for(loaded), requests_for(prompts), Sampling(top_p=0))
    longest = max(range(len(prompts)), key=lambda i: len(encode_prompt(tokenizer, prompts[i])))
    with pytest.raises(
        DataError, match=rf"problem p{longest}: a prompt of \d+ tokens and max_tokens 250 exceed .* 256"
    ):
        completions(sampler_for(loaded), requests_for(prompts), Sampling(max_tokens=250))
    with torch.no_grad():
        model.get_input_embeddings().weight[3:9] = float("nan")
    with pytest.raises(ModelError, match=r"problem p\d+: the model's logits are not finite"):
        completions(sampler_for(loaded), requests_for(prompts), Sampling(max_tokens=4))


def test_too_long_a_prompt_shows_before_the_first_token(loaded):
    sampler = sampler_for(loaded, 2)
    # It comes last, and has fewer characters than the one before.
    requests = requests_for([*["3"] * 20, "59 " * 80, "5 " * 110])
    with sampler, pytest.raises(DataError, match=r"problem p21: a prompt of \d+ tokens and max_tokens 150"):
        next(sampler.sample(requests, Sampling(max_tokens=150)))
    assert sampler.engine.ticks == 0


class CountingEngine(TransformersEngine):
    """Notes how many branches are open."""

    open_now = most = 0

    def open(self, *arguments, **options):
        branch = super().open(*arguments, **options)
        free, self.open_now = branch.close, self.open_now + 1
        self.most = max(self.most, self.open_now)

        async def close(fate):
            self.open_now -= not branch.account.closed
            await free(fate)

        branch.close = close
        return branch


def test_branches_are_bounded_and_completions_come_as_they_are_done(loaded, prompts):
    engine = CountingEngine(*loaded, batch_size=3, signals=False)
    requests = requests_for(prompts, samples=4)
    with EngineSampler(engine, at_once=5) as sampler:
        found = sampler.sample(requests, Sampling(max_tokens=16))
        next(found)
        assert engine.ticks <= 16, "the first completion waited for others"
        assert sum(1 for _ in found) == len(requests) - 1
    assert (engine.most, engine.open_now) == (5, 0)


def test_a_closed_generator_frees_its_branches_and_the_sampler_goes_on(loaded, prompts):
    engine = CountingEngine(*loaded, batch_size=4, signals=False)
    with EngineSampler(engine) as sampler:
        found = sampler.sample(requests_for(prompts, samples=4), Sampling(max_tokens=200))
        next(found)
        assert engine.open_now > 0
        found.close()
        assert engine.open_now == 0
        again = list(sampler.sample(requests_for(prompts[:1]), Sampling(max_tokens=2)))
    assert [completion.key for completion in again] == [("p0", 0)]


def interrupt(model, *, at):
    """Press Ctrl-C in a forward pass."""
    passes = itertools.count()
    model.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT) if next(passes) == at else None)


@pytest.mark.parametrize(("way", "error"), [("left", None), ("error", KeyError), ("interrupt", KeyboardInterrupt)])
def test_nothing_is_left_behind(loaded, prompts, way, error):
    engine = CountingEngine(*loaded, batch_size=4, signals=False)
    before = threading.active_count()
    with nullcontext() if error is None else pytest.raises(error), EngineSampler(engine) as sampler:
        found = sampler.sample(requests_for(prompts, samples=4), Sampling(max_tokens=200))
        next(found)
        if way == "interrupt":
            interrupt(loaded[0], at=10)
            list(found)
        elif way == "error":
            raise KeyError
    assert engine.open_now == 0
    assert threading.active_count() == before
    found.close()  # after the end of the context
    with pytest.raises(LaunchError, match="was closed"):
        completions(EngineSampler(engine), requests_for(prompts), Sampling(max_tokens=2))


def test_engines_without_token_ids_are_refused():
    engine = ScriptedEngine(lambda context: ["a"], capabilities=[Capability.SEED])
    with pytest.raises(LaunchError, match="sampling needs an engine with: token ids in and out"):
        EngineSampler(engine)
