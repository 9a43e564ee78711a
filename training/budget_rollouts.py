"""Chains of thought that answer at several budgets (AnytimeReasoner, arXiv:2505.13438), and BRPO's advantages of them.

    spec = Budgets(name="budgets", budgets=[2000, 4000, 6000, 8000])
    trainer = LaconicGRPOTrainer(
        ..., rollout_func=BudgetRollouts(spec, seed=0), after_scoring=[BudgetAdvantages(spec)]
    )

A chain of thought is drawn up to the largest budget. At every budget that it reaches, and where it ends, it is made to
answer, several times. Each answer is a row of its own, scored by the rewards like any other; an answer at a budget that
thinking did not reach is one more at its end. In the loss every token is once: each row's answer, and the thinking in
the row of the first answer at its end. The authors train the same tokens as one tree with an attention mask of its own;
here rows read the thinking again, but for those that the trainer leaves out because their answers are all as good.

Where thinking ends the sequence without a closing tag, it has no answers, which scores as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from trl import GRPOConfig

from laconic.inference.trace import THINK_CLOSE
from laconic.recipes.grpo_rollouts import Budgets
from laconic.recipes.stages import GrpoStage
from laconic.rewards.errors import RecipeError
from laconic.training.cut_rollouts import CutRollouts, Drawn, Step, answered, forks_at, room, together
from laconic.training.micro_batches import Batch
from laconic.training.rollouts import check_applicable
from laconic.training.scored import AfterScoring, Scored, loss_mask

ENDS = "thinking_ends"
"""The column with the places at which a chain of thought was made to answer."""


def budget_rollouts(spec: Budgets, arguments: GRPOConfig, **given: Any) -> BudgetRollouts:
    """The rollout function of a stage with answers at several budgets; `given` goes to `CutRollouts`.

    Raises:
        LaunchError: our engine does not draw its rollouts.
    """
    check_applicable(arguments, "answers at several budgets")
    return BudgetRollouts(spec, seed=arguments.seed, **given)


def budget_pieces(config: GrpoStage) -> list[AfterScoring]:
    """The advantages of a stage with answers at several budgets; nothing elsewhere."""
    return [BudgetAdvantages(config.rollouts)] if isinstance(config.rollouts, Budgets) else []


class BudgetRollouts(CutRollouts):
    """Groups of chains of thought, each with its answers at every budget.

    Args:
        spec: What a recipe says about them.
        **given: Of `CutRollouts`.
    """

    def __init__(self, spec: Budgets, **given: Any) -> None:
        super().__init__(**given)
        self.spec = spec

    def seat(self, place: int, size: int) -> tuple[int, int]:
        """Number n is answer ``n % answers`` at budget ``n // answers``."""
        return divmod(place, self.spec.rows)

    def begins(self, trunk: int, size: int) -> int:
        """The place of the first answer at the first budget."""
        return trunk * self.spec.rows

    def columns(self, drawn: Drawn) -> dict[str, Any]:
        """Where the chain of thought was made to answer."""
        return {ENDS: list(drawn.ends)}

    async def draw(self, step: Step, prompt: str, seed: int, wanted: Sequence[int]) -> dict[int, Drawn]:
        """Draw a chain of thought, and its answers that are wanted."""
        self._check_room(step)
        async with step.open(prompt, seed) as trunk:
            chunk = await trunk.generate(max_tokens=self.spec.budgets[-1], stop=[THINK_CLOSE], keep_stop=True)
            drawn = tuple(token.id for token in chunk.tokens)
            # What follows the closing tag within its token is no part of the branch.
            ids = drawn if chunk.ended else trunk.ids or ()
            ends = tuple(min(budget, len(ids)) for budget in self.spec.budgets)
            cuts = [min(end, len(drawn)) for end in ends for _ in range(self.spec.answers)]
            asked = [number for number in wanted if not (chunk.ended and cuts[number] == len(drawn))]
            forks = await forks_at(trunk, len(drawn), cuts, asked)
            await trunk.close("kept")
        cues = [self.spec.closed_cue if chunk.stop and end == len(ids) else self.spec.cue for end in ends]
        said = await together(
            answered(fork, cues[number // self.spec.answers], max_tokens=self.spec.answer_tokens)
            for number, fork in forks.items()
        )
        # The first row that has all of the thinking has it in the loss.
        thinks = ends.index(ends[-1]) * self.spec.answers
        parts = dict.fromkeys(wanted, (ids, (), ())) | dict(zip(forks, said, strict=True))
        return {
            number: Drawn(*parts[number], (number == thinks, False, True), answers=number in forks, ends=ends)
            for number in wanted
        }

    def _check_room(self, step: Step) -> None:
        cue = max(len(step.encode(self.spec.cue)), len(step.encode(self.spec.closed_cue)))
        limit, answer = step.sampling.max_tokens, self.spec.answer_tokens
        if (thinking := self.spec.budgets[-1]) > room(limit, cue=cue, answer=answer):
            raise RecipeError(
                f"max_completion_length {limit} has no room for {thinking} tokens of thinking, a cue of {cue} and an "
                f"answer of {answer}",
                cure=f"raise it to {thinking + cue + answer}, or lower rollouts.budgets",
            )


class BudgetAdvantages:
    """BRPO: every token of the thinking is credited with what came of it at the budgets still ahead.

    An answer's advantage is its score less the mean score of the answers at the same place of the same chain of
    thought. What could not be scored has none, and is left out of every mean.

    Args:
        spec: That of the rollouts.
    """

    def __init__(self, spec: Budgets) -> None:
        self.spec = spec

    def __call__(self, trainer: Any, scored: Scored) -> Batch:
        """Advantages of shape (B, T); none in an evaluation, whose rollouts are free."""
        if not trainer.model.training:
            return {}
        mask = loss_mask(scored.batch)
        scores = scored.rewards.view(-1, scored.num_generations // self.spec.rows, *self._shape)
        thinking = thinking_advantages(scores.nanmean(3), scores.new_tensor(self.spec.weights)).flatten(0, 1)
        scores, rows = scores.flatten(0, 1), self.spec.rows
        advantages = torch.zeros(mask.shape, dtype=scores.dtype, device=mask.device)
        for row, (place, told) in enumerate(zip(range(scored.mine.start, scored.mine.stop), scored.rows, strict=True)):
            chain, number = divmod(place, rows)
            ends = torch.tensor(told[ENDS], device=mask.device)
            advantages[row] = self._of_row(scores[chain], thinking[chain], ends, number, mask.shape[1])
        return {"advantages": torch.nan_to_num(advantages) * mask}

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.spec.budgets), self.spec.answers

    def _of_row(
        self, scores: torch.Tensor, thinking: torch.Tensor, ends: torch.Tensor, number: int, width: int
    ) -> torch.Tensor:
        """Of one row: its scores by budget and answer, its thinking's advantages and ends by budget."""
        budget, answer = divmod(number, self.spec.answers)
        places = torch.arange(width, device=ends.device)
        # The first budget that a token is before or at; those that thinking did not reach have no token.
        segments = torch.searchsorted(ends, places, right=True).clamp(max=len(ends) - 1)
        own = scores[budget, answer] - scores[ends == ends[budget]].nanmean()
        return torch.where(places < ends[budget], thinking[segments], own)


def thinking_advantages(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """BRPO's advantages of the thinking before each budget and after the one before.

    Formula, with s budgets before this one, S in all, and the weights ``w`` of this one and those that follow::

        return   = sum of w * score
        earlier  = (mean of the scores at earlier budgets, each worth twice as much as the one before it) * sum of w
        A        = return - (s / S * earlier + (S - s) / S * mean of the group's returns)

    A chain of thought without siblings has 0 for the group's mean.

    Budgets without a score are left out (ours; the authors score every answer): a return is scaled up to the weights of
    all budgets still ahead, the means go over what was scored, and where nothing was scored earlier the group's mean is
    the whole baseline. There is no advantage, NaN, where nothing that counts was scored ahead.

    Args:
        scores: Mean score of the answers at each budget, shape (..., G, S) for groups of G; NaN where there is none.
        weights: Of the budgets, shape (S,); they add up to 1.

    Source: Qi et al., "Optimizing Anytime Reasoning via Budget Relative Policy Optimization"; sail-sg/AnytimeReasoner,
        ``brpo.py``.

    >>> scores = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    >>> thinking_advantages(scores, torch.tensor([0.5, 0.5]))
    tensor([[ 0.2500,  0.3750],
            [-0.2500, -0.1250]])
    """
    known = ~scores.isnan()
    scores = scores.where(known, 0.0)
    budgets = torch.arange(scores.shape[-1], dtype=scores.dtype, device=scores.device)
    ahead, worth = _from_here_on(weights), 2.0**budgets
    returns = _from_here_on(scores * weights) * (ahead / _from_here_on(known * weights))
    scored_before = _before(known * worth)
    earlier = _before(scores * worth) / scored_before * ahead
    group = returns.nanmean(-2, keepdim=True) if scores.shape[-2] > 1 else torch.zeros_like(returns)
    share = budgets / len(budgets)
    return returns - torch.where(scored_before > 0.0, share * earlier + (1.0 - share) * group, group)


def _from_here_on(values: torch.Tensor) -> torch.Tensor:
    return values.flip(-1).cumsum(-1).flip(-1)


def _before(values: torch.Tensor) -> torch.Tensor:
    return values.cumsum(-1) - values
