"""MUR: more candidates only for the steps that are less certain than those before."""

from __future__ import annotations

import math
from dataclasses import dataclass

from laconic.inference.engine import Capability
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.phi_decoding import norm_logprob
from laconic.inference.policies.steps import (
    SEPARATOR,
    STEPWISE,
    Path,
    check,
    check_steps,
    discard,
    score_paths,
    settle,
    together,
)


@dataclass
class Momentum:
    """Momentum uncertainty m, and whether a step stands out from it.

    Rule: exp(m) / rate < exp(u) with the m of the steps before, never for the first; then
    m = momentum * m + (1 - momentum) * u.
    """

    momentum: float = 0.9
    rate: float = 0.9
    value: float = 0.0
    steps: int = 0

    def stands_out(self, uncertainty: float) -> bool:
        """Take the next step's uncertainty; returns whether it deserves more candidates."""
        out = self.steps > 0 and math.exp(self.value) / self.rate < math.exp(uncertainty)
        self.value = self.momentum * self.value + (1.0 - self.momentum) * uncertainty
        self.steps += 1
        return out


@policy(paper="arXiv:2507.14958", requires=(*STEPWISE, Capability.LOGPROBS), scorer=True)
@dataclass(frozen=True)
class Mur:
    """Momentum uncertainty guided reasoning: an uncertain step is drawn again and the best scored one is taken.

    Rule: the uncertainty of a step is minus the mean log-probability of its tokens; if it stands out from its momentum,
    further candidates are drawn for that step, all are scored, and the best goes on.

    Defaults: the paper's momentum 0.9 and rate 0.9. Ours: 4 candidates in all, at most 40 steps, then the path runs to
    its end; the momentum takes the uncertainty of the first candidate, whichever goes on.
    """

    momentum: float = 0.9
    rate: float = 0.9
    """The smaller, the rarer further candidates."""
    candidates: int = 4
    """For a step that stands out, the first one included."""
    max_steps: int = 40
    """Steps at most."""
    separator: str = SEPARATOR
    """Ends a step: what the model writes between steps, such as ";" after this project's own teachers."""

    def __post_init__(self) -> None:
        check_steps(max_steps=self.max_steps, separator=self.separator)
        check(0 <= self.momentum < 1, f"momentum={self.momentum}", "it is from 0 to below 1")
        check(0 < self.rate <= 1, f"rate={self.rate}", "it is above 0 and at most 1")
        check(self.candidates >= 2, f"candidates={self.candidates}", "there are at least two to choose from")

    async def run(self, ask: Ask) -> Answer:
        """Step by step, with more candidates where they are needed."""
        momentum = Momentum(self.momentum, self.rate)
        path = Path(ask.open())
        scaled: list[bool] = []
        while path.finish is None and len(scaled) < self.max_steps:
            before = await path.fork(ask)
            await path.grow(ask, separator=self.separator)
            ask.ledger.barrier()
            scaled.append(momentum.stands_out(-norm_logprob(path.tokens)))
            if scaled[-1]:
                path = await self._best(ask, path, before)
            await discard([before])
            ask.tell(path.text, path.branch)
        path.branch = ask.follow(path.branch)
        await path.grow(ask, to_end=True)
        return await settle(ask, path, notes={"scaled": scaled, "momentum": momentum.value})

    async def _best(self, ask: Ask, path: Path, before: Path) -> Path:
        others = [await before.fork(ask) for _ in range(self.candidates - 1)]
        await together(ask, [other.grow(ask, separator=self.separator) for other in others])
        drawn = [path, *others]
        await score_paths(ask, drawn)
        best = max(drawn, key=lambda one: one.scores[-1])
        await discard(one for one in drawn if one is not best)
        return best
