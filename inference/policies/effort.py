"""Reasoning effort as a policy: the server's own switch, or a share of the budget for thinking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from laconic.inference.effort import EFFORTS, check_effort, effort_fields
from laconic.inference.engine import Capability, check_capabilities
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.budget import ThinkBudget
from laconic.inference.policies.plain import Plain
from laconic.rewards.errors import RecipeError

__all__ = ["EFFORTS", "SHARES", "EffortSwitch", "effort_fields", "thinking_tokens"]

SHARES: dict[str, float] = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.95}
"""Of the completion's budget, what thinking may take. Ours."""


@policy(paper="-")
@dataclass(frozen=True, kw_only=True)
class EffortSwitch:
    """Think as much as a level of effort allows.

    On an engine that can continue a prefix, "none" closes the thinking before it began, and every other level caps it
    at a share of the completion's budget, as `think_budget` does. Over a chat, where that is impossible, the level goes
    to the server as its own switch (`effort_fields`), if the engine was told how (`effort=`). What the model then does
    is trained into it: no share is kept to, and a dialect with on and off alone takes all levels but "none" as one.

    Source: common practice; the shares are ours.

    Args:
        effort: none, minimal, low, medium, high or xhigh.
        transition: Text before a closing tag that is put in.
        shares: Instead of `SHARES`, by level.
        native: Send the server's own switch, or never; None: where the engine cannot continue a prefix.
    """

    effort: str = "medium"
    transition: str = ""
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    native: bool | None = None

    def __post_init__(self) -> None:
        check_effort(self.effort)
        if self.effort != "none" and not 0 < self.shares.get(self.effort, 0) <= 1:
            raise RecipeError(
                f"effort_switch: shares={dict(self.shares)} has no share for {self.effort}",
                cure="give a number above 0 and at most 1",
            )

    async def run(self, ask: Ask) -> Answer:
        """Ask for the effort, or think up to the share and answer."""
        native = Capability.PREFIX not in ask.engine.capabilities if self.native is None else self.native
        needed = (Capability.EFFORT,) if native else (Capability.PREFIX, Capability.STOP)
        check_capabilities(ask.engine, needed, who="policy effort_switch")
        if native:
            answer = await Plain().run(replace(ask, sampling=replace(ask.sampling, effort=self.effort)))
        else:
            most = thinking_tokens(self.effort, ask.sampling.max_tokens, self.shares)
            answer = await ThinkBudget(maximum=most, transition=self.transition).run(ask)
        return replace(answer, notes={**answer.notes, "effort": self.effort, "native": native})


def thinking_tokens(effort: str, budget: int, shares: Mapping[str, float] = SHARES) -> int:
    """Thinking tokens that an effort allows, of a completion's budget; at least 1 unless the effort is "none".

    >>> [thinking_tokens(effort, 1000) for effort in EFFORTS]
    [0, 100, 200, 500, 800, 950]
    """
    return 0 if effort == "none" else max(1, round(shares[effort] * budget))
