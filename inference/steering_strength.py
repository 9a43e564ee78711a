"""How strongly to steer: as strongly as a bound on the change of the model's next-token distributions allows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from laconic.inference.engine import Array, Capability, Engine, Internals, Prompt, Sampling, check_capabilities
from laconic.inference.ledger import Ledger
from laconic.inference.steering import Direction
from laconic.rewards.errors import DataError, RecipeError


def kl_terms(unsteered: Array, steered: Array) -> Array:
    """One term per token whose mean estimates KL(steered || unsteered), in nats: r log r - r + 1.

    r is the ratio of the steered model's probability of a token to the unsteered one's. Where tokens are drawn from
    the unsteered model, r log r has the divergence as its mean and r - 1 has 0, so the estimate is unbiased; no term is
    below 0.

    >>> p, q = np.array([0.5, 0.5]), np.array([0.8, 0.2])  # all tokens, weighted by how often they are drawn
    >>> bool(np.isclose(p @ kl_terms(np.log(p), np.log(q)), q @ np.log(q / p)))
    True

    Args:
        unsteered: Log-probabilities of the tokens, natural logarithms.
        steered: Of the same tokens.
    """
    log_ratio = np.asarray(steered, dtype=np.float64) - np.asarray(unsteered, dtype=np.float64)
    return np.exp(log_ratio) * log_ratio - np.expm1(log_ratio)


async def draw_traces(
    engine: Engine, prompts: Sequence[Prompt], *, max_tokens: int, seed: int = 0, ledger: Ledger | None = None
) -> list[tuple[Prompt, str]]:
    """The model's own traces, as `calibrate` wants them: drawn at temperature 1, each from the seed plus its place.

    Args:
        engine: Unsteered.
        prompts: None that the direction was extracted from.
        max_tokens: Of each trace at most.
        seed: Equal seeds give equal traces.
        ledger: The account of what is generated.
    """

    async def draw(prompt: Prompt, seed: int) -> tuple[Prompt, str]:
        async with engine.open(prompt, ledger=ledger or Ledger(), sampling=Sampling(), seed=seed) as branch:
            return prompt, (await branch.generate(max_tokens=max_tokens)).text

    return await asyncio.gather(*(draw(prompt, seed + place) for place, prompt in enumerate(prompts)))


async def mean_kl(
    engine: Engine,
    direction: Direction,
    strength: float,
    traces: Sequence[tuple[Prompt, str]],
    *,
    ledger: Ledger | None = None,
) -> tuple[float, int]:
    """Mean `kl_terms` over all tokens of the traces, and how many these are.

    Raises:
        DataError: the traces are empty.
        LaunchError: the engine cannot steer, or gives no likelihoods.
    """
    meter = _Meter(engine, direction, traces, ledger)
    return await meter.kl(strength), await meter.tokens()


async def calibrate(
    engine: Engine,
    direction: Direction,
    traces: Sequence[tuple[Prompt, str]],
    *,
    bound: float,
    smallest: float = 0.01,
    largest: float = 4.0,
    refinements: int = 6,
    ledger: Ledger | None = None,
) -> Direction:
    """The direction with the largest strength whose mean KL(steered || unsteered) is at most the bound.

    That a bound on this divergence sets the strength is ASC's idea, which derives it in closed form from a
    linearisation. Ours: it is measured, as `kl_terms`, at every token of held-out traces of the unsteered model;
    strengths are doubled from `smallest` until one exceeds the bound, and the last interval is halved `refinements`
    times, so nothing is taken beyond the first strength that was seen to fail. A direction for step boundaries is
    measured as if it were added everywhere, which changes more.

    Args:
        engine: With steering and likelihoods.
        direction: As extracted.
        traces: Held-out prompts and what the model said, drawn at temperature 1; see `draw_traces`.
        bound: Nats per token.
        smallest: The first strength tried; in the direction's own length.
        largest: The last.
        refinements: How often the last interval is halved.
        ledger: The account to enter what is read into.

    Raises:
        DataError: the traces are empty, or even the smallest strength exceeds the bound.
        LaunchError: the engine cannot steer, or gives no likelihoods.
        RecipeError: a number is out of range.
    """
    if bound <= 0 or not 0 < smallest <= largest:
        raise RecipeError(
            f"bound={bound}, smallest={smallest}, largest={largest}",
            cure="give a bound above 0, and strengths above 0 in order",
        )
    meter = _Meter(engine, direction, traces, ledger)
    fine, kl, low = 0.0, 0.0, smallest
    while fine < largest and (found := await meter.kl(low)) <= bound:
        fine, kl, low = low, found, min(2 * low, largest)
    if fine == 0.0:
        raise DataError(
            f"no strength from {smallest} on keeps the divergence at or below {bound} nats per token: at {smallest} "
            f"it is {found:.3g}",
            cure="allow more, extract the direction from another layer, or begin at a smaller strength",
        )
    high = low if fine < largest else fine
    for _ in range(refinements if high > fine else 0):
        middle = (fine + high) / 2
        if (found := await meter.kl(middle)) <= bound:
            fine, kl = middle, found
        else:
            high = middle
    return replace(direction, strength=fine, kl=kl, kl_bound=bound, kl_tokens=await meter.tokens())


class _Meter:
    """Measures divergences; what the unsteered model gives the traces is read once."""

    def __init__(
        self, engine: Engine, direction: Direction, traces: Sequence[tuple[Prompt, str]], ledger: Ledger | None
    ) -> None:
        check_capabilities(engine, (Capability.STEERING, Capability.SCORE), who="calibrating a strength")
        self.engine, self.direction = engine, direction
        self.traces, self.ledger = [trace for trace in traces if trace[1]], ledger or Ledger()
        if not self.traces:
            raise DataError("a strength from no traces", cure="give held-out traces that say something")
        self._unsteered: Array | None = None

    async def tokens(self) -> int:
        return len(await self._plain())

    async def kl(self, strength: float) -> float:
        plain = await self._plain()
        return float(kl_terms(plain, await self._scores(strength)).mean())

    async def _plain(self) -> Array:
        if self._unsteered is None:
            self._unsteered = await self._scores(None)
        return self._unsteered

    async def _scores(self, strength: float | None) -> Array:
        found: list[float] = []
        for prompt, text in self.traces:
            async with self.engine.open(prompt, ledger=self.ledger) as branch:
                inner = cast("Internals", branch)
                if strength is not None:
                    inner.steer(self.direction.steering(strength))
                found += await inner.score(text)
        return np.array(found)
