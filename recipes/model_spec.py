"""`model:` of a recipe: a small decoder to build, or a pretrained one to load."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from laconic.recipes.strict import Count, StrictModel, mistake, raise_all


class ScratchModel(StrictModel):
    """A small decoder with random weights, saved as an ordinary Hugging Face folder."""

    architecture: Literal["qwen3", "qwen2", "llama"] = "qwen3"
    hidden_size: Count = 128
    layers: Count = 3
    heads: Count = 4
    kv_heads: Count | None = None
    """Key-value heads; unset means as many as `heads`."""
    intermediate_size: Count | None = None
    max_length: Count = 512
    """Tokens of prompt and completion together."""
    tokenizer: Literal["symbolic", "bpe"] = "symbolic"
    """`symbolic`: one token per whitespace-separated symbol of the problems. `bpe`: trained on their text."""
    vocab_size: Count = 4096
    """For `bpe` only."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        wrong = []
        if self.hidden_size % (2 * self.heads):
            # Rotary embeddings turn pairs of coordinates, so a head needs an even number of them.
            message = f"hidden_size {self.hidden_size} must be a multiple of 2 x heads ({2 * self.heads})"
            wrong.append(mistake(("hidden_size",), message))
        if self.kv_heads and self.heads % self.kv_heads:
            wrong.append(mistake(("kv_heads",), f"heads ({self.heads}) must be a multiple of kv_heads {self.kv_heads}"))
        if self.architecture == "qwen2" and self.tokenizer == "symbolic":
            # transformers loads every qwen2 folder with Qwen2Tokenizer, whatever tokenizer was saved.
            message = "symbolic cannot be loaded again with architecture qwen2; use bpe, or qwen3"
            wrong.append(mistake(("tokenizer",), message))
        raise_all(wrong)
        return self


class ModelSpec(StrictModel):
    """Exactly one of `scratch` and `path`."""

    scratch: ScratchModel | None = None
    path: str | None = None
    """A model id on the hub, or a folder (relative to the current one)."""
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attn_implementation: str | None = None
    """As `from_pretrained` takes it: `sdpa`, `eager`, `flash_attention_2`, ..."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.scratch is None) == (self.path is None):
            found = "neither" if self.path is None else "both; to change from one to the other, set model as a whole"
            raise ValueError(f"give exactly one of scratch and path; found {found}")
        if self.scratch is not None and self.revision is not None:
            raise_all([mistake(("revision",), "only for a model that is loaded with path")])
        return self
