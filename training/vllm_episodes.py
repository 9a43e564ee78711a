"""Search episodes of GRPO on the vLLM that TRL trains with: `use_vllm: true`, on a server or colocated.

TRL has sent vLLM the weights of the step when it asks for rollouts; all rounds of the generation are drawn with them.
What is generated, searched and masked is as in `laconic.training.episode_rollouts`. Log-probabilities go along, for
TRL's correction of what differs between vLLM and the trained model.

Draws are not ours: on a server they differ from run to run, colocated they follow from each rollout's seed as far as
vLLM's arithmetic is the same in every batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from laconic.inference.engine import Engine
from laconic.inference.engines.loading import eos_ids, positions
from laconic.inference.episode import Episode
from laconic.training.episode_rollouts import SampledEpisodes
from laconic.training.episode_told import drawn_logprobs
from laconic.training.vllm_engine import RoundsEngine
from laconic.training.vllm_rounds import Rounds, rounds_of


class VllmEpisodes(SampledEpisodes):
    """A TRL `rollout_func`, as `SampledEpisodes`; `batch_size` is vLLM's own affair."""

    _rounds: Rounds | None = None

    @contextmanager
    def _engine(self, trainer: Any) -> Iterator[tuple[Engine, int | None]]:
        if self._rounds is None:
            self._rounds = rounds_of(trainer)
        model = trainer.accelerator.unwrap_model(trainer.model)
        ends = eos_ids(model.generation_config, trainer.processing_class)
        with self._rounds.awake():
            engine = RoundsEngine(self._rounds, trainer.processing_class, eos_ids=ends)
            yield engine, self._longest(positions(model), self._rounds.longest)

    def _logprobs(self, episodes: Sequence[Episode], masks: Sequence[Sequence[int]]) -> list[list[float | None]] | None:
        return [drawn_logprobs(episode, mask) for episode, mask in zip(episodes, masks, strict=True)]

    async def _ended(self, engine: RoundsEngine) -> None:
        await engine.wait_for_others()
