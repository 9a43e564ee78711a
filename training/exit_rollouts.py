"""Early exits: free rollouts, cut in their thinking and made to answer (S-GRPO, arXiv:2505.07686; JET, 2509.23392).

    rollouts = ExitRollouts(EarlyExits(name="early_exits", cuts="random", cue="That will do.</think>"), seed=0)
    trainer = LaconicGRPOTrainer(..., rollout_func=rollouts)

An exit is a rollout like any other: what it has of the free one, the cue, and an answer of its own. All that the model
drew is in the loss, the shared beginning in every exit's; the cue is there if it is to be learned. JET's code trains on
it. Of S-GRPO no code is known; its loss is over whole truncated outputs, and whether those have the cue in them is not
said in the sources.

Where the thinking is shorter than it has cuts, several exits are at one place. A rollout that did not think has exits
before its first token, and one that the token limit cut, or that ended without closing its thinking, is cut as if all
of it were thinking.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from trl import GRPOConfig

from laconic.inference.engine import Branch
from laconic.recipes.grpo_rollouts import EarlyExits
from laconic.training.cut_rollouts import CutRollouts, Drawn, Step, answered, forks_at, room, together
from laconic.training.rollouts import check_applicable


def exit_rollouts(spec: EarlyExits, arguments: GRPOConfig, **given: Any) -> ExitRollouts:
    """The rollout function of a stage with early exits; `given` goes to `CutRollouts`.

    Raises:
        LaunchError: our engine does not draw its rollouts.
    """
    check_applicable(arguments, "early exits")
    return ExitRollouts(spec, seed=arguments.seed, **given)


class ExitRollouts(CutRollouts):
    """Groups of free rollouts and their early exits.

    Args:
        spec: What a recipe says about them.
        **given: Of `CutRollouts`.
    """

    def __init__(self, spec: EarlyExits, **given: Any) -> None:
        super().__init__(**given)
        self.spec = spec

    def seat(self, place: int, size: int) -> tuple[int, int]:
        """Number 0 is the free rollout itself, the others are its exits from short to long."""
        if place < self.spec.free:
            return place, 0
        trunk, before = divmod(place - self.spec.free, self.spec.exits(size))
        return trunk, 1 + before

    def begins(self, trunk: int, size: int) -> int:
        """The place of the free rollout."""
        return trunk

    async def draw(self, step: Step, prompt: str, seed: int, wanted: Sequence[int]) -> dict[int, Drawn]:
        """Draw a free rollout, and its exits that are wanted."""
        async with step.open(prompt, seed) as trunk:
            chunk = await trunk.generate(max_tokens=step.sampling.max_tokens)
            ids = tuple(token.id for token in chunk.tokens)
            cuts = self._cuts(step, ids, seed)
            exits = [number - 1 for number in wanted if number]
            forks = await forks_at(trunk, len(ids), cuts, exits)
            await trunk.close("kept")
        drawn = await together(self._exit(step, fork) for fork in forks.values())
        return {0: Drawn(ids), **{number + 1: one for number, one in zip(exits, drawn, strict=True)}}

    async def _exit(self, step: Step, fork: Branch) -> Drawn:
        left = step.sampling.max_tokens - len(step.encode(self.spec.cue)) - len(fork.ids or ())
        parts = await answered(fork, self.spec.cue, max_tokens=self.spec.answer_tokens or left)
        return Drawn(*parts, learned=(True, self.spec.learn_cue, True))

    def _cuts(self, step: Step, ids: Sequence[int], seed: int) -> list[int]:
        """Tokens of the free rollout that its exits keep, ascending."""
        most = room(step.sampling.max_tokens, cue=len(step.encode(self.spec.cue)), answer=self.spec.answer_tokens or 1)
        thinking, exits = min(step.thinking(ids), most), self.spec.exits(step.size)
        if not thinking:
            return [0] * exits
        if isinstance(self.spec.cuts, tuple):
            return [max(1, int(share * thinking)) for share in self.spec.cuts]
        numbers = random.Random(seed)
        return sorted(numbers.randint(1, thinking) for _ in range(exits))
