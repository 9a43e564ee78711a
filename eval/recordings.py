"""Recording a stopping policy on problems, into a file that a killed run leaves usable."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from laconic.data_gen.progress import Progress
from laconic.data_gen.rollouts import FLUSH_SECONDS, Key, request_seed
from laconic.eval.asking import ask_about, verdict_of
from laconic.eval.policy_runs import at_once, check_choice
from laconic.inference.about import About, intended_line, intended_runs
from laconic.inference.opening import Opened
from laconic.inference.policies.base import Answer, Ask
from laconic.inference.policies.choose import Choice
from laconic.inference.record import record
from laconic.inference.recording import Recording, read_recordings
from laconic.rewards.errors import DataError, LaconicError
from laconic.rewards.jsonl import JsonlAppender
from laconic.rewards.records import Problem


async def record_problems(
    opened: Opened, about: About, problems: Sequence[Problem], *, path: Path, samples: int = 1
) -> list[Recording]:
    """Run a policy on problems without ever stopping, and keep what every threshold would have seen in a file.

    What the file holds already is not run again, so a run that was killed goes on, and more problems or samples can be
    added later. A kill loses at most the recordings of a second. The event loop must run in the main thread.

    Args:
        opened: Whom to ask.
        about: The policy, its settings, the sampling and the seed; the file must have been made with the same.
        problems: With distinct ids.
        path: The file, new or to be gone on with.
        samples: Runs of each problem.

    Returns:
        The recordings of these problems and samples, in order.

    Raises:
        DataError: the file was made with something else, or has another problem under an id.
        LaconicError: a question failed; the problem is named, and everything before is kept.
    """
    choice = Choice(about.policy, about.settings)
    check_choice(choice, opened.engine, scorer=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with JsonlAppender(path) as out:
        if path.stat().st_size:
            about.check_same(path)
        else:
            out.append(about.line())
            out.flush()
        there = {(item.id, item.sample): item for item in read_recordings(path)}
        _check_problems(path, there.values(), problems)
        wanted = [(problem.id, sample) for problem in problems for sample in range(samples)]
        todo = [key for key in wanted if key not in there]
        if not intended_runs(path).issuperset(wanted):
            out.append(intended_line([problem.id for problem in problems], samples))
            out.flush()
        desk = _Desk(opened, about, choice, {problem.id: problem for problem in problems}, out, there)
        await desk.record(todo, Progress(about.policy, done=len(wanted) - len(todo), total=len(wanted)))
    return [there[key] for key in wanted]


def problem_digest(problem: Problem) -> str:
    """Changes when the question or its gold answer does."""
    text = "\0".join((problem.task, problem.prompt, problem.answer))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def problems_digest(recordings: Sequence[Recording]) -> str:
    """SHA-256 of the questions that were recorded, whatever their order and their runs."""
    lines = sorted({f"{item.id} {item.problem}" for item in recordings})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_problems(path: Path, there: Sequence[Recording], problems: Sequence[Problem]) -> None:
    wanted = {problem.id: problem_digest(problem) for problem in problems}
    for item in there:
        if item.problem and wanted.get(item.id, item.problem) != item.problem:
            message = f"{path}: recorded with another question or answer under the id {item.id!r}"
            raise DataError(message, cure="name another file, or delete this one")


@dataclass(eq=False)
class _Desk:
    """Many questions at once, each written down as it is over."""

    opened: Opened
    about: About
    choice: Choice
    problems: dict[str, Problem]
    out: JsonlAppender
    there: dict[Key, Recording]
    failed: tuple[Key, LaconicError] | None = field(default=None)

    async def record(self, todo: Sequence[Key], progress: Progress) -> None:
        """Take questions off the pile until it is empty or one fails."""
        pile = iter(todo)
        async with _flushing(self.out):
            clerks = at_once(self.choice, self.opened.engine)
            await asyncio.gather(*(self._clerk(pile, progress) for _ in range(clerks)))
        if self.failed is not None:
            (name, sample), error = self.failed
            message = f"problem {name!r}, sample {sample}: {error.message}"
            raise type(error)(message, cure=error.cure) from error

    async def _clerk(self, pile: Iterator[Key], progress: Progress) -> None:
        for key in pile:
            try:
                found = await self._one(self.problems[key[0]], key[1])
            except LaconicError as error:
                self.failed = self.failed or (key, error)
                return
            self.there[key] = found
            self.out.append(found.to_json())
            progress.add(found.tokens + found.probes)
            if self.failed is not None:
                return

    async def _one(self, problem: Problem, sample: int) -> Recording:
        sampling, seed = self.about.build_sampling(), request_seed(self.about.seed, problem.id, sample)
        ask = ask_about(problem, self.opened, sampling=sampling, seed=seed)

        def right(answer: str | None) -> float:
            return float(bool(verdict_of(_said(answer, ask), ask, problem).correct))

        def whole(answer: Answer) -> float:
            return float(bool(verdict_of(answer, ask, problem).correct))

        found = await record(
            self.choice.build(),  # type: ignore[arg-type]
            ask,
            question=problem.id,
            right=right,
            sample=sample,
            problem=problem_digest(problem),
            whole=whole,
        )
        return replace(found, cluster=str(problem.meta.get("cluster", "")))


def _said(answer: str | None, ask: Ask) -> Answer:
    """An answer that a probe gave, to be judged as one that was returned."""
    return Answer("", answer, "policy_stop", ask.ledger)


@contextlib.asynccontextmanager
async def _flushing(out: JsonlAppender) -> AsyncIterator[None]:
    """Hand rows to the disk every second, whether or not others come."""

    async def flush() -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            out.flush()

    task = asyncio.create_task(flush())
    try:
        yield
    finally:
        task.cancel()
