"""Scores, states, steering and cache edits against passes of the plain model that know nothing of the engine."""

from __future__ import annotations

import asyncio
import copy
from contextlib import ExitStack
from functools import cache

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from laconic.inference.engine import Capability, Sampling, Steering
from laconic.inference.engines.loading import encode_prompt
from laconic.inference.engines.steering import changed, cut, edits
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.ledger import Ledger
from laconic.rewards.errors import LaunchError, ModelError, RecipeError
from laconic.training.scratch import symbolic_tokenizer

GREEDY = Sampling(temperature=0)
PROMPT, OTHER = "3 + 4 = 7 ; 5 - 2", "9 8 7 6 5"
LAYERS, HIDDEN = 3, 48


@cache
def tokenizer():
    return symbolic_tokenizer([str(number) for number in range(60)] + list("+-*/=;"))


@cache
def _model(architecture, **settings):
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer()),
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer().eos_token_id,
        pad_token_id=tokenizer().pad_token_id,
        **settings,
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5.0 if weight.ndim > 1 else 1.0)
    return model


@pytest.fixture(params=["qwen3", "llama"])
def model(request):
    return copy.deepcopy(_model(request.param))


def with_engine(work, chosen, **options):
    async def run():
        engine = TransformersEngine(copy.deepcopy(chosen), tokenizer(), **options)
        try:
            return await work(engine)
        finally:
            await engine.aclose()

    return asyncio.run(run())


def begin(engine, prompt=PROMPT, ledger=None):
    return engine.open(prompt, ledger=ledger or Ledger(), sampling=GREEDY)


async def say(branch, count):
    """Exactly so many tokens."""
    chunk = await branch.generate(max_tokens=count, min_tokens=count)
    return [token.id for token in chunk.tokens]


async def crowd(engine):
    """Something else that takes the only row."""
    await say(begin(engine, OTHER), 3)


def ids_of(text):
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def forward(chosen, ids, *, steered=(), evicted=(), **options):
    """One pass over everything from nothing.

    Args:
        chosen: The model.
        ids: Its input.
        steered: (layer, first token, last token + 1, vector) of every edit.
        evicted: (first token that does not see them, for each layer the tokens that are gone).
        options: Of the pass.
    """
    chosen = copy.deepcopy(chosen)
    if options.get("output_attentions"):
        chosen.set_attn_implementation("eager")
    blocks = chosen.model.layers
    with ExitStack() as hooks:
        for layer, first, end, vector in steered:

            def add(module, args, output, first=first, end=end, vector=vector):
                whole = output[0] if isinstance(output, tuple) else output
                return torch.cat([whole[:, :first], whole[:, first:end] + vector, whole[:, end:]], dim=1)

            place = chosen.model.embed_tokens if layer == 0 else blocks[layer - 1]
            hooks.callback(place.register_forward_hook(add).remove)
        for number, block in enumerate(blocks):

            def hide(module, args, kwargs, number=number):
                seen = torch.ones(len(ids), len(ids)).tril().bool()
                for first, gone in evicted:
                    seen[first:, gone[number]] = False
                mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, float("-inf"))
                return args, kwargs | {"attention_mask": mask[None, None]}

            if evicted:
                hooks.callback(block.self_attn.register_forward_pre_hook(hide, with_kwargs=True).remove)
        return chosen(torch.tensor([list(ids)]), use_cache=False, **options)


def assert_said(chosen, ids, count, **edited):
    """The last `count` tokens are the most likely ones of a pass from nothing."""
    logits = forward(chosen, ids, **edited).logits[0]
    logits[:, tokenizer().eos_token_id] = float("-inf")
    assert list(ids[-count:]) == logits[-count - 1 : -1].argmax(-1).tolist()


def vector(seed=0, size=30.0):
    return np.random.default_rng(seed).standard_normal(HIDDEN) * size


