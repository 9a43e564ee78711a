"""What every engine offers: live sequences (`Engine`, `Branch`). Whole completions are `sampling.EngineSampler`'s.

Torch-free, so that recipes and policies can import it. A policy is written against `Branch` alone::

    async with engine.open("How many primes are below 30?", ledger=ledger) as branch:
        chunk = await branch.generate(max_tokens=512, stop=["</think>"])
        probe = await branch.fork()                      # shares what was read so far
        await probe.extend("</think> ")                  # forced text, never counted as generated
        guess = await probe.generate(max_tokens=20, role="probe")
        await probe.close("discarded")
        ...
        await branch.close("kept")

Concurrent branches are batched by the engine. Cancelling the task that generates frees its branch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from laconic.inference.ledger import Fate, Ledger, Role
from laconic.rewards.errors import LaunchError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn."""

    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int = 256
    """Generated tokens, the end-of-sequence token included."""
    effort: str | None = None
    """How much the model is asked to think, from none to xhigh, in its server's own way; only with `EFFORT`."""


class Capability(StrEnum):
    """What an engine may be able to do beyond generating text; a policy says which of it it needs."""

    PREFIX = "continue a raw prefix"
    """`extend` and `generate` after it: without this, a branch can generate once and no more."""
    STOP = "stop strings"
    FORK = "fork a branch"
    LOGPROBS = "log-probabilities of generated tokens"
    TOP_LOGPROBS = "log-probabilities of the most likely tokens"
    ENTROPY = "entropies of the next-token distribution"
    TOKEN_IDS = "token ids in and out"
    SEED = "seeds that reproduce a run"
    ABORT = "abort at once when cancelled"
    TOKEN_HOOK = "a hook that sees every token before the next one"
    LOGIT_BIAS = "additive bias on logits"
    HIDDEN_STATES = "hidden states"
    STEERING = "edits of activations"
    KV_EDIT = "edits of the key-value cache"
    SCORE = "log-likelihood of a given continuation"
    EFFORT = "the model's own switch for how much it thinks"


Array: TypeAlias = NDArray[np.generic]
Message: TypeAlias = Mapping[str, str]
Prompt: TypeAlias = str | Sequence[Message]
"""One user message, or a conversation; the engine applies the model's chat template."""

Reason: TypeAlias = Literal["eos", "stop", "length", "hook"]
"""Why a generation ended: end-of-sequence, a stop string, `max_tokens`, or the hook said so."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token, as a hook sees it and as streams deliver it."""

    text: str
    id: int | None = None
    logprob: float | None = None
    """Natural logarithm, of the distribution that was sampled from at temperature 1."""
    top: tuple[float, ...] | None = None
    """Log-probabilities of the most likely tokens, best first."""
    entropy: float | None = None
    """Of the next-token distribution at temperature 1, in nats."""


@dataclass(frozen=True, slots=True, eq=False)
class Steering:
    """A direction that is added to the output of a decoder layer, at every token."""

    layer: int
    """As in `Internals.hidden`: the output of this layer, from 1 to their number; 0 is the embedding."""
    vector: Array
    """Shape (hidden,), its length included: what is added, times `strength`."""
    strength: float = 1.0


