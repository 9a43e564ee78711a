"""Advantages that TRL does not compute, each a piece between the rewards and the loss.

    LaconicGRPOTrainer(..., after_scoring=pieces(config, scorer))

One number per rollout comes from `laconic.rewards.advantages`. Where a method weighs tokens of one rollout differently,
the advantages have one per token: TRL's policy term is linear in them, clipping included, as long as weights are
positive; its divergence and entropy terms do not see them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from laconic.recipes.grpo_advantages import Dler, Hgpo, Thinkless
from laconic.recipes.stages import GrpoStage
from laconic.rewards.advantages import Estimator, dler, dr_saf, grpo, rewards_themselves, rloo
from laconic.rewards.group import Array, Group
from laconic.rewards.group import Batch as Groups
from laconic.rewards.mode.choice import between_modes
from laconic.rewards.mode.reading import thinks
from laconic.training.group_scorer import GroupScorer
from laconic.training.micro_batches import Batch
from laconic.training.scored import AfterScoring, Scored, loss_mask

ESTIMATORS: dict[str, Estimator] = {"rloo": rloo, "dr_saf": dr_saf, "rewards": rewards_themselves}
"""Those without parameters."""


def pieces(config: GrpoStage, scorer: GroupScorer) -> list[AfterScoring]:
    """What a stage's `advantages` put in the place of TRL's; nothing where the stage has none.

    Args:
        config: The stage.
        scorer: Of its rewards.
    """
    spec = config.advantages
    if spec is None:
        return []
    if isinstance(spec, Thinkless):
        return [Decoupled(spec.control_weight)]
    if isinstance(spec, Hgpo):
        scorer.require("mode")
        return [Hybrid(spec.alpha, spec.delta, modes=lambda: scorer.column("mode"))]
    return [Estimated(partial(dler, boost=spec.boost) if isinstance(spec, Dler) else ESTIMATORS[spec.name])]


@dataclass(frozen=True)
class Estimated:
    """One advantage per rollout, by an estimator of `laconic.rewards.advantages`.

    Lengths are the tokens in the loss.
    """

    estimator: Estimator

    def __call__(self, trainer: Any, scored: Scored) -> Batch:
        """Advantages of shape (B,)."""
        return {"advantages": _own(scored, self.estimator(_groups(scored), _rewards(scored)))}


@dataclass(frozen=True)
class Decoupled:
    """Thinkless: the mean loss of first tokens, which choose the mode, beside the mean loss of all others.

    Formula, with the generation's K tokens, N of them first in their rollouts::

        A          = r - mean of the group
        first      = control_weight * K / N * A
        all others = K / (K - N) * A

    Under ``loss_type: dapo``, which divides by K, the loss of a generation is then

        control_weight * mean over first tokens + mean over all other tokens

    The released code takes both means over each mini-batch; with several optimiser steps per generation they are the
    whole generation's here, as TRL's own denominator is.

    Args:
        control_weight: The authors' alpha.
    """

    control_weight: float = 0.001

    def __call__(self, trainer: Any, scored: Scored) -> Batch:
        """Advantages of shape (B, T)."""
        centred = _own(scored, grpo(_groups(scored), _rewards(scored), scale="none"))
        first, others = _first_and_others(scored, like=centred)
        tokens = scored.batch["num_items_in_batch"]
        firsts = trainer.accelerator.gather(first.sum()).sum()
        weight = self.control_weight * tokens / firsts.clamp(min=1)
        weights = weight * first + tokens / (tokens - firsts).clamp(min=1) * others
        return {"advantages": centred[:, None] * weights}


@dataclass(frozen=True)
class Hybrid:
    """HGPO: rollouts compete within their mode, and on the first token the modes with each other.

    Formula::

        within  = standardised over the rollouts of the same mode and group: 1 for the best of them, else 0
        between = standardised over the group: 1 in the mode that wins, else 0
        A       = within + alpha * between  on the first token,  within  on all others

    Thinking wins if its mean reward is more than ``delta`` above the other's. Rollouts that share the best reward of
    their mode are all best. Of the group whose modes were not both sampled nothing is said between them. A rollout from
    which no mode can be read counts as thinking, but its first token chose nothing, so it gets no ``between``.
    The paper's formula leaves open whether ``within`` is standardised over the mode or the group; its figure has one
    such advantage per mode.

    Args:
        alpha: Weight of ``between``.
        delta: In units of reward.
        modes: Of the rollouts scored last, on all processes.
    """

    alpha: float
    delta: float
    modes: Callable[[], Sequence[str | None]]

    def __call__(self, trainer: Any, scored: Scored) -> Batch:
        """Advantages of shape (B, T)."""
        modes, groups = np.array(self.modes(), dtype=object), _groups(scored)
        pairs = zip(groups.split(_rewards(scored)), groups.split(modes), strict=True)
        found = [_within_and_between(rewards, tuple(of_group), self.delta) for rewards, of_group in pairs]
        within, between = (_own(scored, np.concatenate(parts)) for parts in zip(*found, strict=True))
        chose = torch.tensor([mode is not None for mode in modes[scored.mine]], device=within.device)
        first, others = _first_and_others(scored, like=within)
        advantages = (within + self.alpha * between * chose)[:, None] * first + within[:, None] * others
        return {"advantages": advantages}


def _within_and_between(rewards: Array, modes: tuple[str | None, ...], delta: float) -> tuple[Array, Array]:
    """HGPO's two advantages of one group, each of shape (G,); 0 where a reward is NaN."""
    scored = ~np.isnan(rewards)
    within, winner = np.full((2, len(rewards)), np.nan)
    thinking = thinks(Group.of(scored, scored, mode=modes))
    for mode in (thinking & scored, ~thinking & scored):
        if mode.any():
            best = rewards[mode] == rewards[mode].max()
            within[mode] = _standardised(best.astype(float))
    winner[scored] = between_modes(rewards[scored], thinking[scored], delta)
    return np.nan_to_num(within, nan=0.0), _standardised(winner)


def _standardised(rewards: Array) -> Array:
    return grpo(_sizes(np.ones((1, len(rewards)))), rewards, eps=1e-6)


def _first_and_others(scored: Scored, *, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first token of each completion and all others, where they are in the loss; shape (B, T)."""
    mask = loss_mask(scored.batch).to(like)
    first = mask.clone()
    first[:, 1:] = 0
    return first, mask - first


def _groups(scored: Scored) -> Groups:
    return _sizes(scored.tokens.double().cpu().numpy().reshape(-1, scored.num_generations))


def _sizes(tokens: Array) -> Groups:
    """Groups of rollouts of which nothing but the length is known."""
    return Groups.of(*(Group.of(np.zeros(len(row), dtype=bool), row) for row in tokens))


def _rewards(scored: Scored) -> Array:
    return scored.rewards.double().cpu().numpy()


def _own(scored: Scored, found: Array) -> torch.Tensor:
    """This process's of all rollouts' advantages, as TRL's are."""
    return torch.as_tensor(found[scored.mine]).to(scored.batch["advantages"])
