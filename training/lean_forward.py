"""A forward pass for log-probabilities that reads a shared prompt once, and keeps the logits where they are few.

TRL (1.16) reads the prompt with every rollout of its group, and folds the vocabulary in tiles that the backward pass
computes again, which saves memory where the vocabulary is large and only costs time where it is not. Both are changed
in a model that TRL's trainer has prepared; results and gradients stay those of TRL, up to rounding.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import DistributedType, is_peft_model
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOTrainer, SFTTrainer
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, FusedCausalLMOutput

from laconic.recipes.arithmetic import MOST_LOGITS
from laconic.training.micro_batches import saved_by_sharing

_IGNORED = -100
_FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""Of what TRL's head gives, in the order of its kernel."""
_SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def make_lean(trainer: GRPOTrainer | SFTTrainer, *, share_prompts: bool = True) -> PreTrainedModel | None:
    """Give a trainer's model and its reference the lean forward pass.

    Args:
        trainer: Of TRL, ready to train.
        share_prompts: A prompt is read once for all rows that have it.

    Returns:
        The model that is trained, without what it is wrapped in; None if it stays as it was.
    """
    # With ZeRO-3 and FSDP no process has a weight in one piece.
    sharded = trainer.accelerator.distributed_type == DistributedType.FSDP or is_deepspeed_zero3_enabled()
    if sharded or trainer.args.torch_compile or getattr(trainer.args, "cast_lm_head_to_fp32", False):
        return None
    # As TRL asks its own head.
    wanted = ("log_probs", "entropy", "is_top1") if isinstance(trainer, SFTTrainer) else ("log_probs", "entropy")
    settings: dict[str, Any] = {"temperature": getattr(trainer, "temperature", 1.0), "share_prompts": share_prompts}
    model, reference = trainer.model, getattr(trainer, "ref_model", None)
    if reference is not None:
        lean_forward(_plain(trainer, reference), outputs=("log_probs",), **settings)
    return _plain(trainer, model) if lean_forward(_plain(trainer, model), outputs=wanted, **settings) else None


def _plain(trainer: GRPOTrainer | SFTTrainer, model: torch.nn.Module) -> PreTrainedModel:
    plain = trainer.accelerator.unwrap_model(model)
    return plain.get_base_model() if is_peft_model(plain) else plain


def lean_forward(
    model: PreTrainedModel, *, temperature: float, outputs: Sequence[str], share_prompts: bool = True
) -> bool:
    """Replace the forward pass that TRL's trainers take log-probabilities with; every other call goes where it went.

    Args:
        model: A causal language model with TRL's fused head, before it is wrapped.
        temperature: Logits are divided by it.
        outputs: What is wanted of TRL's `FusedCausalLMOutput`: of log_probs, entropy and is_top1.
        share_prompts: A prompt is read once for all rows that have it.

    Returns:
        Whether it was replaced. A model that scales its logits, whose layers do not all attend to everything before
        them, that minds padding, or that lies on several devices stays as it is.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ("full_attention",))
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "layer_types", None) is None
    scaled = any(getattr(config, name, None) is not None for name in _SCALES)
    if scaled or windowed or kinds != {"full_attention"} or getattr(model, "_is_stateful", False):
        return False
    if minds_padding(config) or len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return False
    before = model.forward

    # `generate` looks at the signature.
    @functools.wraps(type(model).forward)
    def forward(self: PreTrainedModel, *arguments: Any, fused_lm_head: bool = False, **given: Any) -> Any:
        if not fused_lm_head:
            return before(*arguments, **given)
        named = {name for name, value in given.items() if value is not None}  # an adapter's wrapper names all
        plain = not arguments and named - {"use_cache", "return_dict"} == {"input_ids", "attention_mask", "labels"}
        start = _first_labelled(given["labels"]) if plain else None
        if start is None:
            return before(*arguments, fused_lm_head=True, **given)
        ids, mask, labels = (given[name] for name in ("input_ids", "attention_mask", "labels"))
        hidden = _hidden(self, ids, mask, start, share_prompts=share_prompts)
        return _with_head(self, hidden, labels[:, start:], temperature, outputs)

    model.forward = types.MethodType(forward, model)
    return True


def minds_padding(config: PreTrainedConfig) -> bool:
    """Whether a model computes something else where padding is cut.

    TRL gives no positions, so they are numbered with the padding on the left. Rotary embeddings see differences alone,
    but for those that go by the length of the sequence; learned positions do not.
    """
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return True
    kinds = [rope] if "rope_type" in rope else [kind for kind in rope.values() if isinstance(kind, dict)]
    return any(kind.get("rope_type") in ("longrope", "dynamic") for kind in kinds)


def _first_labelled(labels: torch.Tensor) -> int | None:
    """The first column where a row has a label; None where there is none, or it has nothing before it."""
    columns = (labels != _IGNORED).any(0).nonzero()
    return int(columns[0]) or None if len(columns) else None


def _with_head(
    model: PreTrainedModel, hidden: torch.Tensor, labels: torch.Tensor, temperature: float, outputs: Sequence[str]
) -> FusedCausalLMOutput:
    """What the head makes of hidden states and the labels that follow them, both (B, T); zero where there is none."""
    labelled, head = labels != _IGNORED, model.get_output_embeddings()
    rows, targets = hidden[labelled], labels[labelled]
    if rows.device.type == "cpu" and len(rows) * len(head.weight) <= MOST_LOGITS:
        logits = torch.nn.functional.linear(rows, head.weight, head.bias)
        found = _KeptLogits.apply(logits.float() / temperature, targets, outputs)
    else:
        tile = _CHUNKED_LOGPROB_CHUNK_SIZE
        found = ChunkedLogProbFunction.apply(
            rows, head.weight, head.bias, targets, temperature, tile, None, 1.0, outputs
        )
    by_name = {
        name: one.new_zeros(labels.shape).masked_scatter(labelled, one)
        for name, one in zip(_FIELDS, found, strict=True)
        if one is not None
    }
    return FusedCausalLMOutput(**by_name, label_mask=labelled)


def _hidden(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, start: int, *, share_prompts: bool
) -> torch.Tensor:
    """Last hidden states of the columns before those from `start` on, shape (B, columns - start, H)."""
    rows, columns = ids.shape
    if share_prompts and can_share(model):
        told_apart = ids[:, :start].masked_fill(mask[:, :start] == 0, -1)
        prompts, whose = told_apart.unique(dim=0, return_inverse=True)
        if saved_by_sharing(rows, len(prompts), start, columns - start) > 0:
            return _with_shared(model, prompts, whose, ids[:, start:-1], mask[:, start:-1])
    found = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    return found.last_hidden_state[:, start - 1 : -1]


def can_share(model: PreTrainedModel) -> bool:
    """Whether what comes after a prompt can be read later: keys and values are at hand, and nothing is drawn."""
    config = model.config.get_text_config()
    return config._attn_implementation in ("sdpa", "eager") and not (model.training and _forgets_or_drops(model))


def _forgets_or_drops(model: PreTrainedModel) -> bool:
    """Whether activations are computed again in the backward pass, or dropout draws."""
    if getattr(model.config.get_text_config(), "attention_dropout", 0.0):
        return True
    return any(
        getattr(part, "gradient_checkpointing", False) or (isinstance(part, torch.nn.Dropout) and part.p > 0)
        for part in model.modules()
    )


def _with_shared(
    model: PreTrainedModel, prompts: torch.Tensor, whose: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Read each prompt once, then what comes after it.

    Args:
        model: That reads.
        prompts: Token ids, -1 for padding on the left, shape (U, P).
        whose: The prompt of each row, shape (B,).
        ids: Tokens after the prompt, the last one left out, shape (B, C - 1).
        mask: Of those that are there.
    """
    cache = _SharedKeys(whose)
    there = prompts >= 0
    width, length = prompts.size(1), ids.size(1)
    places = torch.arange(width + length, device=ids.device)
    earlier = places[None, :] <= places[:, None]
    # Padding sees itself: a row that sees nothing has no attention to speak of.
    seen = earlier[:width, :width] & there[:, None, :] | torch.eye(width, dtype=torch.bool, device=ids.device)
    first = _read(model, prompts.clamp(min=0), seen, places[:width], cache)[whose, -1:]
    if not length:
        return first
    cache.shared = True
    everything = torch.cat([there[whose], mask.bool()], dim=1)
    seen = earlier[width:] & everything[:, None, :]
    return torch.cat([first, _read(model, ids, seen, places[width:], cache)], dim=1)


