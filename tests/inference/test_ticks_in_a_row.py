"""Several ticks in a row say what single ones say, and nothing is left of what was too much."""

import asyncio

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from laconic.inference.engine import Sampling
from laconic.inference.engines.decode_loop import Job
from laconic.inference.engines.draw import NumbersAhead, random_numbers
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.ledger import Ledger
from laconic.rewards.errors import ModelError
from laconic.training.scratch import symbolic_tokenizer

PROMPTS = [" ".join(str((7 * i + 3 * j) % 60) for j in range(1 + (5 * i) % 17)) for i in range(12)]
GREEDY = Sampling(temperature=0)
TOKENIZER = symbolic_tokenizer([*map(str, range(60)), *"+-*/=;"])


def model():
    """In double precision: with rounding out of the way, equal means equal."""
    sizes = {"vocab_size": len(TOKENIZER), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
    ids = {"bos_token_id": None, "eos_token_id": TOKENIZER.eos_token_id, "pad_token_id": TOKENIZER.pad_token_id}
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(Qwen3Config(**sizes, **heads, **ids), dtype=torch.float64).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(5.0 if weight.ndim > 1 else 1.0)
    return made


def with_engine(work, chosen=None, **options):
    """Run a coroutine function on an engine of its own."""

    async def run():
        engine = TransformersEngine(chosen or model(), TOKENIZER, **options)
        try:
            return await work(engine)
        finally:
            await engine.aclose()

    return asyncio.run(run())


async def complete(engine, prompt, *, ledger=None, seed=0, sampling=GREEDY, **options):
    async with engine.open(prompt, ledger=ledger or Ledger(), sampling=sampling, seed=seed) as branch:
        return await branch.generate(**{"max_tokens": 40, **options})


def ids_of(chunk):
    return [token.id for token in chunk.tokens]


def test_numbers_stay_the_next_until_they_are_used():
    numbers, expected = NumbersAhead(random_numbers(3, (1,))), random_numbers(3, (1,)).random(6).tolist()
    assert numbers.ahead(2) == expected[:2]
    assert numbers.ahead(1) == expected[:1]
    numbers.use()
    assert numbers.ahead(5) == expected[1:]


def test_what_is_said_and_counted_is_the_same():
    chosen = model()
    # Rows that end early, at all kinds of places.
    chosen.generation_config.eos_token_id = [TOKENIZER.eos_token_id, *range(20, 32)]

    async def work(engine):
        ledger = Ledger()
        kinds = [
            {},
            {"max_tokens": 7},
            {"min_tokens": 12},
            {"stop": [" 5 ", "9 1"]},
            {"sampling": Sampling(temperature=0.5)},
            {"sampling": GREEDY},
        ]
        jobs = [
            complete(engine, prompt, ledger=ledger, seed=at, **{"sampling": Sampling(), **kinds[at % len(kinds)]})
            for at, prompt in enumerate(PROMPTS * 2)
        ]
        chunks = await asyncio.gather(*jobs)
        alike = await asyncio.gather(
            *(
                complete(engine, prompt, ledger=ledger, seed=at, sampling=Sampling())
                for at, prompt in enumerate(PROMPTS)
            )
        )
        return (
            [(ids_of(chunk), chunk.text, chunk.reason) for chunk in (*chunks, *alike)],
            ledger.tokens(),
            ledger.cached,
        )

    single = with_engine(work, chosen, signals=False)
    for ticks in (3, 8):
        assert with_engine(work, chosen, signals=False, ticks_in_a_row=ticks) == single
    assert {reason for _, _, reason in single[0]} == {"eos", "length", "stop"}


def test_a_branch_goes_on_where_it_ended():
    """Generated, forced, forked and generated again: keys, values and random numbers are those of single ticks."""

    async def work(engine):
        async with engine.open(PROMPTS[4], ledger=Ledger(), sampling=Sampling(), seed=5) as branch:
            await branch.generate(max_tokens=11, stop=["7"])
            await branch.extend(" 3 4 5")
            await branch.generate(max_tokens=9)
            async with await branch.fork() as other:
                texts = await asyncio.gather(branch.generate(max_tokens=10), other.generate(max_tokens=10))
                return branch.ids, other.ids, [chunk.text for chunk in texts]

    assert with_engine(work, signals=False, ticks_in_a_row=4) == with_engine(work, signals=False)


def test_ticks_in_a_row_are_taken_only_where_nobody_looks():
    async def passes(engine, **given):
        rows, asked = [], engine.decoder.several
        engine.decoder.several = lambda *jobs: (rows.append(jobs), asked(*jobs))[1]
        await complete(engine, PROMPTS[1], max_tokens=17, sampling=Sampling(), seed=2, **given)
        return len(rows), engine.ticks

    options = {"ticks_in_a_row": 8}
    quiet, ticks = with_engine(passes, signals=False, **options)
    assert quiet >= 2
    assert ticks == with_engine(passes, signals=False)[1]
    assert with_engine(passes, **options)[0] == 0, "signals"
    assert with_engine(passes, signals=False)[0] == 0
    for given in ({"hook": lambda token: False}, {"bias": {3: 0.5}}):
        assert with_engine(lambda engine, given=given: passes(engine, **given), signals=False, **options)[0] == 0


def test_what_has_changed_meanwhile_is_left_to_single_ticks():
    async def work(engine):
        async with engine.open(PROMPTS[4], ledger=Ledger(), sampling=GREEDY) as branch:
            await branch.generate(max_tokens=6)
            job = Job(branch.strand, GREEDY)
            branch.strand.cached -= 2
            assert await engine.call(engine.decoder.several, [job], [[0.5] * 4]) == [[]]
            engine.decoder.seats.release(branch.strand)
            assert await engine.call(engine.decoder.several, [job], [[0.5] * 4]) == [[]]
            return ids_of(await branch.generate(max_tokens=6))

    whole = with_engine(lambda engine: complete(engine, PROMPTS[4], max_tokens=12), signals=False)
    assert with_engine(work, signals=False) == ids_of(whole)[6:]


def test_waiting_branches_come_in_when_one_ends():
    async def work(engine):
        chunks = await asyncio.gather(
            *(complete(engine, prompt, seed=at, sampling=Sampling()) for at, prompt in enumerate(PROMPTS))
        )
        return [ids_of(chunk) for chunk in chunks]

    few = with_engine(work, signals=False, ticks_in_a_row=8, batch_size=3)
    assert few == with_engine(work, signals=False)


def test_a_cancelled_branch_goes_on_and_others_do_not_notice():
    async def work(engine, cancel):
        branch = engine.open(PROMPTS[1], ledger=Ledger(), sampling=Sampling(), seed=3)
        other = asyncio.create_task(complete(engine, PROMPTS[2], seed=9, sampling=Sampling(), max_tokens=60))
        if cancel:
            task = asyncio.create_task(branch.generate(max_tokens=60, min_tokens=0))
            while len(branch.strand.ids) < len(branch.strand.prompt) + 5:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        begun = len(branch.strand.ids) - len(branch.strand.prompt)
        if begun < 60:
            await branch.generate(max_tokens=60 - begun)
        return branch.strand.ids, branch.text, ids_of(await other)

    options = {"signals": False, "ticks_in_a_row": 8}
    chosen = model()
    chosen.generation_config.eos_token_id = None
    ways = [
        with_engine(lambda engine, cancel=cancel: work(engine, cancel), chosen, **options) for cancel in (True, False)
    ]
    assert ways[0] == ways[1] == with_engine(lambda engine: work(engine, False), chosen, signals=False)


@pytest.mark.parametrize("ended", [False, True], ids=["while it speaks", "after its end"])
def test_nan_in_one_row_is_its_own(ended):
    """The row is broken by a token that is drawn in the middle of a row of ticks."""
    chosen = model()
    long, as_long = (" ".join(str((step * at) % 20) for at in range(60)) for step in (7, 11))

    def alone(prompt, count):
        return ids_of(with_engine(lambda engine: complete(engine, prompt, max_tokens=count), chosen, signals=False))

    said, expected, after = alone(long, 30), alone(PROMPTS[2], 20), alone(as_long, 4)
    read = TOKENIZER(" ".join([long, as_long, PROMPTS[2]]))["input_ids"]
    at = next(at for at in range(2, 30) if said[at] not in [*said[:at], *expected, *after, *read])
    with torch.no_grad():
        chosen.get_input_embeddings().weight[said[at]] = float("nan")
    if ended:
        chosen.generation_config.eos_token_id = [TOKENIZER.eos_token_id, said[at]]

    async def work(engine):
        found = await asyncio.gather(
            complete(engine, long, max_tokens=30),
            complete(engine, PROMPTS[2], max_tokens=20),
            return_exceptions=True,
        )
        # Rows that held NaN are used again, and not as far, but all their columns are looked at.
        again = await asyncio.gather(*(complete(engine, as_long, max_tokens=4) for _ in range(2)))
        return *found, again

    broken, fine, again = with_engine(work, chosen, signals=False, ticks_in_a_row=8, batch_size=2)
    if ended:
        assert ids_of(broken) == said[: at + 1]
    else:
        assert isinstance(broken, ModelError)
    assert [ids_of(fine), *map(ids_of, again)] == [expected, after, after]


def test_what_fails_for_one_branch_is_done_for_the_others(caplog):
    """And what is noted before a loop runs goes with the first call."""
    engine = TransformersEngine(model(), TOKENIZER, signals=False, ticks_in_a_row=8)
    done = []

    def note(number):
        done.append(10 // number)

    for number in (5, 0, 2):
        engine.between_ticks(note, number)

    async def work():
        await engine.call(done.append, "called")
        engine.between_ticks(note, 1)
        await engine.call(done.append, "called again")
        await engine.aclose()
        engine.between_ticks(note, 1)

    asyncio.run(work())
    assert done == [2, 5, "called", 10, "called again"]
    assert "ZeroDivisionError" in caplog.text


def test_nothing_is_read_twice():
    chosen = model()
    chosen.generation_config.eos_token_id = [TOKENIZER.eos_token_id, *range(20, 32)]
    widths = []
    chosen.register_forward_pre_hook(lambda _, __, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True)

    async def work(engine):
        given = {"sampling": Sampling(), "max_tokens": 30}
        chunks = await asyncio.gather(*(complete(engine, PROMPTS[3], seed=at, **given) for at in range(8)))
        return max(len(chunk.tokens) for chunk in chunks)

    longest = with_engine(work, chosen, signals=False, ticks_in_a_row=8)
    assert longest > 8
    assert set(widths[1:]) == {1}
    assert len(widths) == longest
