"""What kinds of OpenAI-compatible servers can do beyond what all of them can, and under which names.

Fields of vLLM, SGLang, llama.cpp's `llama-server` and the hosted API. SGLang's were
checked against its source, the others not yet against a running server.
A server of another kind is described by a `Dialect` of its own, most easily with `dataclasses.replace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from laconic.inference.engine import Capability

Route: TypeAlias = Literal["completions", "chat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a kind of server can do. Mappings are fields of the request body that ask for it; None: it cannot."""

    prefill: Mapping[str, Any] | None = None
    """A chat whose last message is the assistant's is gone on with."""
    keep_stop: Mapping[str, Any] | None = None
    """Stop strings stay in the text. Where they cannot, one that ended a text is not told from end-of-sequence, so
    they are looked for on this side and the stream is closed."""
    token_ids: Mapping[str, Any] | None = None
    """Generated token ids are reported, and prompts may be token ids."""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """Always, with a raw prefix."""
    min_tokens: bool = False
    top_k: bool = False
    logprobs: bool = False
    """Of the generated and of the most likely tokens."""
    logit_bias: bool = False
    sends_seed: bool = False
    """Takes a seed."""
    reproduces: bool = False
    """And says that equal seeds give equal texts."""
    chat_limit: str = "max_tokens"
    """The name of the token limit in chats."""
    effort: str | None = None
    """How a chat is asked for an effort: a dialect of `laconic.inference.effort.effort_fields`. Where it is a switch of
    the chat template, it is the model's and not the server's, and has to be named with it."""

    def capabilities(self, route: Route, *, token_ids: bool) -> frozenset[Capability]:
        """What a branch over this route can do."""
        continues = route == "completions" or self.prefill is not None
        offered = {
            Capability.STOP: True,
            Capability.ABORT: True,
            Capability.PREFIX: continues,
            Capability.FORK: continues,
            Capability.LOGPROBS: self.logprobs,
            Capability.TOP_LOGPROBS: self.logprobs,
            # Only with log-probabilities are tokens that came in one event told apart.
            Capability.TOKEN_HOOK: self.logprobs,
            Capability.TOKEN_IDS: token_ids,
            Capability.SEED: self.sends_seed and self.reproduces,
            Capability.LOGIT_BIAS: self.logit_bias,
            Capability.EFFORT: route == "chat" and self.effort is not None,
        }
        return frozenset(capability for capability, has in offered.items() if has)


DIALECTS: dict[str, Dialect] = {
    "compatible": Dialect(),
    "openai": Dialect(
        logprobs=True, logit_bias=True, sends_seed=True, chat_limit="max_completion_tokens", effort="openai"
    ),
    "vllm": Dialect(
        prefill={"add_generation_prompt": False, "continue_final_message": True},
        keep_stop={"include_stop_str_in_output": True},
        token_ids={"return_token_ids": True},
        # The rendered template holds the special tokens already.
        raw={"add_special_tokens": False},
        min_tokens=True,
        top_k=True,
        logprobs=True,
        logit_bias=True,
        sends_seed=True,
        reproduces=True,
    ),
    "sglang": Dialect(
        prefill={"continue_final_message": True, "separate_reasoning": False},
        keep_stop={"no_stop_trim": True},
        token_ids={"return_token_ids": True},
        min_tokens=True,
        top_k=True,
        logprobs=True,
        logit_bias=True,
        sends_seed=True,
    ),
    "llama.cpp": Dialect(
        prefill={"reasoning_format": "none"},
        top_k=True,
        logprobs=True,
        logit_bias=True,
        sends_seed=True,
        reproduces=True,
    ),
}
"""By the name of the server; `compatible` is what nearly all of them have."""