def _read(
    model: PreTrainedModel, ids: torch.Tensor, seen: torch.Tensor, places: torch.Tensor, cache: Cache
) -> torch.Tensor:
    if model.config.get_text_config()._attn_implementation == "eager":
        lowest = torch.finfo(model.dtype).min
        seen = torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill(~seen, lowest)
    read = model.base_model(
        input_ids=ids,
        attention_mask=seen[:, None],
        position_ids=places[None],
        past_key_values=cache,
        use_cache=True,
    )
    return read.last_hidden_state


class _SharedKeys(Cache):
    """Keys and values of prompts, and then those of the prompt of each row before the row's own.

    Args:
        whose: The prompt of each row.
    """

    def __init__(self, whose: torch.Tensor) -> None:
        super().__init__(layers=[])
        self.whose, self.shared = whose, False
        self._prompts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep one layer's keys and values of the prompts, or put them before the new ones."""
        if not self.shared:
            self._prompts[layer_idx] = key_states, value_states
            return key_states, value_states
        keys, values = (torch.index_select(part, 0, self.whose) for part in self._prompts[layer_idx])
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the prompts, once they are read."""
        return self._prompts[layer_idx][0].size(2) if self.shared else 0


class _KeptLogits(torch.autograd.Function):
    """TRL's kernel for logits that are there, shape (N, V): the softmax is kept for the gradients."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, outputs: Sequence[str]) -> Any:
        ctx.set_materialize_grads(False)
        logs = logits.log_softmax(-1)
        probs = logs.exp()
        entropy = -torch.einsum("nv,nv->n", probs, logs) if "entropy" in outputs else None
        ctx.save_for_backward(logs, probs, targets, entropy)
        is_top1 = logits.argmax(-1) == targets if "is_top1" in outputs else None
        if is_top1 is not None:
            ctx.mark_non_differentiable(is_top1)
        return logs.gather(-1, targets[:, None]).squeeze(-1), entropy, None, None, is_top1

    @staticmethod
    def backward(ctx: Any, of_log_prob: torch.Tensor | None, of_entropy: torch.Tensor | None, *_: Any) -> Any:  # type: ignore[override]
        logs, probs, targets, entropy = ctx.saved_tensors
        found = torch.zeros_like(logs) if of_log_prob is None else probs * -of_log_prob[:, None]
        if of_log_prob is not None:
            found[torch.arange(len(found), device=found.device), targets] += of_log_prob
        if of_entropy is not None:
            # d(entropy) / d(logit) = -p (log p + entropy)
            found -= of_entropy[:, None] * probs * (logs + entropy[:, None])
        return found, None, None
