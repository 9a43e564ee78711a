"""What judges say about rollouts; those that are async are asked while other rollouts are still being decoded.

They run in a thread of their own, which has one event loop for the whole training: a client that a judge keeps between
calls belongs to the loop it began in. A judge that is a plain function is asked once all rollouts are there, by the
thread that trains: what else it may do there, such as a time limit by a signal, nobody has promised it elsewhere.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from functools import cached_property
from typing import TYPE_CHECKING, Any

from laconic.rewards.errors import LaunchError
from laconic.rewards.judge import Judge, Judged, Row, ask_one, failure, verdicts
from laconic.rewards.records import Rollout

if TYPE_CHECKING:
    from laconic.training.group_scorer import GroupScorer


class Judging:
    """The judges of a trainer.

    Args:
        concurrency: Rollouts that one of them is asked about at once.
    """

    def __init__(self, *, concurrency: int = 64) -> None:
        self.concurrency = concurrency
        self._judges: list[tuple[Judge, Judged]] = []
        self._slots: list[asyncio.Semaphore] = []
        self._begun: dict[int, tuple[Rollout, dict[int, Future[Any]]]] = {}
        self._runner: asyncio.Runner | None = None

    def __len__(self) -> int:
        return len(self._judges)

    def add(self, judge: Judge, judged: Judged) -> int:
        """One more judge; returns its number."""
        self._judges.append((judge, judged))
        self._slots.append(asyncio.Semaphore(self.concurrency))
        return len(self._judges) - 1

    @property
    def begins_early(self) -> bool:
        """Whether one of them can be asked while others are decoded."""
        return any(_is_async(judge) for judge, _ in self._judges)

    def begin(self, rollout: Rollout, row: Row) -> None:
        """Have the async judges asked about a rollout; `verdicts` waits for what they say.

        Args:
            rollout: It is known again as this object.
            row: What judges are shown of it.
        """
        asked = {
            number: asyncio.run_coroutine_threadsafe(_ask(judge, row, self._slots[number]), self._loop)
            for number, (judge, _) in enumerate(self._judges)
            if _is_async(judge)
        }
        self._begun[id(rollout)] = rollout, asked

    def verdicts(self, rows: Sequence[tuple[Rollout, Row]]) -> list[list[float | None]]:
        """What each judge says about each rollout: one entry per judge; None where it could not be read.

        Whoever was asked before is not asked again. What was begun and is not wanted is given up.

        Raises:
            LaunchError: a judge raised; its name, the row and the line of code are named.
        """
        for rollout, row in rows:
            if id(rollout) not in self._begun:
                self.begin(rollout, row)
        begun = [self._begun.pop(id(rollout))[1] for rollout, _ in rows]
        self.forget()
        try:
            columns = self._asked_here([row for _, row in rows]) | self._waited_for(begun)
        finally:
            _give_up(begun)
        return [[columns[number][at] for number in range(len(self))] for at in range(len(rows))]

    def forget(self) -> None:
        """Give up what was begun."""
        _give_up([asked for _, asked in self._begun.values()])
        self._begun.clear()

    def _asked_here(self, rows: Sequence[Row]) -> dict[int, list[float | None]]:
        plain = {number: judge for number, judge in enumerate(self._judges) if not _is_async(judge[0])}
        if not plain:
            return {}
        self._runner = self._runner or asyncio.Runner()
        return {
            number: self._runner.run(verdicts(judge, judged, rows, concurrency=self.concurrency))
            for number, (judge, judged) in plain.items()
        }

    def _waited_for(self, begun: Sequence[dict[int, Future[Any]]]) -> dict[int, list[float | None]]:
        done, _ = wait([future for asked in begun for future in asked.values()], return_when=FIRST_EXCEPTION)
        for at, asked in enumerate(begun, start=1):
            for number, future in asked.items():
                if future in done and (error := future.exception()) is not None:
                    judge, _ = self._judges[number]
                    raise _failure(judge, f"rollout {at} of {len(begun)}", error) from error
        return {
            number: [judged.parse(asked[number].result()) for asked in begun]
            for number, (judge, judged) in enumerate(self._judges)
            if _is_async(judge)
        }

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        # A judge that never answers must not keep the process.
        threading.Thread(target=_run, args=(loop,), name="judges", daemon=True).start()
        weakref.finalize(self, loop.call_soon_threadsafe, loop.stop)
        return loop

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_loop"}
        slots = [asyncio.Semaphore(self.concurrency) for _ in self._judges]
        return state | {"_slots": slots, "_begun": {}, "_runner": None}


def before_generation(scorer: GroupScorer, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a trainer is given so that a scorer knows the rows of rollouts before they are finished.

    Args:
        scorer: Is told.
        given: Whose own `before_generation`, if there is one, comes first.
    """
    first = given.get("before_generation")

    def note(trainer: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows = rows if first is None else first(trainer, rows)
        scorer.expect(rows)
        return rows

    return {**given, "before_generation": note} if scorer.begins_early else dict(given)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _ask(judge: Judge, row: Row, slots: asyncio.Semaphore) -> Any:
    async with slots:
        try:
            return await ask_one(judge, row)
        except (KeyboardInterrupt, SystemExit) as error:
            # They would end the loop, and whoever waits for it would wait for ever.
            raise RuntimeError(f"{type(error).__name__} {error}".rstrip()) from error


def _failure(judge: Judge, row: str, error: BaseException) -> LaunchError:
    raised = failure(judge, row, error)
    if not _wants_main_thread(error):
        return raised
    return LaunchError(
        raised.message,
        cure="async judges are asked in a thread of their own, where a time limit by a signal (signal.alarm) cannot be "
        "set: make the judge a plain function, which is asked in the main thread (it may return a coroutine), or leave "
        "that limit out",
    )


def _wants_main_thread(error: BaseException | None) -> bool:
    """Whether it is, or comes from, what Python says about signals outside the main thread."""
    while error is not None:
        if isinstance(error, ValueError) and "signal only works in main thread" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_async(judge: Judge) -> bool:
    return inspect.iscoroutinefunction(judge) or inspect.iscoroutinefunction(type(judge).__call__)


def _give_up(begun: Sequence[dict[int, Future[Any]]]) -> None:
    for asked in begun:
        for future in asked.values():
            future.cancel()
