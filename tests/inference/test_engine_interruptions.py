"""What cancels, fails or crowds one branch of the in-process engine leaves all others as they were."""

import asyncio
import statistics
import threading

import pytest
import torch

from laconic.inference.engine import Sampling
from laconic.inference.engines.kv import KVRows
from laconic.inference.engines.strands import Seats, Strand
from laconic.inference.ledger import Ledger
from laconic.rewards.errors import RecipeError

GREEDY = Sampling(temperature=0)


class Pause:
    """Holds the decode thread once, in the middle of a tick: after rows were given out, before anything is read."""

    def __init__(self, engine):
        self.reached, self.go_on = threading.Event(), threading.Event()
        self._seat, self._held = engine.decoder.seats.seat, False
        engine.decoder.seats.seat = self

    def __call__(self, *args, **options):
        self._seat(*args, **options)
        if not self._held:
            self._held = True
            self.reached.set()
            assert self.go_on.wait(timeout=20)


def test_text_put_in_after_a_cancellation_does_not_reach_the_tick_under_way(on_tiny_model):
    async def work(engine):
        async def said(*, disturbed):
            pause = Pause(engine) if disturbed else None
            other = engine.open("1 + 1 =", ledger=Ledger(), sampling=GREEDY)
            cancelled = engine.open("2 + 3 =", ledger=Ledger(), sampling=GREEDY)
            tasks = [asyncio.create_task(other.generate(max_tokens=8, min_tokens=8))]
            if disturbed:
                tasks.append(asyncio.create_task(cancelled.generate(max_tokens=20, min_tokens=20)))
                await asyncio.to_thread(pause.reached.wait, 20)
                tasks[1].cancel()
                await asyncio.gather(tasks[1], return_exceptions=True)
            await cancelled.extend("1 + 2 = 3 ; " * 8)
            if disturbed:
                pause.go_on.set()
            first = await tasks[0]
            after = await cancelled.generate(max_tokens=5, min_tokens=5)
            for branch in (other, cancelled):
                await branch.close("kept")
            return [[token.id for token in chunk.tokens] for chunk in (first, after)]

        assert await said(disturbed=True) == await said(disturbed=False)
        await engine.call(lambda: None)
        assert not engine.decoder.seats._rows

    on_tiny_model(work)


def test_forks_of_what_has_begun_do_not_wait_behind_new_questions(on_tiny_model):
    async def work(engine):
        engine.decoder.seats.limit = engine.batch_size = 2
        waits = []

        async def question(number):
            async with engine.open(f"{number} + 1 =", ledger=Ledger(), seed=number) as branch:
                for _ in range(2):
                    await branch.generate(max_tokens=6, min_tokens=6)
                    async with await branch.fork() as probe:
                        begun = engine.ticks
                        await probe.generate(max_tokens=3, min_tokens=3, role="probe")
                        waits.append(engine.ticks - begun)

        await asyncio.gather(*(question(number) for number in range(8)))
        assert statistics.median(waits) == 3

    on_tiny_model(work)


def test_looking_inside_keeps_to_the_prompt_cache(on_tiny_model):
    async def work(engine):
        engine.decoder.store.tokens = 12
        for number in range(12):
            async with engine.open(f"{number} + {number} =", ledger=Ledger()) as branch:
                await branch.score("5")
        held = sum(len(ids) for ids in engine.decoder.store._kept)
        assert 0 < held <= 12

    on_tiny_model(work)


class Stop(BaseException):
    """Not an ordinary error, as a KeyboardInterrupt is not."""


def test_whatever_a_hook_raises_is_its_callers_and_nobody_elses(on_tiny_model):
    async def work(engine):
        def hook(token):
            raise Stop

        async def generate(**wishes):
            async with engine.open("1 + 1 =", ledger=Ledger(), sampling=GREEDY) as branch:
                return await branch.generate(max_tokens=4, min_tokens=4, **wishes)

        bad, good = await asyncio.gather(generate(hook=hook), generate(), return_exceptions=True)
        assert isinstance(bad, Stop)
        assert len(good.tokens) == len((await generate()).tokens) == 4

    on_tiny_model(work)


def test_the_fate_of_a_branch_that_is_closed_while_it_generates_holds_for_what_it_said(on_tiny_model):
    async def work(engine):
        ledger, seen = Ledger(), asyncio.Event()
        branch = engine.open("1 + 1 =", ledger=ledger)

        def hook(token):
            seen.set()
            return False

        task = asyncio.create_task(branch.generate(max_tokens=100, min_tokens=100, hook=hook))
        await seen.wait()
        await branch.close("voted")
        await asyncio.gather(task, return_exceptions=True)
        assert ledger.generated == ledger.tokens(fate="voted") > 0

    on_tiny_model(work)


def test_a_seed_below_zero_is_refused(on_tiny_model):
    async def work(engine):
        with pytest.raises(RecipeError, match="seed -1"):
            engine.open("1 + 1 =", ledger=Ledger(), seed=-1)

    on_tiny_model(work)


def test_rows_are_given_back_when_fewer_are_allowed():
    seats, like = Seats(KVRows()), [(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))]
    seats.limit = 6
    waiting = [Strand([1, 2], (1,)) for _ in range(6)]
    seats.seat(waiting, 2, like=like)
    seats.limit = 2
    new = [Strand([1, 2], (1,)) for _ in range(2)]
    seats.seat(new, 2, like=like)
    assert len(seats._rows) == 2
    assert all(strand.row is None for strand in waiting)
    assert all(strand.row is not None for strand in new)
