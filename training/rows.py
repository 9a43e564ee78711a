"""Rows to token ids: one way of joining prompt and completion for SFT, DPO and generation.

The prompt is the chat template with its generation prompt; the completion is tokenised on its own and closed with
the end-of-sequence token. So a model is trained on exactly the token boundary it will be sampled at, and templates
that cut the thinking out of earlier assistant messages (DeepSeek-R1's) cannot cut it out of the training data.

A row of a search episode has pieces. Each is tokenised on its own, as `laconic.inference.episode` puts it in, and only
the generated ones are learned: retrieved and forced text is read, never imitated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from laconic.inference.trace import THINK_OPEN, prompt_text, template_opens_thinking
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem

SIDES = ("chosen", "rejected")
_IGNORED = -100
"""A label that is not learned."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Token ids, end-of-sequence included, and which of them are learned."""

    ids: list[int]
    learned: list[int]
    """1 for every id that the loss is over, 0 for the rest."""


class RowEncoder:
    """Encodes prompts and completions for one tokenizer.

    Args:
        tokenizer: Its chat template is applied to prompts.
        max_length: Longest prompt plus completion in tokens; None for no limit.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._opens_thinking = template_opens_thinking(tokenizer)

    def prompt(self, text: str) -> list[int]:
        """Ids of the prompt for one user message."""
        return self.tokenizer.encode(prompt_text(self.tokenizer, text), add_special_tokens=False)

    def completion(self, text: str) -> list[int]:
        """Ids of a completion, end-of-sequence included."""
        if self._opens_thinking:
            text = text.lstrip().removeprefix(THINK_OPEN)
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]

    def completion_of(self, row: Mapping[str, Any], *, text: str = "completion", pieces: str = "pieces") -> Completion:
        """A row's completion; where the row has pieces, only the generated ones are learned.

        The end of the sequence is learned with the piece that comes last, since the model ends what it says, not what
        it was shown.

        Args:
            row: Of a generate stage.
            text: The key of the completion.
            pieces: The key of its pieces, each with `kind` and `text`.

        Raises:
            DataError: the pieces put together are not the completion.
        """
        given = row.get(pieces)
        if given is None:
            ids = self.completion(row[text])
            return Completion(ids, [1] * len(ids))
        if "".join(piece["text"] for piece in given) != row[text]:
            where = row.get("problem_id", "a row")
            raise DataError(f"{where}: its {pieces} put together are not its {text}", cure="generate the rows again")
        return self._of_pieces(given)

    def _of_pieces(self, pieces: Sequence[Mapping[str, str]]) -> Completion:
        ids: list[int] = []
        learned: list[int] = []
        for place, piece in enumerate(pieces):
            said = piece["text"]
            if place == 0 and self._opens_thinking:
                said = said.lstrip().removeprefix(THINK_OPEN)
            new = self.tokenizer.encode(said, add_special_tokens=False)
            if place == len(pieces) - 1:
                new.append(self.tokenizer.eos_token_id)
            ids += new
            learned += [int(piece["kind"] == "generated")] * len(new)
        return Completion(ids, learned)

    def fits(self, *parts: list[int]) -> bool:
        """Whether the parts together stay within `max_length`."""
        return self.max_length is None or sum(map(len, parts)) <= self.max_length


def sft_dataset(rows: Sequence[dict[str, Any]], encoder: RowEncoder) -> Dataset:
    """Columns ``input_ids`` and ``labels``; prompt, retrieved and forced positions are -100.

    Raises:
        DataError: no row fits `max_length`, or pieces are not those of their completion.
    """
    encoded = []
    for row in rows:
        prompt, completion = encoder.prompt(row["prompt"]), encoder.completion_of(row)
        if encoder.fits(prompt, completion.ids):
            labels = [id if on else _IGNORED for id, on in zip(completion.ids, completion.learned, strict=True)]
            encoded.append({"input_ids": prompt + completion.ids, "labels": [_IGNORED] * len(prompt) + labels})
    return _dataset(encoded, encoder, given=len(rows))


def preference_dataset(rows: Sequence[dict[str, Any]], encoder: RowEncoder) -> Dataset:
    """Columns ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``, and ``chosen_learned`` and ``rejected_learned``.

    Raises:
        DataError: no pair fits `max_length`, or pieces are not those of their completion.
    """
    encoded = []
    for row in rows:
        prompt = encoder.prompt(row["prompt"])
        sides = {side: encoder.completion_of(row, text=side, pieces=f"{side}_pieces") for side in SIDES}
        if all(encoder.fits(prompt, side.ids) for side in sides.values()):
            ids = {f"{name}_ids": side.ids for name, side in sides.items()}
            encoded.append({"prompt_ids": prompt} | ids | {learned_column(n): s.learned for n, s in sides.items()})
    return _dataset(encoded, encoder, given=len(rows))


def learned_column(side: str) -> str:
    """The column that says which ids of a side are learned."""
    return f"{side}_learned"


def prompt_dataset(problems: Iterable[Problem]) -> Dataset:
    """Columns ``prompt`` (messages) and ``problem_id``, as GRPO wants them."""
    return Dataset.from_list(
        [{"prompt": [{"role": "user", "content": p.prompt}], "problem_id": p.id} for p in problems]
    )


def _dataset(encoded: list[dict[str, Any]], encoder: RowEncoder, *, given: int) -> Dataset:
    if not encoded:
        raise DataError(f"no row fits trainer.max_length={encoder.max_length} tokens", cure="raise trainer.max_length")
    if len(encoded) < given and PartialState().is_main_process:
        print(f"{given - len(encoded)} of {given} rows exceed trainer.max_length={encoder.max_length} and are left out")
    return Dataset.from_list(encoded)
