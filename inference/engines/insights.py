"""Looking inside the model and at the cache, in the engine's own thread: nothing here draws a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from laconic.inference.engine import Array
from laconic.inference.engines.decode_loop import Decoder
from laconic.inference.engines.draw import broken_rows, not_finite
from laconic.inference.engines.strands import Strand

SCORE_TOKENS = 512
"""Tokens whose logits are held at once."""


class Insights:
    """What `laconic.inference.engine.Internals` asks of the model.

    Args:
        decoder: Whose rows and passes are used.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.passes = decoder, decoder.passes

    @torch.inference_mode()
    def score(self, strand: Strand, text: Sequence[int]) -> tuple[float, ...]:
        """Log-probabilities of tokens as they would follow the strand, which stays as it is.

        Raises:
            ModelError: the logits are not finite.
        """
        self._seat(strand)
        ids, found = [*strand.ids, *text], []
        start = min(strand.cached, len(strand.ids) - 1)
        cache = self.passes.aside(strand, start)
        for first in range(start, len(ids) - 1, SCORE_TOKENS):
            # The last token is followed by nothing that counts.
            tokens = ids[first : min(first + SCORE_TOKENS, len(ids) - 1)]
            from_column = min(max(0, len(strand.ids) - 1 - first), len(tokens) - 1)
            keep = torch.arange(from_column, len(tokens), device=self.passes.device)
            logits = self.passes.read_aside(strand, tokens, first, cache, keep=keep).logits[0]
            if first + len(tokens) >= len(strand.ids):
                found += self._logprobs(logits, ids[first + from_column + 1 : first + len(tokens) + 1])
        return tuple(found)

    @torch.inference_mode()
    def hidden(self, strand: Strand, layer: int, last: int) -> Array:
        """States of a layer at the newest tokens, shape (last, hidden); what was read before is read again aside.

        Raises:
            ModelError: the logits are not finite.
        """
        self._seat(strand)
        if last <= len(strand.ids) - min(strand.cached, len(strand.ids) - 1):
            output = self.passes.states(strand)
            if broken_rows(output.logits[:, -1]).any():
                self.decoder.seats.drop(strand.row, clear=True)
                raise not_finite()
        else:
            start = len(strand.ids) - last
            cache = self.passes.aside(strand, start)
            output = self.passes.read_aside(strand, strand.ids[start:], start, cache, keep=1, output_hidden_states=True)
            self._check(output.logits[:, -1])
        return output.hidden_states[layer][0, -last:].float().cpu().numpy()

    @torch.inference_mode()
    def attention(self, strand: Strand, last: int) -> Array:
        """Attention of the newest tokens to all columns, averaged over heads: shape (layers, last, columns).

        Raises:
            ModelError: the logits are not finite.
        """
        self._seat(strand)
        start = min(strand.cached, len(strand.ids) - last)
        cache = self.passes.aside(strand, start)
        with self.passes.weighing():
            output = self.passes.read_aside(strand, strand.ids[start:], start, cache, keep=1, output_attentions=True)
        self._check(output.logits[:, -1])
        return torch.stack([layer[0, :, -last:].float().mean(0) for layer in output.attentions]).cpu().numpy()

    @torch.inference_mode()
    def evict(self, strand: Strand, keep: torch.Tensor) -> None:
        """Keep only some columns of each layer; `keep` is without the newest token's."""
        self._seat(strand)
        strand.evict(keep)
        self.decoder.evict(strand)

    def _seat(self, strand: Strand) -> None:
        self.decoder.seat([strand])
        self.decoder.store.trim()

    def _logprobs(self, logits: torch.Tensor, tokens: Sequence[int]) -> list[float]:
        self._check(logits)
        chosen = torch.tensor(list(tokens), device=logits.device)[:, None]
        return logits.float().log_softmax(-1).gather(-1, chosen).squeeze(-1).tolist()

    def _check(self, logits: torch.Tensor) -> None:
        if broken_rows(logits).any():
            raise not_finite()