@pytest.mark.parametrize("piece", [512, 3])
def test_a_score_is_the_log_softmax_of_a_plain_pass(model, piece, monkeypatch):
    monkeypatch.setattr("laconic.inference.engines.insights.SCORE_TOKENS", piece)
    text = "= 9 ; 4 + 4 = 8"

    async def work(engine):
        ledger = Ledger()
        branch = begin(engine, ledger=ledger)
        at_prompt = await branch.score(text)
        await say(branch, 6)
        await branch.extend("; 3 * 3 = ;")  # not read yet
        before = list(branch.strand.ids)
        values = [await branch.score(text), await branch.score("7"), await branch.score("")]
        assert branch.strand.ids == before
        assert ledger.scored == 2 * len(ids_of(text)) + 1
        assert ledger.forced == len(ids_of("; 3 * 3 = ;"))
        return at_prompt, values, before, await say(branch, 6)

    at_prompt, (scored, single, nothing), ids, said = with_engine(work, model)
    extra = ids_of(text)
    for found, start in ((at_prompt, encode_prompt(tokenizer(), PROMPT)), (scored, ids), (single, ids)):
        wanted = extra if found is not single else ids_of("7")
        logs = forward(model, [*start, *wanted]).logits[0].log_softmax(-1)[len(start) - 1 : -1]
        assert found == pytest.approx(logs[range(len(wanted)), wanted].tolist(), abs=1e-4)
    assert nothing == ()
    assert_said(model, ids + said, 6)


def test_states_are_those_of_a_plain_pass_and_reading_them_changes_nothing(model):
    async def work(engine):
        branch = begin(engine)
        fresh = await branch.hidden(1, last=4)
        await say(branch, 7)
        await branch.extend("; 6 + 6")
        ids = list(branch.strand.ids)
        found = {}
        for layer in range(-1, LAYERS + 1):
            # First those that the cache holds, then fewer than are unread, then everything.
            for last in (9, 2, 1, len(ids)):
                found[layer, last] = await branch.hidden(layer, last=last)
        return fresh, found, ids, await say(branch, 6)

    fresh, found, ids, said = with_engine(work, model)
    states = forward(model, ids, output_hidden_states=True).hidden_states
    for (layer, last), values in found.items():
        assert (values.dtype, values.shape) == (np.float32, (last, HIDDEN))
        np.testing.assert_allclose(values, states[layer][0, -last:], rtol=2e-5, atol=1e-5)
    prompt = len(encode_prompt(tokenizer(), PROMPT))
    np.testing.assert_allclose(fresh, states[1][0, prompt - 4 : prompt], rtol=2e-5, atol=1e-5)
    assert_said(model, ids + said, 6)


@pytest.mark.parametrize("layer", range(LAYERS + 1))
@pytest.mark.parametrize("batch_size", [4, 1])
def test_steering_is_a_hook_from_the_newest_token_on(model, layer, batch_size):
    # Other rows decode beside it, or take its row so that everything is read again.
    steering = Steering(layer, vector(), strength=0.5)

    async def work(engine):
        branch, plain = begin(engine), begin(engine)
        await say(branch, 4)
        first = len(branch.strand.ids) - 1
        branch.steer(steering)
        beside, _ = await asyncio.gather(say(plain, 12), say(branch, 5))
        await crowd(engine)
        await branch.extend("+ 1")
        scored = await branch.score("5 5")
        states = await branch.hidden(last=4)
        ids = list(branch.strand.ids)
        end = len(ids) - 1
        branch.steer(None)
        await crowd(engine)
        await say(branch, 5)
        return first, end, list(branch.strand.ids), ids, scored, states, plain.strand.ids, beside

    first, end, ids, middle, scored, states, plain, beside = with_engine(work, model, batch_size=batch_size)
    added = torch.from_numpy(vector() * 0.5)
    edit = [(layer, first, end, added)]
    assert_said(model, ids, 5, steered=edit)
    assert_said(model, ids[: first + 6], 5, steered=edit)
    whole = [(layer, first, len(middle) + 2, added)]
    output = forward(model, [*middle, *ids_of("5 5")], steered=whole, output_hidden_states=True)
    logs = output.logits[0].log_softmax(-1)[len(middle) - 1 : -1]
    assert scored == pytest.approx(logs[range(2), ids_of("5 5")].tolist(), abs=1e-4)
    np.testing.assert_allclose(states, output.hidden_states[-1][0, len(middle) - 4 : -2], rtol=2e-5, atol=1e-5)
    # The steered tokens are others than the plain model's, and the row beside it is the plain model's.
    assert ids[first + 1 : first + 6] != plain[first + 1 : first + 6]
    assert_said(model, plain, 12)
    assert len(beside) == 12


