"""Asking policies: every problem, the same seeds for all, and a file per policy that a killed run leaves usable.

A file is keyed by (problem id, sample) as those of `laconic.data_gen.rollouts` are, and its lines are rollouts too. Of
a rollout's tokens, `answer_tokens` are those of the answer; everything else a policy generated counts as thinking:
thinking itself, probes, drafts, judges' and routers' words, kept or discarded. `meta` holds the policy and its ledger.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from laconic.data_gen.progress import Progress
from laconic.data_gen.rollouts import FLUSH_SECONDS, Key, request_seed, write_ordered
from laconic.eval.asking import ask_about, verdict_of
from laconic.eval.policy_digests import parameter_files
from laconic.inference.engine import Engine, Sampling, check_capabilities
from laconic.inference.opening import Opened
from laconic.inference.policies import run_policy
from laconic.inference.policies.base import Answer, Ask, Scorer
from laconic.inference.policies.choose import Choice
from laconic.inference.policies.retrieving import check_retriever, within
from laconic.inference.retrieval.protocol import Retriever
from laconic.rewards.errors import DataError, LaconicError, LaunchError
from laconic.rewards.jsonl import JsonlAppender
from laconic.rewards.records import Problem, Rollout, read_rollouts

IN_FLIGHT = 128
"""Branches at once on an engine that names no number of slots."""
MOST_FAILURES = 10
"""Questions that may fail before no further one is asked."""
WIDTHS = ("k", "samples", "paths", "sequences", "width", "beams", "batch", "trials")
"""Parameters that say how many branches a policy has open at once, as far as one can tell from names."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What every policy of one comparison is asked."""

    problems: Sequence[Problem]
    sampling: Sampling
    samples: int = 1
    """Answers to each problem."""
    seed: int = 0
    scorer: Callable[[Problem], Scorer] | None = None
    """For policies that need one."""
    engines: Mapping[str, Engine] = field(default_factory=dict)
    """For policies that ask several."""
    retriever: Retriever | None = None
    """For policies that search."""

    @property
    def keys(self) -> list[Key]:
        """Every (problem id, sample), in order."""
        return [(problem.id, sample) for problem in self.problems for sample in range(self.samples)]

    def ask(self, opened: Opened, problem: Problem, sample: int) -> Ask:
        """One question; equal for all policies."""
        seed = request_seed(self.seed, problem.id, sample)
        scorer = self.scorer(problem) if self.scorer else None
        given = {"scorer": scorer, "engines": self.engines, "retriever": self.retriever}
        return ask_about(problem, opened, sampling=self.sampling, seed=seed, **given)


def run_choice(
    choice: Choice, opened: Opened, questions: Questions, *, runner: asyncio.Runner, path: Path, source: str
) -> list[Rollout]:
    """Answer every question with a policy; what `path` holds already is kept and not asked again.

    Must run in the main thread: math-verify uses signals.

    Args:
        choice: The policy.
        opened: Whom it asks.
        questions: What is asked.
        runner: Holds the event loop; the same one for all policies of an engine, whose connections belong to it.
        path: A JSON Lines file, new or from a killed run with the same questions.
        source: The model's name, noted in each rollout.

    Returns:
        All rollouts, ordered by problem and sample, as they now stand in the file.

    Raises:
        DataError: the file is another policy's, or a file that the policy reads was another when it was asked.
        LaunchError: the engine lacks something, or questions failed; the answers to all others are in the file.
    """
    given = {"scorer": questions.scorer is not None, "retriever": questions.retriever is not None}
    check_choice(choice, opened.engine, **given)
    path.parent.mkdir(parents=True, exist_ok=True)
    with JsonlAppender(path) as out:
        files = parameter_files(choice.parameters)
        there = _read(path, choice, files)
        todo = [key for key in questions.keys if key not in there]
        if todo:
            label = f"{source}, {shown(choice.label)}"
            progress = Progress(label, done=len(questions.keys) - len(todo), total=len(questions.keys))
            desk = _Desk(choice, opened, questions, source, out, progress, there, files)
            runner.run(desk.answer(todo))
            desk.complain(path)
    return write_ordered(path, (there[key] for key in questions.keys))


def check_choice(choice: Choice, engine: Engine, *, scorer: bool, retriever: bool = False) -> None:
    """Refuse before the first question what cannot work.

    Raises:
        LaunchError: the engine lacks something, or there is no scorer or retriever where one is needed.
    """
    registered = choice.registered
    check_capabilities(engine, registered.requires, who=f"policy {choice.label}")
    if registered.lacks_scorer(choice.build()) and not scorer:
        raise LaunchError(f"policy {choice.label} needs a scorer", cure="name one: steps, gold or module:function")
    check_retriever(registered, retriever=retriever)


