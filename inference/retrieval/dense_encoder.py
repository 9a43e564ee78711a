"""Encoders for dense search: models of transformers, with the prefixes and the pooling they were trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from laconic.inference.retrieval.dense import Vectors
from laconic.rewards.errors import LaunchError, ModelError, RecipeError

FAMILIES: dict[str, dict[str, Any]] = {
    "e5": {"query": "query: ", "passage": "passage: ", "pooling": "mean"},
    "bge": {"query": "Represent this sentence for searching relevant passages: ", "passage": "", "pooling": "cls"},
    "plain": {"query": "", "passage": "", "pooling": "mean"},
}
"""What is put before queries and passages, and how the vectors of a text's tokens become one.

`e5` are E5's English models (intfloat/e5-base-v2 is Search-R1's), `bge` the English BGE models up to v1.5. A model used
in another way than it was trained finds little, and says nothing."""


class TransformersEncoder:
    """Encodes with a model of transformers, loaded at the first text.

    Args:
        model: A model folder or hub id.
        family: One of `FAMILIES`.
        max_length: Tokens of one text; the rest is cut off.
        batch_size: Texts at once.
        device: As torch names it; by default the accelerator, where there is one.
        revision: Of the hub.

    Raises:
        RecipeError: the family is unknown.
    """

    def __init__(
        self,
        model: str,
        *,
        family: str,
        max_length: int = 256,
        batch_size: int = 64,
        device: str | None = None,
        revision: str | None = None,
    ) -> None:
        if family not in FAMILIES:
            raise RecipeError(f"no family of encoders {family!r}", cure=f"one of: {', '.join(FAMILIES)}")
        self.settings = {"model": model, "family": family, "max_length": max_length, "revision": revision}
        self.batch_size, self.device = batch_size, device
        self._loaded: tuple[Any, Any] | None = None

    def encode(self, texts: Sequence[str], *, kind: Literal["query", "passage"]) -> Vectors:
        """See `Encoder`. Vectors have length 1.

        Raises:
            ModelError: the model cannot be loaded.
            LaunchError: torch or transformers is not installed.
        """
        prefix = FAMILIES[self.settings["family"]][kind]
        prefixed = [prefix + text for text in texts]
        parts = [self._batch(prefixed[at : at + self.batch_size]) for at in range(0, len(texts), self.batch_size)]
        return np.concatenate(parts)

    def _batch(self, texts: Sequence[str]) -> Vectors:
        import torch

        tokenizer, model = self._load()
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=self.settings["max_length"], return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state.float()
        if FAMILIES[self.settings["family"]]["pooling"] == "cls":
            pooled = states[:, 0]
        else:
            mask = inputs["attention_mask"].unsqueeze(-1).float()
            pooled = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            try:
                import torch
                from transformers import AutoModel, AutoTokenizer
            except ImportError as error:
                raise LaunchError(f"dense search needs {error.name}", cure='pip install "laconic[dense]"') from None
            name, revision = self.settings["model"], self.settings["revision"]
            try:
                tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
                model = AutoModel.from_pretrained(name, revision=revision)
            except (OSError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise ModelError(f"{name} cannot be loaded as an encoder: {reason}", cure="check its name") from error
            device = self.device or (torch.accelerator.current_accelerator() or torch.device("cpu"))
            self._loaded = tokenizer, model.to(device).eval()
        return self._loaded


def load_encoder(settings: Mapping[str, Any]) -> TransformersEncoder:
    """The encoder that an index names.

    Raises:
        RecipeError: the index was built with an encoder of another class, which only its author can load.
    """
    if "model" not in settings:
        raise RecipeError(f"the index has an encoder of its own: {dict(settings)}", cure="open it with encoder=")
    return TransformersEncoder(**settings)
