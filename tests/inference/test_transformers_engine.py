"""The in-process engine: the tokens of `generate`, forks that read nothing again, exact accounts, clean ends."""

from __future__ import annotations

import asyncio
import copy
from functools import cache

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from laconic.inference.engine import Capability, Engine, Sampling
from laconic.inference.engines.kv import KVRows
from laconic.inference.engines.loading import encode_prompt, load_model
from laconic.inference.engines.pieces import Pieces, TextSoFar
from laconic.inference.engines.strands import Seats, Strand
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies.base import Ask, run_policy
from laconic.inference.policies.plain import Plain
from laconic.inference.trace import TraceReader
from laconic.rewards.errors import DataError, LaunchError, ModelError, RecipeError
from laconic.training.scratch import bpe_tokenizer, symbolic_tokenizer

SYMBOLS = [str(number) for number in range(60)] + list("+-*/=;")
PROMPTS = [" ".join(str((7 * i + 3 * j) % 60) for j in range(1 + (5 * i) % 17)) for i in range(12)]
GREEDY = Sampling(temperature=0)


@cache
def tokenizer():
    return symbolic_tokenizer(SYMBOLS)


@cache
def _model(architecture, tokens=tokenizer, **settings):
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokens()),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokens().eos_token_id,
        pad_token_id=tokens().pad_token_id,
        **settings,
    )
    torch.manual_seed(0)
    # Double precision: with rounding out of the way, equal means equal.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    with torch.no_grad():
        for weight in model.parameters():
            # Fresh weights give nearly equal logits, so that rounding would decide what is most likely.
            weight.mul_(5.0 if weight.ndim > 1 else 1.0)
    return model


def model(architecture="qwen3", **settings):
    return copy.deepcopy(_model(architecture, **settings))


@pytest.fixture(params=["qwen3", "llama"])
def each_model(request):
    return model(request.param)


def with_engine(work, chosen=None, tokens=None, **options):
    """Run a coroutine function on an engine of its own."""

    async def run():
        engine = TransformersEngine(chosen or model(), tokens or tokenizer(), **options)
        try:
            return await work(engine)
        finally:
            await engine.aclose()

    return asyncio.run(run())


def prompt_ids(prompt):
    return encode_prompt(tokenizer(), prompt)


def expected_greedy(chosen, prompt, max_tokens):
    ids = torch.tensor([prompt_ids(prompt)])
    out = chosen.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens)
    return out[0, ids.shape[1] :].tolist()


def ids_of(chunk):
    return [token.id for token in chunk.tokens]


async def complete(engine, prompt, *, ledger=None, seed=0, sampling=GREEDY, **options):
    async with engine.open(prompt, ledger=ledger or Ledger(), sampling=sampling, seed=seed) as branch:
        return await branch.generate(**{"max_tokens": 40, **options})


class Reads:
    """Counts what a model reads: its forward passes and the tokens in them, padding included."""

    def __init__(self, engine):
        self.passes, self.tokens = 0, 0
        engine.decoder.passes.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs):
        self.passes += 1
        self.tokens += kwargs["input_ids"].numel()


def test_greedy_equals_generate_for_rows_of_different_lengths(each_model):
    chosen = each_model
    common = torch.tensor([t for p in PROMPTS for t in expected_greedy(chosen, p, 40)]).bincount().argsort()[-2:]
    chosen.generation_config.eos_token_id = [tokenizer().eos_token_id, *common.tolist()]

    async def work(engine):
        reads = Reads(engine)
        chunks = await asyncio.gather(*(complete(engine, prompt) for prompt in PROMPTS))
        return chunks, engine.ticks, reads.passes

    chunks, ticks, passes = with_engine(work, chosen)
    reader = TraceReader(tokenizer(), eos_ids=chosen.generation_config.eos_token_id)
    for prompt, chunk in zip(PROMPTS, chunks, strict=True):
        assert ids_of(chunk) == expected_greedy(chosen, prompt, 40)
        assert chunk.text == reader.read(ids_of(chunk)).text
        assert chunk.ended == (ids_of(chunk)[-1] in reader.eos_ids)
        assert chunk.ended or len(chunk.tokens) == 40
    lengths = [len(chunk.tokens) for chunk in chunks]
    assert len(set(lengths)) > 3, "all completions are equally long: rows never left the batch one by one"
    assert ticks == max(lengths)
    # Prompts of very different lengths are read in a few passes; then one pass per tick whatever the lengths.
    assert ticks - 1 < passes <= ticks - 1 + 4