def test_a_fork_is_steered_as_its_parent_and_apart_from_it(model):
    # It is read behind the vector, so the fork's first token already shows it.
    steering, other = Steering(1, vector(2)), Steering(2, vector(3))

    async def work(engine):
        branch = begin(engine)
        early = await branch.fork()
        branch.steer(steering)
        fork, released, turned = await branch.fork(), await branch.fork(), await branch.fork()
        released.steer(None)
        turned.steer(other)
        branches = (early, branch, fork, released, turned)
        await asyncio.gather(*(say(one, 8) for one in branches))
        later = await branch.fork(back=5)
        later.steer(None)
        await say(later, 4)
        return [list(one.strand.ids) for one in branches], list(later.strand.ids)

    (early, branch, fork, released, turned), later = with_engine(work, model)
    start = len(encode_prompt(tokenizer(), PROMPT)) - 1
    assert early == released
    assert branch == fork
    assert len({tuple(ids) for ids in (early, branch, turned)}) == 3
    assert_said(model, early, 8)
    assert_said(model, branch, 8, steered=[(1, start, 100, torch.from_numpy(vector(2)))])
    assert_said(model, turned, 8, steered=[(2, start, 100, torch.from_numpy(vector(3)))])
    assert later[: start + 4] == branch[: start + 4]
    assert_said(model, later, 4, steered=[(1, start, start + 3, torch.from_numpy(vector(2)))])


def test_no_strength_is_no_steering(model):
    async def work(engine, steering):
        branch = begin(engine)
        branch.steer(steering)
        await say(branch, 10)
        return branch.strand.ids, branch.strand.steered

    ids, schedule = with_engine(lambda engine: work(engine, Steering(1, vector(), strength=0.0)), model)
    assert (ids, schedule) == with_engine(lambda engine: work(engine, None), model)
    assert_said(model, ids, 10)


def test_schedules_are_over_tokens():
    one, two = Steering(1, vector()), Steering(1, vector())
    schedule = changed(changed(changed((), 3, one), 6, None), 9, two)
    assert schedule == ((3, one), (6, None), (9, two))
    assert [(row, column) for row, column, _ in edits(schedule, 4, 2, 9)] == [(4, 1), (4, 2), (4, 3), (4, 7), (4, 8)]
    assert [edit[2] for edit in edits(schedule, 0, 5, 6)] == [one, two, two]
    # A beginning goes on as the whole would.
    assert cut(schedule, 6) == ((3, one), (5, two))
    assert cut(schedule, 20) == schedule
    assert changed(schedule, 9, None) == ((3, one), (6, None))
    assert changed(schedule, 7, two)[-1] == (7, two)


def test_keeping_everything_changes_nothing(model):
    async def work(engine, evicting):
        branch = begin(engine)
        await say(branch, 5)
        if evicting:
            await branch.evict([range(len(branch.strand.ids))] * LAYERS)
        await say(branch, 8)
        return list(branch.strand.ids)

    assert with_engine(lambda e: work(e, True), model) == with_engine(lambda e: work(e, False), model)


def kept_places(length, drop):
    return [[place for place in range(length) if place not in gone] for gone in drop]


