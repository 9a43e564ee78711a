"""Reasoning effort: one scale for every server's dialect, and for engines that know none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from laconic.inference.engine import Capability
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.budget import ThinkBudget
from laconic.rewards.errors import RecipeError

Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Dialect: TypeAlias = Literal["openai", "openrouter", "gpt-oss", "enable_thinking", "thinking"]

EFFORTS: tuple[Effort, ...] = get_args(Effort)
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
_GPT_OSS: tuple[Effort, ...] = ("low", "medium", "high")

SHARES: dict[str, float] = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.95}
"""Of the completion's budget, what thinking may take. Ours."""


def effort_fields(dialect: str, effort: str) -> dict[str, Any]:
    """The fields of a chat request that ask for an effort in a server's dialect.

    Args:
        dialect: ``openai``: top-level ``reasoning_effort``. ``openrouter``: ``reasoning: {effort}``. ``gpt-oss``: the
            chat template's ``reasoning_effort``, which has low, medium and high only. ``enable_thinking`` (Qwen3) and
            ``thinking`` (DeepSeek): the chat template's switch; it is off for "none" and on for every other effort,
            which it cannot tell apart. Which efforts a hosted model takes is the model's: it answers 400 to others.
        effort: From none to xhigh.

    Raises:
        RecipeError: an unknown dialect or effort, or one that the dialect cannot say.

    >>> effort_fields("enable_thinking", "none"), effort_fields("openrouter", "low")
    ({'chat_template_kwargs': {'enable_thinking': False}}, {'reasoning': {'effort': 'low'}})
    """
    if dialect not in DIALECTS:
        raise RecipeError(f"unknown dialect {dialect!r}", cure=f"the dialects are {', '.join(DIALECTS)}")
    _check(effort)
    if dialect == "openai":
        return {"reasoning_effort": effort}
    if dialect == "openrouter":
        return {"reasoning": {"effort": effort}}
    if dialect == "gpt-oss":
        if effort not in _GPT_OSS:
            raise RecipeError(f"gpt-oss cannot be asked for effort {effort!r}", cure=f"use {', '.join(_GPT_OSS)}")
        return {"chat_template_kwargs": {"reasoning_effort": effort}}
    return {"chat_template_kwargs": {dialect: effort != "none"}}


@policy(paper="-", requires=(Capability.PREFIX, Capability.STOP))
@dataclass(frozen=True, kw_only=True)
class EffortSwitch:
    """Think as much as a level of effort allows, on any engine that can continue a prefix.

    "none" closes the thinking before it began; every other level caps it at a share of the completion's budget, as
    `think_budget` does. What the model does with a server's own field is trained into it and differs: to use that,
    send `effort_fields` to the server. Source: common practice; the shares are ours.

    Args:
        effort: none, minimal, low, medium, high or xhigh.
        transition: Text before a closing tag that is put in.
        shares: Instead of `SHARES`, by level.
    """

    effort: str = "medium"
    transition: str = ""
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))

    def __post_init__(self) -> None:
        _check(self.effort)
        if self.effort != "none" and not 0 < self.shares.get(self.effort, 0) <= 1:
            raise RecipeError(
                f"effort_switch: shares={dict(self.shares)} has no share for {self.effort}",
                cure="give a number above 0 and at most 1",
            )

    async def run(self, ask: Ask) -> Answer:
        """Think up to the share, then answer."""
        most = thinking_tokens(self.effort, ask.sampling.max_tokens, self.shares)
        return await ThinkBudget(maximum=most, transition=self.transition).run(ask)


def thinking_tokens(effort: str, budget: int, shares: Mapping[str, float] = SHARES) -> int:
    """Thinking tokens that an effort allows, of a completion's budget; at least 1 unless the effort is "none".

    >>> [thinking_tokens(effort, 1000) for effort in EFFORTS]
    [0, 100, 200, 500, 800, 950]
    """
    return 0 if effort == "none" else max(1, round(shares[effort] * budget))


def _check(effort: str) -> None:
    if effort not in EFFORTS:
        raise RecipeError(f"unknown effort {effort!r}", cure=f"the efforts are {', '.join(EFFORTS)}")