@pytest.mark.parametrize("batch_size", [1, 3, 12])
def test_more_branches_than_rows_wait_for_their_turn(batch_size):
    async def work(engine):
        return await asyncio.gather(*(complete(engine, prompt) for prompt in PROMPTS))

    for prompt, chunk in zip(PROMPTS, with_engine(work, batch_size=batch_size), strict=True):
        assert ids_of(chunk) == expected_greedy(model(), prompt, 40)


def test_the_row_that_a_fork_moved_out_of_is_free_for_others():
    seats = Seats(KVRows())
    seats.limit, like = 2, [(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))]
    parent, idle, new = (Strand([1] * 5, (1,)) for _ in range(3))
    for waits in (parent, idle):
        seats.seat([waits], 5, like=like)
        waits.cached = 5
    # The fork begins where its parent had three tokens, so it cannot write into the row that they share.
    fork = Strand([1] * 3, (1,))
    seats.attach(fork, parent, 3)
    seats.seat([fork, new], 5, like=like)
    assert {fork.row.index, new.row.index} == {0, 1}
    assert (fork.cached, parent.row, idle.row) == (3, None, None)


def test_what_has_begun_goes_on_before_new_branches_begin():
    async def work(engine):
        order = []

        async def twice(name):
            async with engine.open(PROMPTS[0], ledger=Ledger(), sampling=GREEDY) as branch:
                for part in "ab":
                    await branch.generate(max_tokens=3, min_tokens=3)
                    order.append(name + part)

        await asyncio.gather(*(twice(name) for name in "123"))
        assert engine.slots == 1
        return order

    assert with_engine(work, batch_size=1) == ["1a", "1b", "2a", "2b", "3a", "3b"]


def test_a_fork_goes_on_from_what_was_read(each_model):
    chosen = each_model

    async def work(engine):
        ledger = Ledger()
        reads = Reads(engine)
        branch = engine.open(PROMPTS[3], ledger=ledger, sampling=GREEDY)
        first = await branch.generate(max_tokens=9, min_tokens=9)
        read_before = reads.tokens
        fork = await branch.fork()
        await fork.extend("= 5 +")
        # Both decode at once: the fork may not disturb what its parent holds, nor the other way round.
        probe, rest = await asyncio.gather(
            fork.generate(max_tokens=8, min_tokens=8, role="probe"), branch.generate(max_tokens=8, min_tokens=8)
        )
        # One unread token each and three forced ones; then one per token, but the last, which nobody read yet.
        assert reads.tokens - read_before == 1 + 3 + 7 + 1 + 7
        states = [await fork.hidden(), await branch.hidden()]
        return first, probe, rest, states, ledger, branch.text, fork.text

    model_again = copy.deepcopy(chosen)
    first, probe, rest, states, ledger, text, fork_text = with_engine(work, chosen)
    forced = tokenizer()("= 5 +", add_special_tokens=False)["input_ids"]
    prompt = prompt_ids(PROMPTS[3])
    trunk = prompt + ids_of(first)
    for state, ids in zip(states, (trunk + forced + ids_of(probe), trunk + ids_of(rest)), strict=True):
        with torch.no_grad():
            output = model_again(input_ids=torch.tensor([ids]), output_hidden_states=True)
        assert (state.shape, state.dtype) == ((1, 64), np.float32)
        np.testing.assert_allclose(state[0], output.hidden_states[-1][0, -1], rtol=1e-5, atol=1e-6)
        # Every token is the most likely one of a full recomputation, end-of-sequence left out.
        logits = output.logits[0]
        logits[:, tokenizer().eos_token_id] = float("-inf")
        tail = len(ids) - len(trunk) - (len(forced) if ids[len(trunk) : len(trunk) + 3] == forced else 0)
        assert ids[-tail:] == logits[-tail - 1 : -1].argmax(-1).tolist()
    assert ledger.generated == 9 + 8 + 8
    assert (ledger.prompt, ledger.forced, ledger.cached) == (len(prompt), 3, len(trunk) - 1)
    assert text == first.text + rest.text
    assert fork_text == first.text + "= 5 +" + probe.text