@pytest.mark.parametrize("batch_size", [4, 1])
def test_evicting_is_masking_from_the_newest_token_on(model, batch_size):
    drop = [[0, 3, 4], [1, 2, 9], [5, 6, 7]]
    again = [[0, 2], [1, 3], [0, 1]]

    async def work(engine):
        branch, plain = begin(engine), begin(engine)
        await say(branch, 6)
        before = await branch.fork()
        first = len(branch.strand.ids) - 1
        await branch.evict(kept_places(first + 1, drop))
        await asyncio.gather(say(branch, 5), say(plain, 6))
        await crowd(engine)
        fork = await branch.fork()
        await branch.extend("; 8 =")
        weights = await branch.attention(last=3)
        states = await branch.hidden(last=4)
        await crowd(engine)
        await asyncio.gather(say(branch, 5), say(fork, 5), say(before, 5))
        second = len(fork.strand.ids) - 1
        await fork.evict(kept_places(second + 1 - 3, again))
        scored = await fork.score("5 5")
        await crowd(engine)
        await say(fork, 6)
        lists = [list(one.strand.ids) for one in (branch, fork, before, plain)]
        return first, second, lists, weights, states, scored

    first, second, (ids, fork, before, plain), weights, states, scored = with_engine(work, model, batch_size=batch_size)
    once = [(first, drop)]
    assert_said(model, ids, 5, evicted=once)
    assert_said(model, ids[: first + 6], 5, evicted=once)
    assert_said(model, fork[: second + 1], 5, evicted=once)
    assert_said(model, before, 5)
    assert_said(model, plain, 6)
    # The second eviction counts places among the kept ones.
    gone = [[kept_places(60, drop)[layer][place] for place in again[layer]] for layer in range(LAYERS)]
    twice = [*once, (second, gone)]
    assert_said(model, fork, 6, evicted=twice)
    logs = forward(model, [*fork[: second + 1], *ids_of("5 5")], evicted=twice).logits[0].log_softmax(-1)
    assert scored == pytest.approx(logs[[-3, -2], ids_of("5 5")].tolist(), abs=1e-4)
    output = forward(model, ids[:-5], evicted=once, output_attentions=True, output_hidden_states=True)
    np.testing.assert_allclose(states, output.hidden_states[-1][0, -4:], rtol=2e-5, atol=1e-5)
    assert weights.shape == (LAYERS, 3, len(ids) - 5 - 3)
    for layer, places in enumerate(kept_places(len(ids) - 5, drop)):
        wanted = output.attentions[layer][0].mean(0)[-3:][:, places]
        np.testing.assert_allclose(weights[layer], wanted, rtol=1e-4, atol=1e-6)
    # The mask matters: without it the tokens are others.
    assert ids[first + 1 : first + 6] != before[first + 1 : first + 6]


