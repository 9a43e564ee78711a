"""GRPO rollouts of which parts of every group begin with given text, so that every way of thinking is tried.

A model that always thinks would never draw a rollout that does not, and could not learn when it need not. AdaptThink
(arXiv:2505.13417) begins half of a group with ``</think>`` and half with "Alright"; HGPO (arXiv:2505.14631) half with
each of its two modes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from trl import GRPOConfig
from trl.models.utils import disable_gradient_checkpointing

from laconic.inference.sampling import Request
from laconic.recipes.grpo_advantages import Hgpo, Thinkless
from laconic.recipes.grpo_rollouts import Mode, Modes
from laconic.recipes.stages import GrpoStage
from laconic.rewards.errors import RecipeError
from laconic.training.micro_batches import Batch
from laconic.training.rollouts import SampledRollouts, check_applicable
from laconic.training.scored import AfterScoring, Scored

MODE = "mode"
"""The column that says how a rollout began."""


def mode_rollouts(config: GrpoStage, arguments: GRPOConfig, **given: Any) -> ModeRollouts:
    """The rollout function of a stage with modes; `given` goes to `SampledRollouts`.

    Raises:
        LaunchError: our engine does not draw its rollouts.
    """
    modes = config.rollouts
    assert isinstance(modes, Modes)
    check_applicable(arguments, "rollouts that begin with given text")
    chooses = modes.first_token_probability is not None or isinstance(config.advantages, Thinkless | Hgpo)
    return ModeRollouts(modes, seed=arguments.seed, first_token_chooses=chooses, **given)


def first_token_pieces(config: GrpoStage) -> list[AfterScoring]:
    """What a stage's modes do to old log-probabilities; nothing where they leave them as they are."""
    modes = config.rollouts
    if not isinstance(modes, Modes) or modes.first_token_probability is None:
        return []
    return [FirstTokenProbability(modes.first_token_probability)]


class ModeRollouts(SampledRollouts):
    """A TRL `rollout_func`: prompts of this process in; token ids, and the mode of each rollout, out.

    The text that a rollout begins with is part of it, as if the model had said it: it is in the loss, which is how the
    model learns to choose, and it counts in lengths and limits, since a model that has learned it says it by itself.
    (Both are AdaptThink's.) An evaluation begins nothing: there the model chooses. Where a mode's limit leaves no room
    for more than its text, that is a `RecipeError`; where a prompt leaves none for a rollout, a `DataError`.

    Args:
        modes: How the rollouts of a group begin.
        first_token_chooses: Training treats the first token as the choice between the modes, so it must tell them
            apart.
        **given: Of `SampledRollouts`.
    """

    def __init__(self, modes: Modes, *, first_token_chooses: bool = False, **given: Any) -> None:
        super().__init__(**given)
        self.modes, self.first_token_chooses = modes, first_token_chooses

    def requests(self, texts: Sequence[str], trainer: Any, *, first: int) -> list[Request]:
        """What to draw for this process's rows, with what each begins with.

        Raises:
            RecipeError: the tokenizer cannot say what a mode begins with, or the first token does not tell the modes
                apart.
        """
        plain = super().requests(texts, trainer, first=first)
        if not trainer.model.training:
            return plain
        self._check_texts(trainer.processing_class)
        modes = self._of_rows(len(texts), trainer, first=first)
        return [
            replace(request, begin=mode.text, max_tokens=mode.max_tokens)
            for request, mode in zip(plain, modes, strict=True)
        ]

    def columns(self, count: int, trainer: Any, *, first: int) -> dict[str, list[Any]]:
        """The mode of each row."""
        if not trainer.model.training:
            return {}
        return {MODE: [mode.mode for mode in self._of_rows(count, trainer, first=first)]}

    def _of_rows(self, count: int, trainer: Any, *, first: int) -> list[Mode]:
        places = self.modes.places(trainer.num_generations)
        return [places[row % len(places)] for row in range(first, first + count)]

    def _check_texts(self, tokenizer: Any) -> None:
        texts = [mode.text for mode in self.modes.modes]
        begun = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        for text, ids in zip(texts, begun, strict=True):
            if not ids or tokenizer.unk_token_id in ids:
                message = f"rollouts.modes: the model's tokenizer has no tokens for {text!r}"
                raise RecipeError(message, cure="begin with a text that the model can say")
        firsts = [ids[0] for ids in begun]
        if self.first_token_chooses and len(set(firsts)) < len(firsts):
            alike = next(at for at, token in enumerate(firsts) if token in firsts[:at])
            message = f"rollouts.modes: {texts[firsts.index(firsts[alike])]!r} and {texts[alike]!r} begin with the same"
            cure = "begin the modes with different tokens, as <think> and <no_think> are"
            raise RecipeError(f"{message} token, which cannot choose between them", cure=cure)


class FirstTokenProbability:
    """Old log-probabilities in which the first token of every rollout was drawn with a given probability.

    AdaptThink's loss takes 0.5, a mode's share of the group, where the model itself may have given the token it was
    made to begin with next to nothing. The other tokens keep what the model gave them; where TRL has not computed it,
    since it is on-policy, one more forward pass does.

    Args:
        probability: Of the first token.
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, trainer: Any, scored: Scored) -> Batch:
        """The field ``old_per_token_logps``, shape (B, T); none in an evaluation, where nothing is begun."""
        if not trainer.model.training:
            return {}
        known = scored.batch.get("old_per_token_logps")
        old = _old_logps(trainer, scored.batch) if known is None else known.clone()
        old[:, 0] = math.log(self.probability)
        return {"old_per_token_logps": old}


@torch.no_grad()
def _old_logps(trainer: Any, batch: Batch) -> torch.Tensor:
    """What the model gives to the tokens of the completions now, as TRL computes it."""
    arguments = trainer.args
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with disable_gradient_checkpointing(trainer.model, arguments.gradient_checkpointing_kwargs):
        logps, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, batch["completion_ids"].size(1), arguments.per_device_train_batch_size
        )
    return logps
