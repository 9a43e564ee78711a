"""GRPO rollouts that share their beginnings: a chain of thought is drawn once, cut at several places and made to answer
at each (`exit_rollouts`, `budget_rollouts`).

A trunk is what is drawn freely; its exits are forks, which read nothing of prompt and trunk again. As in
`laconic.training.rollouts` everything is drawn from (seed, step, place in the global batch): a trunk's numbers are
those of the first rollout that is made of it, an exit's those of the trunk and its place among the exits. A process
that has some rollouts of a trunk draws it and these exits, and gets what any other process gets.

Rewards count the tokens that the model drew, those of the trunk among them, and not the text that was put in.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from trl.models import unwrap_model_for_generation

from laconic.inference.engine import Branch, Sampling
from laconic.inference.engines.loading import encode_prompt
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.ledger import Ledger
from laconic.inference.trace import THINK_CLOSE, TraceReader
from laconic.rewards.errors import LaconicError, RecipeError
from laconic.training.episode_rollouts import EPISODE
from laconic.training.episode_told import Told
from laconic.training.rollouts import SampledRollouts, rollout_seed, sampling_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Drawn:
    """One rollout: tokens of the trunk, a cue, and the answer to it."""

    trunk: tuple[int, ...]
    cue: tuple[int, ...] = ()
    """Given, not drawn; empty in a free rollout, which has no answer apart from the trunk."""
    answer: tuple[int, ...] = ()
    learned: tuple[bool, bool, bool] = (True, True, True)
    """Which of the three are in the loss."""
    answers: bool = True
    """Whether there is an answer to be judged."""
    ends: tuple[int, ...] = ()
    """Where the parts of the trunk end that each have an advantage of their own."""

    @property
    def ids(self) -> list[int]:
        """The completion."""
        return [*self.trunk, *self.cue, *self.answer]

    @property
    def mask(self) -> list[int]:
        """1 for every token of it that is in the loss."""
        parts = zip((self.trunk, self.cue, self.answer), self.learned, strict=True)
        return [int(learned) for part, learned in parts for _ in part]

    def tell(self, reader: TraceReader) -> Told:
        """What rewards see: all its text, and the tokens that were drawn."""
        trace = reader.read(self.ids)
        thinking = len(self.trunk) if self.cue else trace.think_tokens
        return Told(
            text=trace.text,
            ids=(*self.trunk, *self.answer),
            answer=trace.answer_text if self.answers else None,
            finished=self.ids[-1] in reader.eos_ids,
            think_tokens=thinking,
            answer_tokens=len(self.trunk) + len(self.answer) - thinking,
            columns={},
            facts={},
        )


@dataclass(frozen=True, slots=True)
class Step:
    """What the trunks of one generation share."""

    engine: TransformersEngine
    reader: TraceReader
    sampling: Sampling
    size: int
    """Rollouts of a group."""

    def open(self, prompt: str, seed: int) -> Branch:
        """The beginning of a trunk."""
        return self.engine.open(prompt, ledger=Ledger(), sampling=self.sampling, seed=seed)

    def encode(self, text: str) -> list[int]:
        """Its tokens, as `Branch.extend` puts them in."""
        return self.engine.tokenizer(text, add_special_tokens=False)["input_ids"]

    def thinking(self, ids: Sequence[int]) -> int:
        """Tokens of a completion before its closing tag; without one, all but the token that ends it."""
        trace = self.reader.read(ids)
        if trace.answer_text is not None and trace.think_tokens:
            return max(0, trace.think_tokens - len(self.encode(THINK_CLOSE)))
        return len(ids) - (ids[-1] in self.reader.eos_ids)


class CutRollouts(ABC):
    """A TRL `rollout_func` for one way of cutting.

    In an evaluation all rollouts are free.

    Args:
        seed: Seeds every trunk together with the step and its place in the global batch.
        batch_size: Rollouts decoded at once; None fits it to the device.
        on_told: Called with this process's row and what rewards will see of each rollout as soon as all of its trunk
            are there, while others are still being decoded; not in an evaluation.
    """

    def __init__(
        self, *, seed: int, batch_size: int | None = None, on_told: Callable[[int, Told], None] | None = None
    ) -> None:
        self.seed, self.batch_size, self.on_told = seed, batch_size, on_told

    @abstractmethod
    def seat(self, place: int, size: int) -> tuple[int, int]:
        """The trunk of the rollout at a place of its group, and its number among those made of it."""

    @abstractmethod
    def begins(self, trunk: int, size: int) -> int:
        """The place of the first rollout that is made of a trunk."""

    @abstractmethod
    async def draw(self, step: Step, prompt: str, seed: int, wanted: Sequence[int]) -> dict[int, Drawn]:
        """Draw a trunk and those of its rollouts that are wanted, by their numbers."""

    def columns(self, drawn: Drawn) -> dict[str, Any]:
        """What else the batch is to know of a rollout."""
        return {}

    def __call__(self, prompts: list[list[dict[str, str]]], trainer: Any) -> dict[str, Any]:
        """One rollout per prompt row.

        Raises:
            LaconicError: a limit leaves no room for a cue, or the model has not enough positions; the step is named.
        """
        if not trainer.model.training:
            return SampledRollouts(seed=self.seed, batch_size=self.batch_size)(prompts, trainer)
        texts = [messages[-1]["content"] for messages in prompts]
        with self._step(trainer) as step, asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            try:
                drawn = runner.run(self._all(step, texts, trainer))
            except LaconicError as error:
                at = trainer.state.global_step
                raise type(error)(f"rollouts of step {at}: {error.message}", cure=error.cure) from error
            del step  # with the keys and values
        columns = [self.columns(one) for one, _ in drawn]
        return {
            "prompt_ids": [encode_prompt(trainer.processing_class, text) for text in texts],
            "completion_ids": [one.ids for one, _ in drawn],
            "logprobs": None,
            "env_mask": [one.mask for one, _ in drawn],
            EPISODE: [told for _, told in drawn],
            **{name: [row[name] for row in columns] for name in columns[0]},
        }

    @contextmanager
    def _step(self, trainer: Any) -> Iterator[Step]:
        """An engine with the weights of now."""
        tokenizer, sampling = trainer.processing_class, sampling_of(trainer.args)
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
            engine = TransformersEngine(model, tokenizer, batch_size=self.batch_size, signals=False)
            yield Step(engine, TraceReader(tokenizer, eos_ids=engine.eos_ids), sampling, trainer.num_generations)
            del engine
        trainer.model.train()

    async def _all(self, step: Step, texts: Sequence[str], trainer: Any) -> list[tuple[Drawn, Told]]:
        first, at = trainer.accelerator.process_index * len(texts), trainer.state.global_step
        trunks: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
        for row in range(first, first + len(texts)):
            trunk, number = self.seat(row % step.size, step.size)
            trunks[row // step.size, trunk][number] = row - first
        work = []
        for (group, trunk), rows in trunks.items():
            prompt = texts[next(iter(rows.values()))]
            seed = rollout_seed(self.seed, at, group * step.size + self.begins(trunk, step.size), prompt)
            work.append(self._rows_of(step, prompt, seed, rows))
        try:
            by_row = {row: one for part in await together(work) for row, one in part.items()}
        finally:
            await step.engine.aclose()
        return [by_row[row] for row in range(len(texts))]

    async def _rows_of(
        self, step: Step, prompt: str, seed: int, rows: Mapping[int, int]
    ) -> dict[int, tuple[Drawn, Told]]:
        """A trunk's rollouts by row; `rows` has the row of each of its numbers."""
        drawn = await self.draw(step, prompt, seed, sorted(rows))
        found = {row: (drawn[number], drawn[number].tell(step.reader)) for number, row in rows.items()}
        if self.on_told is not None:
            for row, (_, told) in found.items():
                self.on_told(row, told)
        return found


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What comes of all; raises what the first failing one raised, and the others end with it."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def forks_at(trunk: Branch, tokens: int, cuts: Sequence[int], wanted: Collection[int]) -> dict[int, Branch]:
    """Forks by their numbers.

    Args:
        trunk: Has generated once.
        tokens: How many.
        cuts: How many of them each fork keeps.
        wanted: Numbers of the forks to give back; they count from 0.
    """
    # All are made: a fork's random numbers go by how many there were before it.
    forks = [await trunk.fork(back=tokens - cut) for cut in cuts]
    for number, fork in enumerate(forks):
        if number not in wanted:
            await fork.close("discarded")
    return {number: forks[number] for number in wanted}


async def answered(fork: Branch, cue: str, *, max_tokens: int) -> tuple[tuple[int, ...], ...]:
    """Put a cue in and have it answered: the tokens of the fork, the cue and the answer."""
    async with fork:
        kept = fork.ids or ()
        await fork.extend(cue)
        given = (fork.ids or ())[len(kept) :]
        chunk = await fork.generate(max_tokens=max_tokens, role="answer")
        await fork.close("kept")
    return kept, given, tuple(token.id for token in chunk.tokens)


def room(limit: int, *, cue: int, answer: int) -> int:
    """Tokens of thinking that a completion has room for besides a cue and an answer.

    Raises:
        RecipeError: for none.
    """
    if limit <= cue + answer:
        raise RecipeError(
            f"max_completion_length {limit} leaves no thinking before a cue of {cue} tokens and an answer of {answer}",
            cure=f"raise it above {cue + answer}, or lower rollouts.answer_tokens",
        )
    return limit - cue - answer