def test_a_probe_while_its_parent_waits_copies_nothing_and_changes_nothing(monkeypatch):
    async def work(engine, probing):
        branch = engine.open(PROMPTS[5], ledger=Ledger(), sampling=Sampling(), seed=4)
        for _ in range(4):
            await branch.generate(max_tokens=8, min_tokens=8)
            if probing:
                async with await branch.fork() as probe:
                    await probe.extend("; 7 =")
                    await probe.generate(max_tokens=5, min_tokens=5, role="probe")
        return list(branch.strand.ids)

    plain = with_engine(lambda engine: work(engine, False))
    monkeypatch.setattr("laconic.inference.engines.kv.KVRows.copy", lambda *_: pytest.fail("a row was copied"))
    assert with_engine(lambda engine: work(engine, True)) == plain


def test_many_forks_of_forks_with_too_few_rows_say_what_they_say_with_many():
    async def work(engine):
        trunk = engine.open(PROMPTS[2], ledger=Ledger(), sampling=Sampling(temperature=1.2), seed=9)
        await trunk.generate(max_tokens=6, min_tokens=6)
        level = [trunk]
        for _ in range(3):
            level = [fork for branch in level for fork in (await branch.fork(), await branch.fork())]
            await asyncio.gather(*(branch.generate(max_tokens=5, min_tokens=5) for branch in level))
        return [tuple(branch.strand.ids) for branch in level]

    many = with_engine(work, batch_size=64)
    assert len(set(many)) == 8, "forks draw the same numbers"
    assert with_engine(work, batch_size=64) == many
    assert with_engine(work, batch_size=2) == many
    assert with_engine(work, batch_size=1, prompt_cache=0) == many


def test_forks_of_forks_are_accounted_for_what_they_share():
    async def work(engine):
        ledger = Ledger()
        branch = engine.open(PROMPTS[2], ledger=ledger, sampling=GREEDY)
        unread = await branch.fork()
        await branch.generate(max_tokens=6, min_tokens=6)
        length = len(branch.strand.ids)
        child = await branch.fork()
        grandchild = await child.fork()
        reads = Reads(engine)
        await asyncio.gather(*(one.generate(max_tokens=1, min_tokens=1) for one in (child, grandchild, unread)))
        # The newest token of the trunk is read by each; what follows the prompt is known.
        assert reads.tokens == 2
        assert (ledger.prompt, ledger.cached) == (length - 6, 2 * (length - 1) + length - 6)

    with_engine(work)


def test_a_seed_gives_the_same_alone_and_in_a_crowd():
    sampling = Sampling(temperature=1.3, top_p=0.9)

    async def crowd(engine):
        others = [
            complete(engine, prompt, seed=seed, sampling=Sampling(temperature=0.1 * seed, top_k=seed + 1))
            for seed, prompt in enumerate(PROMPTS)
        ]
        mine = [complete(engine, PROMPTS[4], seed=7, sampling=sampling), complete(engine, PROMPTS[4], seed=8)]
        return (await asyncio.gather(*others, *mine, complete(engine, PROMPTS[4], seed=8, sampling=sampling)))[-3:]

    def alone(seed):
        return ids_of(with_engine(lambda engine: complete(engine, PROMPTS[4], seed=seed, sampling=sampling)))

    seven, greedy, eight = (ids_of(chunk) for chunk in with_engine(crowd))
    assert (alone(7), alone(8)) == (seven, eight)
    assert seven != eight
    assert greedy == expected_greedy(model(), PROMPTS[4], 40)