def test_attention_is_that_of_the_plain_model(model):
    async def work(engine):
        branch = begin(engine)
        await say(branch, 5)
        ids = list(branch.strand.ids)
        found = [await branch.attention(last=last) for last in (1, 6, len(ids))]
        return ids, found, await say(branch, 4), engine.model.config._attn_implementation

    ids, found, said, attention = with_engine(work, model)
    wanted = torch.stack([layer[0].mean(0) for layer in forward(model, ids, output_attentions=True).attentions])
    for weights, last in zip(found, (1, 6, len(ids)), strict=True):
        assert (weights.shape, weights.dtype) == ((LAYERS, last, len(ids)), np.float32)
        np.testing.assert_allclose(weights, wanted[:, -last:], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    assert attention == "sdpa"
    assert_said(model, ids + said, 4)


def test_many_edits_under_pressure_say_what_they_say_with_room(model):
    async def work(engine):
        trunk = begin(engine)
        await say(trunk, 5)
        branches = []
        for number in range(4):
            fork = await trunk.fork()
            if number % 2:
                fork.steer(Steering(number, vector(number)))
            if number > 1:
                await fork.evict(kept_places(len(fork.strand.ids), [[number], [0], [number + 1]]))
            branches += [fork, await fork.fork()]
        for _ in range(3):
            await asyncio.gather(*(say(branch, 3) for branch in branches))
        return [list(branch.strand.ids) for branch in (trunk, *branches)]

    wide = with_engine(work, model, batch_size=16)
    assert with_engine(work, model, batch_size=2) == wide
    assert with_engine(work, model, batch_size=1, prompt_cache=0) == wide
    assert wide[1::2] == wide[2::2]
    assert len({tuple(ids) for ids in wide}) == 5


def test_what_cannot_be_is_refused(model):
    async def work(engine):
        branch = begin(engine)
        await say(branch, 4)
        length = len(branch.strand.ids)
        for steering in (Steering(LAYERS + 1, vector()), Steering(-1, vector()), Steering(0, np.zeros(3))):
            with pytest.raises(RecipeError, match="steer: "):
                branch.steer(steering)
        for call in (
            branch.hidden(LAYERS + 1),
            branch.hidden(-LAYERS - 2),
            branch.hidden(last=0),
            branch.hidden(last=length + 1),
            branch.attention(last=length + 1),
        ):
            with pytest.raises(RecipeError, match=r"layer|last="):
                await call
        everything = list(range(length))
        for keep in (
            [everything] * (LAYERS - 1),
            [everything, everything, everything[1:]],
            [everything[:-1]] * LAYERS,
            [[1, 0, length - 1]] * LAYERS,
            [[-1, length - 1]] * LAYERS,
            [[length - 1, length]] * LAYERS,
            [[]] * LAYERS,
        ):
            with pytest.raises(RecipeError, match="evict: "):
                await branch.evict(keep)
        await branch.evict([everything[2:3] + everything[-2:]] * LAYERS)
        assert (await branch.hidden(last=2)).shape == (2, HIDDEN)
        with pytest.raises(RecipeError, match="the 2 newest tokens"):
            await branch.hidden(last=3)
        with pytest.raises(LaunchError, match="evicted since"):
            await branch.fork(back=1)
        await say(branch, 2)
        assert (await (await branch.fork(back=1)).hidden(last=3)).shape == (3, HIDDEN)
        task = asyncio.create_task(say(branch, 20))
        await asyncio.sleep(0)
        for call in (branch.score("1"), branch.hidden(), branch.attention(last=1), branch.evict([[0]] * LAYERS)):
            with pytest.raises(LaunchError, match="is generating"):
                await call
        with pytest.raises(LaunchError, match="is generating"):
            branch.steer(None)
        await task

    with_engine(work, model)


def test_states_that_are_not_finite_are_an_error_and_spoil_nothing(model):
    with torch.no_grad():
        model.get_input_embeddings().weight[ids_of("59")[0]] = float("nan")

    async def work(engine):
        branch = begin(engine)
        with pytest.raises(ModelError, match="not finite"):
            await branch.score("59 3")
        fork = await branch.fork()
        await fork.extend("59")
        for call in (fork.hidden(last=4), fork.hidden(), fork.attention(last=2)):
            with pytest.raises(ModelError, match="not finite"):
                await call
        return (await branch.score("3"))[0]

    # The embedding is the output layer's too where it is tied; it is not, so other logits are whole.
    assert np.isfinite(with_engine(work, model))


def test_a_window_allows_no_edits_of_the_cache():
    windowed = _model("mistral", sliding_window=6)

    async def work(engine):
        assert Capability.KV_EDIT not in engine.capabilities
        assert {Capability.STEERING, Capability.SCORE, Capability.HIDDEN_STATES} <= engine.capabilities
        branch = begin(engine)
        for call in (branch.attention(last=1), branch.evict([[0]] * LAYERS)):
            with pytest.raises(LaunchError, match="full attention"):
                await call
        await say(branch, 9)
        ids = list(branch.strand.ids)
        return ids, await branch.hidden(2, last=len(ids)), await branch.score("4 4")

    ids, states, scored = with_engine(work, windowed)
    output = forward(windowed, [*ids, *ids_of("4 4")], output_hidden_states=True)
    np.testing.assert_allclose(states, output.hidden_states[2][0, :-2], rtol=2e-5, atol=1e-5)
    logs = output.logits[0].log_softmax(-1)[-3:-1]
    assert scored == pytest.approx(logs[range(2), ids_of("4 4")].tolist(), abs=1e-4)


def test_a_fork_from_before_the_steered_token_is_steered_from_its_own_newest(model):
    async def work(engine):
        branch = begin(engine)
        await say(branch, 6)
        branch.steer(Steering(1, vector(2)))
        fork = await branch.fork(back=2)  # its newest token was read before, without the vector
        first = len(fork.strand.ids) - 1
        await fork.extend("+ 1")
        await say(fork, 4)
        return first, list(fork.strand.ids)

    first, ids = with_engine(work, model)
    assert_said(model, ids, 4, steered=[(1, first, 100, torch.from_numpy(vector(2)))])


def test_steering_reads_the_newest_token_again_where_it_was_read(model):
    async def work(engine):
        branch = begin(engine)
        await say(branch, 3)
        await branch.hidden()
        branch.steer(Steering(1, vector(2)))
        first = len(branch.strand.ids) - 1
        await branch.extend("+ 1")
        await say(branch, 4)
        return first, list(branch.strand.ids)

    first, ids = with_engine(work, model)
    assert_said(model, ids, 4, steered=[(1, first, 100, torch.from_numpy(vector(2)))])
