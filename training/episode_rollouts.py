"""GRPO rollouts that think and search: all episodes of a step at once, searches that fall together in one batch.

Episodes do not wait for each other: one that has come to its search while others still think searches at once, and
whoever comes to theirs while that batch is on its way makes the next one.

As in `laconic.training.rollouts`, every rollout draws its own random numbers from (seed, step, place in the global
batch), so the rollouts of a step are the same on one process and on several, and the same again after a resume, as long
as the same search finds the same documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl.models import unwrap_model_for_generation

from laconic.inference.engine import Branch, Engine, Sampling
from laconic.inference.engines.loading import encode_prompt, positions
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.episode import Episode, EpisodeProtocol, Search, run_episode
from laconic.inference.ledger import Ledger
from laconic.inference.policies.base import Ask
from laconic.inference.retrieval.batching import BatchingRetriever
from laconic.inference.retrieval.documents import Hit
from laconic.inference.retrieval.protocol import Retriever
from laconic.inference.trace import TraceReader, template_opens_thinking
from laconic.recipes.search_model import SearchSpec
from laconic.rewards.errors import DataError, LaconicError
from laconic.training.episode_told import Told, columns_of, tell, trained_ids
from laconic.training.rollouts import rollout_seed, sampling_of

EPISODE = "episode"
"""The field in which a rollout's `Told` travels through TRL to the rewards."""
PROBE_TOKENS = 32
"""Generated tokens of an answer that is asked for on the side."""


class SampledEpisodes:
    """A TRL `rollout_func`: prompts of this process in; token ids, a mask for the loss and columns for rewards out.

    A search waits for its retriever as long as that waits (`HttpRetriever`: ten minutes for a server that is away).
    Whatever it raises then ends the step, and with it the run, which resumes from its last checkpoint.

    Args:
        retriever: Opened by this process; used for all steps and closed by `close`.
        search: How models search.
        seed: Seeds every rollout together with the step and its place in the global batch.
        disabled: Share of each group's rollouts, the first of them, that cannot search and are asked with the
            closed-book prompt; in an evaluation all can search.
        columns: What rewards read; `passages` and `self_answers` are collected only if they are among them.
        batch_size: Rollouts decoded at once; None fits it to the device.
        on_told: Called with this process's row and what rewards will see of each episode as soon as it is over, while
            others go on.
    """

    def __init__(
        self,
        retriever: Retriever,
        *,
        search: SearchSpec,
        seed: int,
        disabled: float = 0.0,
        columns: Collection[str] = (),
        batch_size: int | None = None,
        on_told: Callable[[int, Told], None] | None = None,
    ) -> None:
        self.retriever = retriever if isinstance(retriever, BatchingRetriever) else BatchingRetriever(retriever)
        self.search, self.seed, self.disabled = search, seed, disabled
        self.columns, self.batch_size, self.on_told = frozenset(columns), batch_size, on_told
        # One loop for all steps: connections that a retriever keeps belong to the loop they were made in.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    def __call__(self, prompts: list[list[dict[str, str]]], trainer: Any) -> dict[str, Any]:
        """One episode per prompt row.

        Raises:
            LaconicError: the retriever failed for good, or a prompt leaves no room for an episode; the step is named.
        """
        rows = self._rows([messages[-1]["content"] for messages in prompts], trainer)
        tokenizer, step = trainer.processing_class, trainer.state.global_step
        try:
            with self._engine(trainer) as (engine, longest):
                run = _Step(self, engine, tokenizer, sampling_of(trainer.args), longest)
                done = self._runner.run(run.all(rows))
                del engine, run  # with the keys and values
        except LaconicError as error:
            raise type(error)(f"rollouts of step {step}: {error.message}", cure=error.cure) from error
        ids, masks = zip(*(trained_ids(episode, eos_id=tokenizer.eos_token_id) for episode, _ in done), strict=True)
        columns = [told.columns for _, told in done]
        return {
            "prompt_ids": [encode_prompt(tokenizer, row.prompt) for row in rows],
            "completion_ids": list(ids),
            "logprobs": self._logprobs([episode for episode, _ in done], masks),
            "env_mask": list(masks),
            EPISODE: [told for _, told in done],
            **{name: [row[name] for row in columns] for name in columns[0]},
        }

    @contextmanager
    def _engine(self, trainer: Any) -> Iterator[tuple[Engine, int | None]]:
        """An engine with the weights of now, and the tokens that prompt and episode may have."""
        training = trainer.model.training
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
            engine = TransformersEngine(model, trainer.processing_class, batch_size=self.batch_size, signals=False)
            yield engine, self._longest(positions(model))
            del engine
        trainer.model.train(training)

    def _longest(self, *limits: int | None) -> int | None:
        """The least limit of prompt and episode: the recipe's, and each of the others less one for the token that ends
        a sequence.
        """
        known = [limit - 1 for limit in limits if limit is not None]
        return min([*known, *([self.search.context_tokens] if self.search.context_tokens else [])], default=None)

    def _logprobs(self, episodes: Sequence[Episode], masks: Sequence[Sequence[int]]) -> list[list[float | None]] | None:
        """Those that tokens were drawn with, where training asks for them."""
        return None

    async def _ended(self, engine: Any) -> None:
        """All episodes of this process came to their end."""

    def close(self) -> None:
        """Close the retriever."""
        with self._runner:
            self._runner.run(self.retriever.aclose())

    def _rows(self, questions: Sequence[str], trainer: Any) -> list[_Row]:
        first, step = trainer.accelerator.process_index * len(questions), trainer.state.global_step
        size = trainer.num_generations
        disabled = round(self.disabled * size) if trainer.model.training else 0
        rows = []
        for place, question in enumerate(questions, start=first):
            enabled = place % size >= disabled
            prompt = self.search.prompt(question, searches_enabled=enabled and self.search.max_searches > 0)
            rows.append(_Row(prompt, enabled, rollout_seed(self.seed, step, place, question)))
        return rows


