"""What engines have that cannot look inside the model: one error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from laconic.inference.engine import Array, Capability, Steering
from laconic.rewards.errors import LaunchError

INTERNALS = frozenset({Capability.SCORE, Capability.HIDDEN_STATES, Capability.STEERING, Capability.KV_EDIT})
"""The capabilities behind `laconic.inference.engine.Internals`."""


class WithoutInternals:
    """Implements `laconic.inference.engine.Internals` by refusing.

    Raises:
        LaunchError: always; the message names what is missing.
    """

    async def score(self, text: str) -> tuple[float, ...]:
        """Needs the weights at hand."""
        self._refuse(Capability.SCORE)

    async def hidden(self, layer: int = -1, *, last: int = 1) -> Array:
        """Needs the weights at hand."""
        self._refuse(Capability.HIDDEN_STATES)

    def steer(self, steering: Steering | None) -> None:
        """Needs the weights at hand."""
        self._refuse(Capability.STEERING)

    async def attention(self, *, last: int) -> Array:
        """Needs the weights at hand."""
        self._refuse(Capability.KV_EDIT)

    async def evict(self, keep: Sequence[Sequence[int]]) -> None:
        """Needs the weights at hand."""
        self._refuse(Capability.KV_EDIT)

    def _refuse(self, capability: Capability) -> NoReturn:
        raise LaunchError(
            f"{type(self).__name__} has no {capability.value}",
            cure="run the model in this process (TransformersEngine), or choose a policy that works without",
        )
