"""Steering: activations are moved while the model thinks, towards shorter thinking."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast
from weakref import WeakSet

from laconic.inference.engine import Branch, Capability, Chunk, Engine, Hook, Internals, Steering, Token
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.plain import answer_of
from laconic.inference.policies.thinking import thinks
from laconic.inference.steering import Direction, check_fits
from laconic.rewards.errors import RecipeError


@policy(
    paper="arXiv:2507.04742, arXiv:2506.15647, arXiv:2504.07986",
    requires=(Capability.PREFIX, Capability.STOP, Capability.TOKEN_HOOK, Capability.HIDDEN_STATES, Capability.STEERING),
)
@dataclass(frozen=True)
class Steered:
    """One completion with a direction added to a layer's output, as `laconic.inference.steering` makes them.

    Rule: from the first token of the thinking on, h + strength * v at every token that is read, answer included (ASC,
    Efficiency Steering); a ``seal`` direction at those tokens alone that complete a step. v points from long to
    short, so a positive strength shortens. The tokens of the prompt and of an opening tag are read unsteered, so the
    first token of the thinking is still drawn as without steering; where there is no thinking it is the first two.

    From the papers: what is added where; ASC's strengths are 0.27 to 0.5 in units of its mean difference, SEAL's is 1.
    Ours: the beginning as described; that a direction is refused whose width or model is not this one's (`check_fits`,
    once per engine: it reads one short prompt, which is in no account); that no strength is a default: it is the
    calibrated one of the artefact, or given.
    """

    direction: str = ""
    """Path of the ``.npz`` that `Direction.save` wrote."""
    strength: float | None = None
    """How often the direction is added; negative lengthens. None: as calibrated."""

    def __post_init__(self) -> None:
        if not self.direction:
            raise RecipeError("steered: no direction", cure="give direction=, the path of one that was extracted")
        if self.strength is None and self._loaded.strength is None:
            raise RecipeError(
                f"steered: {self.direction} has no calibrated strength", cure="calibrate it, or give strength="
            )

    @cached_property
    def _loaded(self) -> Direction:
        return Direction.load(self.direction)

    @cached_property
    def _steering(self) -> Steering:
        strength = self._loaded.strength if self.strength is None else self.strength
        assert strength is not None
        return self._loaded.steering(strength)

    @cached_property
    def _fits(self) -> WeakSet[Engine]:
        return WeakSet()

    async def run(self, ask: Ask) -> Answer:
        """Let the thinking begin, then steer to the end."""
        if ask.engine not in self._fits:
            await check_fits(self._loaded, ask.engine)
            self._fits.add(ask.engine)
        trace = _Trace(ask, ask.open(follow=True), ask.sampling.max_tokens)
        chunk = await trace.go_on(hook=trace.begun())
        begun_after = ask.sampling.max_tokens - trace.left
        while not chunk.ended and trace.left > 0:
            if self._loaded.at_boundaries:
                chunk = await trace.step(self._steering, self._loaded.separator)
            else:
                chunk = await trace.rest(self._steering)
        await trace.branch.close("kept")
        text, how = trace.branch.text, "stop" if chunk.ended else "length"
        notes = {"layer": self._loaded.layer, "strength": self._steering.strength, "begun_after": begun_after}
        return Answer(text, answer_of(ask, text), how, ask.ledger, notes=notes)


@dataclass
class _Trace:
    ask: Ask
    branch: Branch
    left: int
    """Tokens it may still generate."""
    newest: Token | None = None

    async def rest(self, steering: Steering) -> Chunk:
        """To the closing tag or the end, steered everywhere."""
        cast("Internals", self.branch).steer(steering)
        return await self.go_on()

    async def step(self, steering: Steering, separator: str) -> Chunk:
        """After a boundary one token, which is what reads it; else to the next boundary."""
        # A token without a text completes nothing.
        at_boundary = self.newest is not None and self.newest.text != "" and self.branch.text.endswith(separator)
        cast("Internals", self.branch).steer(steering if at_boundary else None)
        return await (self.go_on(max_tokens=1) if at_boundary else self.go_on(hook=self.boundary(separator)))

    async def go_on(self, *, max_tokens: int | None = None, hook: Hook | None = None) -> Chunk:
        """Generate, thinking and answer accounted apart."""
        ask, closed = self.ask, self.ask.think_close in self.branch.text
        chunk = await self.branch.generate(
            max_tokens=self.left if max_tokens is None else max_tokens,
            stop=[] if closed else [ask.think_close],
            keep_stop=True,
            role="answer" if closed else "think",
            hook=hook,
        )
        self.left -= len(chunk.tokens)
        self.newest = chunk.tokens[-1]
        if not closed and thinks(ask, self.branch.text) is False and ask.think_close not in self.branch.text:
            self.branch.relabel("answer")
        return chunk

    def begun(self) -> Hook:
        """True at the token after the one that showed whether the model thinks."""
        text = ""

        def sees(token: Token) -> bool:
            nonlocal text
            known = thinks(self.ask, text) is not None
            text += token.text
            return known

        return sees

    def boundary(self, separator: str) -> Hook:
        """True at the token that completes a step."""
        text = self.branch.text

        def sees(token: Token) -> bool:
            nonlocal text
            text += token.text
            return token.text != "" and text.endswith(separator)

        return sees