def test_a_prompt_is_read_once_for_all_its_branches():
    length = len(prompt_ids(PROMPTS[6]))

    async def work(engine):
        reads, ledger = Reads(engine), Ledger()
        await asyncio.gather(
            *(
                complete(engine, PROMPTS[6], ledger=ledger, seed=seed, sampling=Sampling(), max_tokens=6, min_tokens=6)
                for seed in range(8)
            )
        )
        # The first tokens follow from the prompt's reading; the last are never read.
        assert reads.tokens == length + 8 * 5
        assert reads.passes == 1 + 5
        later = await complete(engine, PROMPTS[6], ledger=ledger, max_tokens=1)
        assert reads.tokens == length + 8 * 5
        assert ids_of(later) == expected_greedy(model(), PROMPTS[6], 1)
        assert (ledger.prompt, ledger.cached) == (9 * length, 8 * length)

    with_engine(work)


def test_what_does_not_fit_the_prompt_cache_is_read_again():
    length = len(prompt_ids(PROMPTS[6]))

    async def work(engine):
        reads, ledger = Reads(engine), Ledger()
        for _ in range(2):
            await complete(engine, PROMPTS[6], ledger=ledger, max_tokens=1)
        return reads.tokens, ledger.cached

    assert with_engine(work, prompt_cache=length) == (length, length)
    assert with_engine(work, prompt_cache=length - 1) == (2 * length, 0)