Hook: TypeAlias = Callable[[Token], bool]
"""Called for every token but end-of-sequence and one that completes a stop string; True ends it there."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one call of `Branch.generate` produced."""

    text: str
    """Without the stop string that ended it, unless it was to be kept."""
    tokens: tuple[Token, ...]
    """Everything generated, end-of-sequence and the tokens of the stop string included."""
    reason: Reason
    stop: str | None = None
    """The stop string that ended it."""

    @property
    def ended(self) -> bool:
        """The model ended the sequence by itself."""
        return self.reason == "eos"

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Of every token, natural logarithms.

        Raises:
            LaunchError: the engine gave none.
        """
        values = [token.logprob for token in self.tokens]
        if None in values:
            raise LaunchError("the engine gave no log-probabilities", cure="use an engine that has them")
        return tuple(values)  # type: ignore[arg-type]


class Branch(Protocol):
    """A live sequence: a prompt and what follows it. Used as an async context manager it closes as ``discarded``
    unless it was closed before.
    """

    @property
    def text(self) -> str:
        """What follows the prompt: generated and forced text, in order."""

    @property
    def ids(self) -> tuple[int, ...] | None:
        """Its token ids, end-of-sequence and cut stop strings left out; None without `TOKEN_IDS`.

        What was cut within a token has left other tokens there; those of earlier text never change. While it generates
        they are not settled.
        """

    async def generate(
        self,
        *,
        max_tokens: int,
        min_tokens: int = 0,
        stop: Sequence[str] = (),
        keep_stop: bool = False,
        role: Role = "think",
        sampling: Sampling | None = None,
        top_logprobs: int = 0,
        hook: Hook | None = None,
        bias: Mapping[int, float] | None = None,
    ) -> Chunk:
        """Generate until end-of-sequence, a stop string, the hook or `max_tokens`.

        A stop string ends the generation and is cut from the branch, unless it is kept; either way it is counted.
        Before `min_tokens`, end-of-sequence cannot be drawn and stop strings are ignored.

        Args:
            max_tokens: Generated tokens at most.
            min_tokens: Generated tokens at least.
            stop: Strings that end it.
            keep_stop: The stop string stays in the text; nothing after it does.
            role: What these tokens are for; the ledger's account.
            sampling: Instead of the branch's own; its `max_tokens` is not looked at.
            top_logprobs: How many of the most likely tokens to report at each place.
            hook: Sees every token.
            bias: Added to the logits of these token ids.
        """
        ...

    def stream(
        self,
        *,
        max_tokens: int,
        min_tokens: int = 0,
        stop: Sequence[str] = (),
        keep_stop: bool = False,
        role: Role = "think",
        sampling: Sampling | None = None,
        top_logprobs: int = 0,
        hook: Hook | None = None,
        bias: Mapping[int, float] | None = None,
    ) -> AsyncIterator[Chunk]:
        """As `generate`, while it goes on: every piece holds everything so far, and only the last one's reason counts.

        Text that may be the beginning of a stop string is held back until it is known not to be.
        """
        ...

    async def extend(self, text: str) -> None:
        """Append forced text."""

    def relabel(self, role: Role) -> None:
        """The last generation's tokens were for something else, as its text shows."""

    async def fork(self, *, back: int = 0) -> Branch:
        """A second branch with the same prompt and text, which goes its own way from here.

        Args:
            back: Leave out so many of the newest tokens of the last generation, those included that ended it without
                a text: it goes its own way from before them, and does not share their account.

        Raises:
            RecipeError: `back` is more than the last generation has.
            LaunchError: with `back`, the branch generates right now, or forced text followed its last generation.
        """

    async def close(self, fate: Fate) -> None:
        """Free it. `fate` says what became of its tokens; closing again changes nothing."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Internals(Protocol):
    """What a branch can do besides where its engine has the weights at hand; each needs its capability."""

    async def score(self, text: str) -> tuple[float, ...]:
        """Log-probabilities of the tokens of `text` if it came next; the branch stays as it is. (`SCORE`.)

        The tokens are entered in `Ledger.scored`.
        """

    async def hidden(self, layer: int = -1, *, last: int = 1) -> Array:
        """States of a layer at the newest tokens, shape (last, hidden), float32. (`HIDDEN_STATES`.)

        Args:
            layer: 0 is the embedding, -1 the last layer.
            last: So many tokens, oldest first; at most as many as the branch has, prompt included.
        """

    def steer(self, steering: Steering | None) -> None:
        """Edit activations at every token that is read from now on, here and in later forks; None: no more.

        (`STEERING`.)
        """

    async def attention(self, *, last: int) -> Array:
        """How the newest tokens look back: shape (layers, last, length), averaged over heads. (`KV_EDIT`.)

        Args:
            last: So many tokens, oldest first. `length` counts the kept positions of prompt and text.
        """

    async def evict(self, keep: Sequence[Sequence[int]]) -> None:
        """Forget keys and values of all positions but these; the text stays, and so do places. (`KV_EDIT`.)

        Args:
            keep: For each layer, as many ascending places among the kept positions.
        """


class Engine(Protocol):
    """Something that decodes tokens."""

    capabilities: frozenset[Capability]
    slots: int | None
    """Generations that go on at once, others wait; None if nothing limits them."""

    def open(self, prompt: Prompt, *, ledger: Ledger, sampling: Sampling | None = None, seed: int = 0) -> Branch:
        """A branch at the end of a prompt; everything it causes is entered into `ledger`.

        Args:
            prompt: The user message, or a conversation.
            ledger: The account of the run that asks.
            sampling: How its tokens are drawn; `max_tokens` is not looked at.
            seed: Equal seeds give equal branches, whatever they are batched with; forks draw their own numbers.
        """
        ...

    async def aclose(self) -> None:
        """Free everything."""


def check_capabilities(engine: Engine, needed: Iterable[Capability], *, who: str) -> None:
    """Refuse before the first call what an engine cannot do.

    Raises:
        LaunchError: names everything that is missing.
    """
    missing = sorted(set(needed) - engine.capabilities, key=lambda capability: capability.name)
    if missing:
        have = "; ".join(sorted(engine.capabilities)) or "plain text only"
        raise LaunchError(
            f"{who} needs an engine with: {'; '.join(missing)}. {type(engine).__name__} has: {have}",
            cure="choose another engine, or a policy that works with this one (`laconic list policies`)",
        )