@dataclass(frozen=True, slots=True)
class _Row:
    """One rollout to come."""

    prompt: str
    enabled: bool
    seed: int


class _Step:
    """The episodes of one generation."""

    def __init__(
        self,
        rollouts: SampledEpisodes,
        engine: Any,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        context_tokens: int | None,
    ) -> None:
        self.rollouts, self.engine, self.sampling = rollouts, engine, sampling
        self.settings = rollouts.search.settings() | {"context_tokens": context_tokens}
        self.protocol: EpisodeProtocol = rollouts.search.tags
        self.reader = TraceReader(tokenizer, eos_ids=engine.eos_ids, opens_thinking=False)
        self.opens_thinking = template_opens_thinking(tokenizer)

    async def all(self, rows: Sequence[_Row]) -> list[tuple[Episode, Told]]:
        """Raises what the first failing episode raised; the others end with it."""
        tasks = [asyncio.create_task(self._one(at, row)) for at, row in enumerate(rows)]
        try:
            done = await asyncio.gather(*tasks)
            await self.rollouts._ended(self.engine)
            return done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.engine.aclose()

    async def _one(self, at: int, row: _Row) -> tuple[Episode, Told]:
        ask = Ask(self.engine, row.prompt, Ledger(), sampling=self.sampling, seed=row.seed)
        # Some engines wait with the others for whoever searches.
        waited_for = getattr(self.engine, "waited_for", nullcontext)
        wanted, noted = self.rollouts.columns, _Noting(self.rollouts.retriever, waited_for)
        probe = _Probe(ask, self.protocol, self.settings["context_tokens"]) if "self_answers" in wanted else None
        async with ask.stack:
            episode = await run_episode(
                ask, noted, searches_enabled=row.enabled, after_search=probe and probe.ask_now, **self.settings
            )
        if not episode.pieces:
            raise DataError(
                f"a prompt of {ask.ledger.prompt} tokens leaves no room for an episode",
                cure="leave the longest problems out, or raise search.context_tokens if the model has more positions",
            )
        columns = columns_of(
            episode,
            self.protocol,
            searches_enabled=row.enabled,
            opens_thinking=self.opens_thinking,
            passages=noted.texts if "passages" in wanted else None,
            self_answers=probe and probe.answers,
        )
        limit = self.settings["max_searches"] if row.enabled else 0
        told = tell(episode, self.reader, limit=limit, columns=columns)
        if self.rollouts.on_told is not None:
            self.rollouts.on_told(at, told)
        return episode, told


@dataclass(slots=True)
class _Noting:
    """The retriever of one episode, which notes the texts that each search found."""

    retriever: Retriever
    waited_for: Callable[[], AbstractContextManager[None]] = nullcontext
    texts: list[list[str]] = field(default_factory=list)

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        with self.waited_for():
            found = await self.retriever.search(queries, k=k)
        self.texts += [[hit.document.contents for hit in hits] for hits in found]
        return found

    async def aclose(self) -> None:
        """It is not this episode's to close."""


@dataclass(slots=True)
class _Probe:
    """Asks after every search what the model would answer now; its tokens are no part of the episode."""

    ask: Ask
    protocol: EpisodeProtocol
    context_tokens: int | None
    answers: list[str] = field(default_factory=list)

    async def ask_now(self, branch: Branch, searches: tuple[Search, ...]) -> None:
        """Note the likeliest answer, an empty one where there is no room or it comes to no end."""
        fork = await self.ask.fork(branch)
        await fork.extend(self.protocol.answer_open)
        held = self.ask.ledger.prompt + len(fork.ids or ())
        room = PROBE_TOKENS if self.context_tokens is None else min(PROBE_TOKENS, self.context_tokens - held)
        said = await self._guess(fork, room) if room > 0 else ""
        await fork.close("discarded")
        self.answers.append(said)

    async def _guess(self, fork: Branch, room: int) -> str:
        greedy = replace(self.ask.sampling, temperature=0.0)
        close = self.protocol.answer_close
        chunk = await fork.generate(max_tokens=room, stop=[close], role="probe", sampling=greedy)
        return "" if chunk.reason == "length" else chunk.text.strip()