def _read(path: Path, choice: Choice, files: Mapping[str, str]) -> dict[Key, Rollout]:
    there = {(rollout.problem_id, rollout.sample): rollout for rollout in read_rollouts(path)}
    for rollout in there.values():
        if rollout.meta.get("name") != choice.name or rollout.meta.get("parameters") != _plain(choice.parameters):
            raise DataError(f"{path} holds answers of another policy than {choice}", cure="delete it, or relabel one")
        if (was := rollout.meta.get("files", {})) != files:
            changed = next(name for name in {**was, **files} if was.get(name) != files.get(name))
            message = f"{path} holds answers of {choice} with another content of {changed}"
            raise DataError(message, cure="delete it, or give the policy another label")
    return there


@dataclass(eq=False)
class _Desk:
    """One policy at work: many questions at once, each written down as it is answered."""

    choice: Choice
    opened: Opened
    questions: Questions
    source: str
    out: JsonlAppender
    progress: Progress
    there: dict[Key, Rollout]
    files: Mapping[str, str]
    """Digests of the files that the policy reads."""
    failures: list[tuple[Key, Exception]] = field(default_factory=list)
    flushed: float = field(default_factory=time.monotonic)

    async def answer(self, todo: Iterable[Key]) -> None:
        """Take questions off the pile until it is empty, or too many failed."""
        pile = iter(todo)
        await asyncio.gather(*(self._clerk(pile) for _ in range(at_once(self.choice, self.opened.engine))))

    async def _clerk(self, pile: Iterable[Key]) -> None:
        by_id = {problem.id: problem for problem in self.questions.problems}
        for key in pile:
            if len(self.failures) >= MOST_FAILURES:
                return
            try:
                await self._one(key, by_id[key[0]])
            except Exception as error:
                # Whatever happened to this question, the others' answers are wanted.
                self.failures.append((key, error))

    async def _one(self, key: Key, problem: Problem) -> None:
        ask = self.questions.ask(self.opened, problem, key[1])
        answer = await run_policy(within(self.choice.build(), self.opened.positions), ask)
        rollout = rollout_of(answer, ask, problem, sample=key[1], choice=self.choice, source=self.source)
        if self.files:
            rollout = replace(rollout, meta={**rollout.meta, "files": dict(self.files)})
        self.there[key] = rollout
        self.out.append(rollout.to_json())
        self.progress.add(rollout.tokens)
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.out.flush()
            self.flushed = time.monotonic()

    def complain(self, path: Path) -> None:
        """Name the questions that failed.

        Raises:
            LaunchError: some did.
        """
        if not self.failures:
            return
        (problem_id, sample), error = self.failures[0]
        left = sum(key not in self.there for key in self.questions.keys)
        why, cure = f"{type(error).__name__}: {error}", "mend it"
        if isinstance(error, LaconicError):
            why, cure = error.message, error.cure or cure
        raise LaunchError(
            f"policy {self.choice.label}: {left} of {len(self.questions.keys)} questions have no answer; "
            f"problem {problem_id!r}, sample {sample}: {why}",
            cure=f"{cure}, and run it again; the other answers are kept in {path}",
        ) from error


def shown(label: str) -> str:
    """What a person reads of a policy's label."""
    return "no policy" if label == "none" else label


def at_once(choice: Choice, engine: Engine) -> int:
    """Questions at once: so many that all branches of each have room on the engine."""
    policy = choice.build()
    given = [getattr(policy, name, None) for name in WIDTHS]
    width = max([value for value in given if isinstance(value, int)], default=1)
    return max(1, (engine.slots or IN_FLIGHT) // max(1, width))


def rollout_of(answer: Answer, ask: Ask, problem: Problem, *, sample: int, choice: Choice, source: str) -> Rollout:
    """What a policy came to, judged, as a rollout; its tokens are all that the ledger counts as generated."""
    verdict = verdict_of(answer, ask, problem)
    ledger = answer.ledger
    answered = ledger.tokens("answer")
    return Rollout(
        problem_id=problem.id,
        sample=sample,
        task=problem.task,
        text=answer.text,
        answer=verdict.answer,
        correct=verdict.correct,
        finished=answer.finish != "length",
        tokens=ledger.generated,
        think_tokens=ledger.generated - answered,
        answer_tokens=answered,
        source=source,
        seed=ask.seed,
        meta={
            "policy": choice.label,
            "name": choice.name,
            "parameters": _plain(choice.parameters),
            "finish": answer.finish,
            "abstained": answer.finish == "abstained",
            "confidence": answer.confidence,
            "ledger": ledger.to_json(),
            **{name: answer.notes[name] for name in ("searches", "citations") if name in answer.notes},
        },
    )


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    return {
        key: list(value) if isinstance(value, tuple) else _plain(value) if isinstance(value, Mapping) else value
        for key, value in parameters.items()
    }