def test_a_cancelled_branch_is_out_of_the_batch_at_the_next_tick():
    async def work(engine):
        ledger, sizes = Ledger(), []
        engine.decoder.passes.model.register_forward_pre_hook(
            lambda module, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        branches = [engine.open(PROMPTS[1], ledger=ledger, sampling=Sampling(), seed=seed) for seed in range(4)]
        seen = asyncio.Event()
        tokens = []

        def watch(token):
            tokens.append(token)
            if len(tokens) == 5:
                seen.set()
            return False

        tasks = [
            asyncio.create_task(branch.generate(max_tokens=60, min_tokens=60, hook=watch if at == 0 else None))
            for at, branch in enumerate(branches)
        ]
        await seen.wait()
        tasks[2].cancel()
        await asyncio.gather(tasks[2], return_exceptions=True)
        at_cancel, ticks = len(sizes), engine.ticks
        await branches[2].close("discarded")
        await asyncio.gather(*tasks[:2], tasks[3])
        # One tick may be under way.
        assert {rows for rows, _ in sizes[at_cancel + 1 :]} == {3}
        assert {rows for rows, _ in sizes[1:at_cancel]} == {4}
        kept = [branch for at, branch in enumerate(branches) if at != 2]
        for branch in kept:
            await branch.close("kept")
        lost = ledger.tokens(fate="discarded")
        assert lost == len(branches[2].strand.ids) - len(branches[2].strand.prompt)
        assert 5 <= lost <= ticks + 1
        assert ledger.tokens(fate="kept") == 3 * 60
        # Rows are given back.
        assert (await complete(engine, PROMPTS[1], max_tokens=1)).tokens
        assert not [row for row in engine.decoder.seats._rows.values() if not row.strands]

    with_engine(work)


def test_a_cancelled_branch_can_go_on_where_it_was():
    async def work(engine, cancel):
        branch = engine.open(PROMPTS[1], ledger=Ledger(), sampling=Sampling(), seed=3)
        if cancel:
            task = asyncio.create_task(branch.generate(max_tokens=30, min_tokens=30))
            while not branch.strand.ids[len(branch.strand.prompt) :]:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        begun = len(branch.strand.ids) - len(branch.strand.prompt)
        await branch.generate(max_tokens=30 - begun, min_tokens=30 - begun)
        return branch.strand.ids, branch.text

    assert with_engine(lambda engine: work(engine, True)) == with_engine(lambda engine: work(engine, False))


def test_the_ledger_holds_what_was_emitted():
    async def work(engine):
        ledger, emitted, step = Ledger(), [], engine.decoder.step

        def watched(jobs, coming):
            step(jobs, coming)
            emitted.extend(job.token for job in jobs)

        engine.decoder.step = watched

        async def one(seed):
            branch = engine.open(PROMPTS[seed], ledger=ledger, sampling=Sampling(temperature=1.5), seed=seed)
            for role in ("think", "probe", "answer"):
                await branch.generate(max_tokens=4 + seed, role=role)
                await branch.extend("+ +")
            await branch.close("voted" if seed % 2 else "kept")

        await asyncio.gather(*(one(seed) for seed in range(6)))
        return ledger, emitted

    ledger, emitted = with_engine(work)
    assert ledger.generated == len(emitted) > 3 * 6
    assert ledger.tokens(fate="discarded") == 0
    assert ledger.forced == 6 * 3 * 2
    assert ledger.prompt == sum(len(prompt_ids(PROMPTS[seed])) for seed in range(6))
    assert ledger.exact


TEXT = ["The answer is 42. " * 3, "<think> naïve — 数字 🙂 </think>", "aé🙂b数c", "zzzzzzz zz z"]


@cache
def bytes_tokenizer():
    return bpe_tokenizer(TEXT, vocab_size=300)


def scripted(ids, tokens=bytes_tokenizer):
    """A model that says these tokens one after the other, whatever it is asked: logits by position."""
    chosen = model("qwen3", tokens=tokens)
    start = len(encode_prompt(tokens(), "q"))

    def say(module, args, kwargs, output):
        places = kwargs.get("position_ids")
        width = kwargs["input_ids"].shape[1]
        places = torch.arange(width)[None] if places is None else places
        keep = kwargs["logits_to_keep"]
        chosen_places = places[:, keep] if isinstance(keep, torch.Tensor) else places[:, -keep:]
        logits = torch.zeros(*output.logits.shape, dtype=torch.float64)
        for row in range(logits.shape[0]):
            for column in range(logits.shape[1]):
                at = int(chosen_places[min(row, len(chosen_places) - 1), column]) - start + 1
                logits[row, column, ids[at] if 0 <= at < len(ids) else tokens().eos_token_id] = 50.0
        output.logits = logits
        return output

    chosen.register_forward_hook(say, with_kwargs=True)
    return chosen


def spell(text):
    return bytes_tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_a_stop_string_that_straddles_tokens_is_cut_from_text_and_tokens():
    said = spell("The answer is 42.")

    async def work(engine, keep):
        ledger = Ledger()
        branch = engine.open("q", ledger=ledger, sampling=GREEDY)
        chunk = await branch.generate(max_tokens=20, stop=["nope", "nswer i"], keep_stop=keep)
        assert branch.text == chunk.text
        tail = branch.strand.ids[len(branch.strand.prompt) :]
        fork = await branch.fork()
        await fork.extend("b")
        again = await fork.hidden()
        return chunk, tail, ledger.generated, again, list(fork.strand.ids)

    for keep, text in ((False, "The a"), (True, "The answer i")):
        chosen = scripted(said)
        chunk, tail, generated, state, ids = with_engine(
            lambda engine, keep=keep: work(engine, keep), chosen, bytes_tokenizer()
        )
        assert (chunk.text, chunk.reason, chunk.stop) == (text, "stop", "nswer i")
        assert bytes_tokenizer().decode(tail) == text
        assert tail[0] == said[0], "the model's own tokens were encoded again"
        assert generated == len(chunk.tokens) < len(said)
        assert "The a" not in {"".join(token.text for token in chunk.tokens[:end]) for end in range(len(said))}
        with torch.no_grad():
            full = chosen.model(torch.tensor([ids])).last_hidden_state[0, -1]
        np.testing.assert_allclose(state[0], full, rtol=1e-5, atol=1e-6)


def test_before_the_least_number_of_tokens_nothing_ends_it():
    said = spell("xSTOySTOz")

    async def work(engine, **options):
        branch = engine.open("q", ledger=Ledger(), sampling=GREEDY)
        return await branch.generate(max_tokens=40, stop=["STO"], **options)

    assert with_engine(work, scripted(said), bytes_tokenizer()).text == "x"
    late = with_engine(lambda engine: work(engine, min_tokens=5), scripted(said), bytes_tokenizer())
    assert late.text == "xSTOy"

    async def lengths(engine):
        plain = await complete(engine, "q")
        longer = await complete(engine, "q", min_tokens=len(said) + 1)
        return len(plain.tokens), len(longer.tokens), [t.id for t in longer.tokens]

    plain, longer, ids = with_engine(lengths, scripted(said), bytes_tokenizer())
    assert plain == len(said) + 1
    assert longer == len(said) + 2
    assert bytes_tokenizer().eos_token_id not in ids[:-1]


def test_the_text_of_pieces_is_the_text_of_the_whole():
    eos = bytes_tokenizer().eos_token_id
    for text in TEXT:
        so_far = TextSoFar(Pieces(bytes_tokenizer(), [eos]))
        ids = [*spell(text), eos]
        pieces = [so_far.add(token) for token in ids]
        assert "".join(pieces) == text
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    so_far = TextSoFar(Pieces(bytes_tokenizer(), []))
    smile = spell("🚀")
    assert len(smile) > 1
    assert so_far.add(smile[0]) == ""
    fork = so_far.copy()
    assert "".join(fork.add(token) for token in smile[1:]) == "🚀"
    assert so_far.interrupt() == "\N{REPLACEMENT CHARACTER}"


def test_streams_hold_back_what_may_be_a_stop_string():
    said = spell("abSTxSTO")

    async def work(engine):
        branch = engine.open("q", ledger=Ledger(), sampling=GREEDY)
        return [chunk async for chunk in branch.stream(max_tokens=20, stop=["STO"])], branch.text

    pieces, text = with_engine(work, scripted(said), bytes_tokenizer())
    texts = [piece.text for piece in pieces]
    assert texts[-1] == text == "abSTx"
    assert all(text.startswith(piece) for piece in texts)
    assert texts == sorted(texts, key=len)
    assert "abST" not in texts
    assert len(set(texts)) > 2
    assert pieces[-1].reason == "stop"


def test_leaving_a_stream_early_frees_the_branch():
    async def work(engine):
        ledger = Ledger()
        branch = engine.open(PROMPTS[0], ledger=ledger, sampling=Sampling())
        stream = branch.stream(max_tokens=200, min_tokens=200)
        async for piece in stream:
            if len(piece.tokens) >= 3:
                break
        await stream.aclose()
        count = ledger.generated
        await branch.close("discarded")
        await complete(engine, PROMPTS[1], max_tokens=2)
        assert count == ledger.generated == len(branch.strand.ids) - len(branch.strand.prompt)
        assert 3 <= count < 10

    with_engine(work)


def test_hooks_biases_and_signals():
    async def work(engine):
        seen = []
        free = await complete(engine, PROMPTS[3], max_tokens=8, min_tokens=8, top_logprobs=3)
        stopped = await complete(engine, PROMPTS[3], max_tokens=8, hook=lambda t: seen.append(t) or len(seen) == 3)
        first = free.tokens[0].id
        banned = await complete(engine, PROMPTS[3], max_tokens=8, min_tokens=8, bias={first: -1e9, 20: 1e4})
        return free, stopped, seen, banned

    free, stopped, seen, banned = with_engine(work)
    assert (len(stopped.tokens), stopped.reason) == (3, "hook")
    assert tuple(seen) == stopped.tokens
    assert set(ids_of(banned)) == {20}
    prompt = prompt_ids(PROMPTS[3])
    with torch.no_grad():
        logits = model()(torch.tensor([prompt + ids_of(free)])).logits[0, len(prompt) - 1 : -1]
    logits[:, tokenizer().eos_token_id] = float("-inf")
    logs = logits.log_softmax(-1)
    for token, row in zip(free.tokens, logs, strict=True):
        assert token.logprob == pytest.approx(row[token.id].item(), abs=1e-5)
        assert token.top == pytest.approx(row.topk(3).values.tolist(), abs=1e-5)
        assert token.entropy == pytest.approx(torch.distributions.Categorical(logits=row).entropy().item(), abs=1e-5)
    assert free.tokens[0].top[0] == free.tokens[0].logprob


def test_an_engine_without_signals_says_so():
    async def work(engine):
        assert Capability.LOGPROBS not in engine.capabilities
        chunk = await complete(engine, PROMPTS[0], max_tokens=2)
        with pytest.raises(LaunchError, match="no log-probabilities"):
            _ = chunk.logprobs
        with pytest.raises(LaunchError, match="signals=True"):
            await complete(engine, PROMPTS[0], max_tokens=2, top_logprobs=1)

    with_engine(work, signals=False)


def test_errors_are_raised_in_the_branch_that_caused_them():
    broken = model()
    with torch.no_grad():
        broken.get_input_embeddings().weight[tokenizer().convert_tokens_to_ids("59")] = float("nan")

    async def work(engine):
        ledger = Ledger()

        def fail(token):
            raise ZeroDivisionError

        jobs = [
            complete(engine, PROMPTS[1], ledger=ledger, max_tokens=10, min_tokens=10, bias={64: -1e9, 59 + 7: -1e9}),
            complete(engine, "3 59 4", ledger=ledger),
            complete(engine, PROMPTS[2], ledger=ledger, max_tokens=250),
            complete(engine, PROMPTS[3], ledger=ledger, hook=fail),
            complete(engine, PROMPTS[3], ledger=ledger, bias={len(tokenizer()): 1.0}),
            complete(engine, PROMPTS[3], ledger=ledger, max_tokens=0),
        ]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        # The row of the broken branch is clean when the next one gets it.
        after = await asyncio.gather(*(complete(engine, p, max_tokens=1) for p in (PROMPTS[1], PROMPTS[1])))
        assert all(chunk.tokens for chunk in after)
        return results

    fine, nan, long, hook, bias, none = with_engine(work, broken)
    assert len(fine.tokens) == 10
    assert isinstance(nan, ModelError)
    assert "not finite" in str(nan)
    assert isinstance(long, DataError)
    assert "exceed the model's 256 positions" in str(long)
    assert isinstance(hook, ZeroDivisionError)
    assert isinstance(bias, RecipeError)
    assert isinstance(none, RecipeError)


def test_a_row_that_held_nan_does_not_spoil_the_next_branch():
    chosen = model()
    with torch.no_grad():
        chosen.get_input_embeddings().weight[tokenizer().convert_tokens_to_ids("59")] = float("nan")

    async def work(engine):
        long = " ".join(["3"] * 40 + ["59"])
        branch = engine.open(long, ledger=Ledger(), sampling=GREEDY)
        with pytest.raises(ModelError, match="not finite"):
            await branch.generate(max_tokens=5)
        await branch.close("discarded")
        lone, wide = await asyncio.gather(
            complete(engine, "3", max_tokens=3, bias={59 + 7: -1e9}),
            complete(engine, " ".join(["4"] * 60), max_tokens=3, bias={59 + 7: -1e9}),
        )
        async with engine.open(long, ledger=Ledger()) as branch:
            with pytest.raises(ModelError, match="not finite"):
                await branch.hidden()
        return lone, wide

    lone, wide = with_engine(work, chosen, batch_size=2)
    assert len(lone.tokens) >= 1
    assert len(wide.tokens) >= 1


def test_a_failing_model_fails_the_waiting_and_the_engine_goes_on():
    chosen = model()
    failing = [False]

    def fail(module, args):
        if failing[0]:
            raise torch.OutOfMemoryError("out of memory")

    chosen.model.register_forward_pre_hook(fail)

    async def work(engine):
        failing[0] = True
        results = await asyncio.gather(*(complete(engine, p) for p in PROMPTS[:3]), return_exceptions=True)
        failing[0] = False
        return results, await complete(engine, PROMPTS[0])

    results, after = with_engine(work, chosen)
    assert [type(result) for result in results] == [torch.OutOfMemoryError] * 3
    assert ids_of(after) == expected_greedy(model(), PROMPTS[0], 40)


def test_closed_and_busy_branches_refuse():
    async def work(engine):
        branch = engine.open(PROMPTS[0], ledger=Ledger(), sampling=GREEDY)
        task = asyncio.create_task(branch.generate(max_tokens=50, min_tokens=50))
        while engine.ticks < 3:
            await asyncio.sleep(0)
        with pytest.raises(LaunchError, match="is generating"):
            await branch.extend("5")
        with pytest.raises(LaunchError, match="is generating"):
            await branch.generate(max_tokens=1)
        before = await branch.fork()
        assert before.text == ""
        assert before.strand.ids == list(branch.strand.prompt)
        await branch.close("discarded")
        with pytest.raises(LaunchError, match="closed while it generated"):
            await task
        for call in (branch.extend("5"), branch.fork(), branch.generate(max_tokens=1)):
            with pytest.raises(LaunchError, match="is closed"):
                await call
        return ids_of(await before.generate(max_tokens=20))

    assert with_engine(work) == expected_greedy(model(), PROMPTS[0], 20)


@pytest.mark.parametrize(("architecture", "window"), [("qwen2", 6), ("mistral", 6), ("gemma2", 6)])
def test_sliding_windows_slide(architecture, window):
    settings = {"sliding_window": window}
    if architecture == "qwen2":
        settings |= {"use_sliding_window": True, "max_window_layers": 1}
    if architecture == "gemma2":
        settings |= {"head_dim": 16, "attn_logit_softcapping": None}
    chosen = model(architecture, **settings)

    async def work(engine):
        return await asyncio.gather(*(complete(engine, prompt, max_tokens=20) for prompt in PROMPTS))

    for prompt, chunk in zip(PROMPTS, with_engine(work, chosen), strict=True):
        assert ids_of(chunk) == expected_greedy(chosen, prompt, 20)


def test_eager_attention_gives_the_same():
    chosen = model()
    chosen.set_attn_implementation("eager")

    async def work(engine):
        branch = engine.open(PROMPTS[3], ledger=Ledger(), sampling=GREEDY)
        await branch.extend("5 + 3 =")
        return await asyncio.gather(branch.generate(max_tokens=9), complete(engine, PROMPTS[4]))

    forced, plain = with_engine(work, chosen)
    same, again = with_engine(work)
    assert (ids_of(forced), ids_of(plain)) == (ids_of(same), ids_of(again))


def test_an_engine_serves_one_event_loop_after_the_other_and_conversations():
    engine: Engine = TransformersEngine(model(), tokenizer())
    first = asyncio.run(complete(engine, PROMPTS[0]))
    talk = [{"role": "user", "content": PROMPTS[0]}]
    assert asyncio.run(complete(engine, talk)).text == first.text
    asyncio.run(engine.aclose())


def test_closing_the_engine_ends_what_waits():
    async def work(engine):
        branch = engine.open(PROMPTS[0], ledger=Ledger())
        task = asyncio.create_task(branch.generate(max_tokens=200, min_tokens=200))
        while engine.ticks < 2:
            await asyncio.sleep(0)
        assert engine.decoder.kv.nbytes > 0
        await engine.aclose()
        assert engine.decoder.kv.nbytes == 0
        with pytest.raises(LaunchError, match="engine was closed"):
            await task
        await branch.close("discarded")

    with_engine(work)


def test_attention_without_masks_is_refused():
    chosen = model()
    chosen.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="flash_attention_2") as caught:
        TransformersEngine(chosen, tokenizer())
    assert "sdpa" in caught.value.cure


def test_a_policy_runs_on_it():
    async def work(engine):
        return await run_policy(Plain(), Ask(engine, PROMPTS[0], Ledger(), sampling=Sampling(0.0, max_tokens=30)))

    answer = with_engine(work)
    assert answer.ledger.generated == len(expected_greedy(model(), PROMPTS[0], 30))


def test_adapters_load_folded_into_their_base(tmp_path):
    from peft import LoraConfig, get_peft_model

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model().save_pretrained(base)
    tokenizer().save_pretrained(base)
    loaded, _ = load_model(base, device="cpu")
    tuned = get_peft_model(loaded, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    tuned.save_pretrained(adapter)
    ids = torch.tensor([prompt_ids(PROMPTS[3])])
    with torch.no_grad():
        expected = tuned.eval()(ids).logits
    merged, tokens = load_model(adapter, device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, expected)
        assert not torch.allclose(expected, load_model(base, device="cpu")[0](ids).logits)
    assert tokens.get_vocab() == tokenizer().get_vocab()
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="without weights"):
        load_model(adapter)
