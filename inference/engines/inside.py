"""What branches of the in-process engine can do because the weights are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from laconic.inference.engine import Array, Capability, Steering
from laconic.inference.engines.steering import changed
from laconic.inference.engines.strands import Strand
from laconic.inference.ledger import Account
from laconic.rewards.errors import LaunchError, RecipeError

if TYPE_CHECKING:
    from laconic.inference.engines.transformers import TransformersEngine


class Inside:
    """Implements `laconic.inference.engine.Internals` for a branch."""

    engine: TransformersEngine
    strand: Strand
    account: Account
    _sure: int

    async def score(self, text: str) -> tuple[float, ...]:
        """Log-probabilities of the tokens of `text`, encoded by itself as `extend` does it, if it came next.

        Raises:
            DataError: the model has not enough positions.
            ModelError: its logits are not finite.
            LaunchError: the branch is closed, or generates.
        """
        self._check_idle()
        ids = self._encode(text) if text else []
        self.engine.check_length(len(self.strand.ids), len(ids))
        if not ids:
            return ()
        self.account.ledger.scored += len(ids)
        return await self.engine.call(self.engine.insights.score, self.strand, ids)

    async def hidden(self, layer: int = -1, *, last: int = 1) -> Array:
        """States of a layer at the newest tokens, shape (last, hidden), float32, oldest first.

        As the model gives them: the last layer's are those behind the final norm. Tokens that were read before are read
        again in one pass, which leaves the cache as it is.

        Raises:
            RecipeError: there is no such layer, or there are fewer tokens (after an eviction: that no layer evicted).
            ModelError: the logits are not finite.
            LaunchError: the branch is closed, or generates.
        """
        self._check_inside("hidden", last)
        layers = self.engine.decoder.passes.config.num_hidden_layers
        if not -layers - 1 <= layer <= layers:
            cure = f"layers go from 0, the embedding, to {layers}, which is also -1"
            raise RecipeError(f"hidden: layer {layer}", cure=cure)
        return await self.engine.call(self.engine.insights.hidden, self.strand, layer, last)

    def steer(self, steering: Steering | None) -> None:
        """Edit activations at the newest token, which gives the next one, and at all that come after it.

        What was read before stays as it was read, the prompt but its last token included; that one is read again. Other
        branches of the same batch, the branch this one was forked from, and earlier forks are left alone.

        Raises:
            RecipeError: there is no such layer, or the vector has another shape.
            LaunchError: the branch is closed, or generates; or the model's layers were not found.
        """
        self._check_idle()
        self._need(Capability.STEERING)
        if steering is not None:
            self.engine.decoder.passes.steerer.check(steering)
        newest = len(self.strand.ids) - 1
        self.strand.steered = changed(self.strand.steered, newest, steering)
        self._sure = min(self._sure, newest)
        self.engine.between_ticks(self.engine.decoder.seats.forget, self.strand, newest)

    async def attention(self, *, last: int) -> Array:
        """How the newest tokens look back: shape (layers, last, length), averaged over heads.

        They are read again in one pass with an attention that gives its weights; the cache stays as it is. Each row
        sums to 1 over the kept positions up to its own token. float32.

        Raises:
            RecipeError: there are fewer tokens (after an eviction: that no layer evicted).
            ModelError: the logits are not finite.
            LaunchError: the branch is closed, or generates; or the model attends in a window.
        """
        self._need(Capability.KV_EDIT)
        self._check_inside("attention", last)
        return await self.engine.call(self.engine.insights.attention, self.strand, last)

    async def evict(self, keep: Sequence[Sequence[int]]) -> None:
        """Forget keys and values from the newest token on: it is read again, and sees only what is kept.

        Places count among what was kept so far, as in `attention`; later tokens keep their positions in the text.
        Later forks share the eviction, earlier ones and the branch this one was forked from do not.

        Raises:
            RecipeError: not as many places for every layer, not ascending, or without the newest one.
            LaunchError: the branch is closed, or generates; or the model attends in a window.
        """
        self._need(Capability.KV_EDIT)
        self._check_idle()
        self.engine.check_length(len(self.strand.ids), 0)
        evicted = self.strand.evictions
        length = len(self.strand.ids) - (evicted[-1].length - evicted[-1].keep.shape[1] if evicted else 0)
        columns = check_places(keep, layers=self.engine.decoder.passes.config.num_hidden_layers, length=length)
        if len(keep[0]) < length:
            self._sure = min(self._sure, len(self.strand.ids) - 1)
            await self.engine.call(self.engine.insights.evict, self.strand, columns[:, :-1])

    def _check_inside(self, what: str, last: int) -> None:
        self._check_idle()
        self.engine.check_length(len(self.strand.ids), 0)
        most = len(self.strand.ids) - self.strand.solid
        if not 1 <= last <= most:
            raise RecipeError(f"{what}: last={last}", cure=f"from 1 to the {most} newest tokens whose states are whole")

    def _need(self, capability: Capability) -> None:
        if capability not in self.engine.capabilities:
            raise LaunchError(
                f"this model's layers allow no {capability.value}",
                cure="use a decoder with full attention in all layers",
            )

    def _check_idle(self) -> None:
        raise NotImplementedError


def check_places(keep: Sequence[Sequence[int]], *, layers: int, length: int) -> torch.Tensor:
    """The places to keep, shape (layers, kept).

    Raises:
        RecipeError: not as many for every layer, not ascending, or without the newest one.
    """
    legal = len(keep) == layers and len({len(places) for places in keep}) == 1 and len(keep[0]) > 0
    columns = torch.as_tensor(np.asarray(keep, dtype=np.int64)) if legal else None
    if (
        columns is None
        or columns[:, 0].min() < 0
        or (columns.diff() <= 0).any()
        or (columns[:, -1] != length - 1).any()
    ):
        raise RecipeError(
            "evict: places that cannot be kept",
            cure=f"for each of the {layers} layers as many ascending places from 0 to {length - 1}; the last of them, "
            "which is the newest token, stays",
        )
    return columns
