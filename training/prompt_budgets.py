"""Prompts that name a budget of tokens (L1, arXiv:2503.04697), put together when rollouts are made.

Which budget a problem names depends on the stage's seed, the problem and the step alone: every process, and a resumed
run, asks the same, and the data set keeps its order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from laconic.recipes.grpo_budgets import PromptBudgets
from laconic.rewards.group import Progress
from laconic.rewards.records import Rollout


class BudgetedPrompts:
    """Puts the sentence that names a budget after each prompt, and the budget into the row's column `budget`.

    Args:
        budgets: Of the stage.
        seed: Of the stage.
    """

    def __init__(self, budgets: PromptBudgets, *, seed: int) -> None:
        self.budgets, self.seed = budgets, seed

    def __call__(self, trainer: Any, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The rows that a trainer is about to make rollouts of, with budgets; they stay as they are."""
        progress = Progress(trainer.state.global_step, trainer.state.max_steps)
        return [self._row(row, self.budget(row["problem_id"], progress)) for row in rows]

    def budget(self, problem_id: str, progress: Progress) -> int:
        """Tokens that a problem asks for at a step; negative: at most so many."""
        draw = _number(self.seed, progress.step, problem_id) % self.budgets.draws
        low, high = budget_range(self.budgets, progress.share)
        tokens = low + int(_share(self.seed, "tokens", draw, problem_id) * (high - low + 1))
        return -tokens if _share(self.seed, "kind", draw, problem_id) < self.budgets.at_most_share else tokens

    def _row(self, row: Mapping[str, Any], budget: int) -> dict[str, Any]:
        sentence = self.budgets.at_most if budget < 0 else self.budgets.exact
        *before, last = row["prompt"]
        asked = {**last, "content": last["content"] + sentence.replace("{budget}", str(abs(budget)))}
        return {**row, "prompt": [*before, asked], "budget": budget}


def asked_budgets(budgets: PromptBudgets | None, *, seed: int) -> dict[str, Any]:
    """What a trainer is given for them; nothing where there are none."""
    return {} if budgets is None else {"before_generation": BudgetedPrompts(budgets, seed=seed)}


def budget_range(budgets: PromptBudgets, share: float) -> tuple[int, int]:
    """The least and the largest budget after a share of training."""
    if budgets.schedule is None:
        return budgets.low, budgets.high
    shares, lows, highs = zip(*budgets.schedule, strict=True)
    return round(float(np.interp(share, shares, lows))), round(float(np.interp(share, shares, highs)))


def budget_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """How well rollouts keep to what their prompts asked for.

    Returns:
        `budget/tokens`, the mean of what was asked for; `budget/deviation`, how far rollouts are from it, as a share of
        it, where it was an exact number; `budget/exceeded`, the share of the rollouts that are longer, where it was an
        upper bound. Nothing that there is no rollout for.
    """
    rows = [(rollout.meta["budget"], rollout.tokens) for rollout in rollouts if rollout.meta.get("budget")]
    if not rows:
        return {}
    budgets, tokens = np.array(rows, dtype=float).T
    asked, exact = np.abs(budgets), budgets > 0
    metrics = {"budget/tokens": asked.mean()}
    if exact.any():
        metrics["budget/deviation"] = (np.abs(tokens - asked) / asked)[exact].mean()
    if not exact.all():
        metrics["budget/exceeded"] = (tokens > asked)[~exact].mean()
    return {name: float(value) for name, value in metrics.items()}


def _share(*parts: Any) -> float:
    """Uniform in [0, 1)."""
    # 53 bits: what a float holds of it.
    return (_number(*parts) >> 11) / 2**53


def _number(*parts: Any) -> int:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big")
