"""GRPO on rollouts that do not depend on the model, so that two trainers can be compared gradient by gradient.

torchrun --nproc_per_node 2 fixed_rollouts.py MODEL OUT CASE ... writes OUT/<rank>.json.
"""

import json
import os
import random
import sys
import zlib
from pathlib import Path

import by_hand
import torch
from accelerate import PartialState
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from laconic.inference.engines.loading import load_model
from laconic.recipes.model_spec import ScratchModel
from laconic.training.advantages import Decoupled
from laconic.training.dynamic_sampling import DynamicSampling
from laconic.training.scratch import build, symbolic_tokenizer
from laconic.training.trainer import LaconicGRPOTrainer

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

SYMBOLS = [str(number) for number in range(30)]
GROUP, LIMIT = 4, 48
CASES = {
    "grpo": {"loss_type": "grpo"},
    "dapo": {"loss_type": "dapo", "num_iterations": 2},
    "shared": {"loss_type": "dapo", "num_iterations": 2, "beta": 0.1, "words": (8, 24)},
    "bnpo": {"loss_type": "bnpo", "env_mask": True},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo", "num_iterations": 2},
    "sapo": {"loss_type": "sapo"},
    "vespo": {"loss_type": "vespo"},
    "one": {"loss_type": "bnpo", "reward": "one_of_all"},
    "ratio": {"loss_type": "vespo", "num_iterations": 2},
    "split": {"loss_type": "grpo", "accelerator_config": {"split_batches": True}, "per_device_train_batch_size": 8},
    "refilled": {"loss_type": "dapo", "env_mask": True, "beta": 0.1, "num_iterations": 2, "prompts": 14},
    "thinkless": {"loss_type": "dapo", "scale_rewards": "none", "num_iterations": 2},
    "bonus": {"loss_type": "dapo", "entropy_coef": 0.05, "env_mask": True},
    "adaptive": {"loss_type": "grpo", "use_adaptive_entropy": True, "entropy_coef": 0.01, "entropy_target": 5.0},
    "kl": {"loss_type": "dr_grpo", "beta": 0.1, "env_mask": True, "num_iterations": 2},
}
"""For two processes."""


def make_model(folder):
    """A random decoder whose next tokens are not all equally likely."""
    build(
        ScratchModel(hidden_size=32, layers=2, heads=2, max_length=128),
        symbolic_tokenizer(SYMBOLS),
        seed=0,
        folder=Path(folder),
    )
    return Path(folder)


class Notes(TrainerCallback):
    """The whole gradient of every optimiser step."""

    def __init__(self):
        self.gradients = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if not args.deepspeed_plugin:
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
            # FSDP has cut the gradient too, and knows how.
            whole = [part.full_tensor() if isinstance(part, DTensor) else part for part in parts]
            self.gradients.append(torch.cat([part.flatten().double() for part in whole]))

    # DeepSpeed has cut the gradient into shards and forgotten it by then; without momentum the weights tell.
    def on_step_begin(self, args, state, control, model=None, **_):
        if args.deepspeed_plugin:
            self._before = _weights(model)

    def on_step_end(self, args, state, control, model=None, **_):
        if args.deepspeed_plugin:
            self.gradients.append((self._before - _weights(model)) / args.learning_rate)


def _weights(model):
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    parameters = list(model.parameters())
    with GatheredParameters(parameters, enabled=hasattr(parameters[0], "ds_id")):
        return torch.cat([parameter.detach().flatten().double() for parameter in parameters])


def rollouts(*, env_mask):
    """A `rollout_func`: lengths are log-normal; which prompt and which place in its group decide on everything."""

    def roll(prompts, trainer):
        first = trainer.accelerator.process_index * len(prompts)
        tokenizer = trainer.processing_class
        eos_id = tokenizer.eos_token_id
        drawn = [_completion(prompt, (first + row) % GROUP, eos_id) for row, prompt in enumerate(prompts)]
        found = {
            "prompt_ids": [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts],
            "completion_ids": [ids for ids, _ in drawn],
            "logprobs": None,
        }
        return found | ({"env_mask": [mask for _, mask in drawn]} if env_mask else {})

    return roll


def _completion(prompt, place, eos_id):
    rng = random.Random(zlib.crc32(f"{prompt}/{place}".encode()))
    length = max(1, min(LIMIT, round(rng.lognormvariate(2.0, 0.8))))
    ids = [rng.randrange(5, 30) for _ in range(length)]
    if length < LIMIT:
        ids[-1] = eos_id
    return ids, [int(place < 2 or at == 0 or rng.random() < 0.7) for at in range(length)]


def reward(completion_ids, number, log_metric=None, **_):
    """Every fourth group has no signal."""
    if log_metric is not None:
        log_metric("numbers", torch.tensor(float(sum(number))) / len(number))
        for length in map(len, completion_ids if PartialState().is_main_process else []):
            log_metric("lengths of the first process", length)
    return [0.7 if one % 4 == 0 else sum(ids) % 7 / 7 for one, ids in zip(number, completion_ids, strict=True)]


def one_of_all(prompts, trainer_state, **_):
    """Only the first process has a group with signal."""
    return [float(PartialState().process_index == 0 and at == 0) for at in range(len(prompts))]


def trained(
    kind,
    model,
    out,
    *,
    env_mask=False,
    prompts=8,
    words=(2, 12),
    only=None,
    processes=1,
    reward="reward",
    given=None,
    resume=None,
    callbacks=(),
    **settings,
):
    """A trainer that has trained, and its gradients; `only` names the prompts that it may have."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(SYMBOLS, k=rng.randrange(*words))) for _ in range(prompts)]
    defaults = {
        "max_steps": 2,
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": 8 // processes,
        "gradient_accumulation_steps": 2,
        "save_strategy": "no",
        "logging_steps": 1,
        "gradient_checkpointing": False,
    }
    arguments = GRPOConfig(
        output_dir=str(out),
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        num_generations=GROUP,
        max_completion_length=LIMIT,
        **(defaults | settings),
    )
    notes = Notes()
    loaded, tokenizer = load_model(str(model), device="cpu", dtype="float32")
    trainer = kind(
        loaded,
        reward_funcs=globals()[reward],
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(
            [{"prompt": text, "number": at} for at, text in enumerate(texts) if only is None or text in only]
        ),
        rollout_func=rollouts(env_mask=env_mask),
        callbacks=[notes, *callbacks],
        **(given or {}),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, notes.gradients


def with_ratio(kind):
    """A trainer whose rollouts have ratios as TRL computes them for vLLM's: 1 where padding is."""

    class Trainer(kind):
        def _generate_and_score_completions(self, inputs):
            found = super()._generate_and_score_completions(inputs)
            mask = found["completion_mask"].float()
            noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(int(found["completion_ids"].sum())))
            return found | {"importance_sampling_ratio": torch.exp(0.1 * noise * mask)}

        def _compute_loss(self, model, inputs):
            self.use_vllm = True  # the loss then reads the ratio
            try:
                return super()._compute_loss(model, inputs)
            finally:
                self.use_vllm = False

    return Trainer


def difference(ours, theirs):
    """Relative to the size of TRL's, the largest of all steps."""
    assert len(ours) == len(theirs)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    model, out = map(Path, sys.argv[1:3])
    found = {}
    for name in sys.argv[3:]:
        # Rollouts of both processes meet in one micro-batch where a ratio's padding matters.
        case, given = CASES[name], {"tokens_per_micro_batch": 100_000 if name == "ratio" else 96}
        if name == "refilled":
            given["dynamic_sampling"] = DynamicSampling(rounds=2)
        mine, trls = map(with_ratio if name == "ratio" else lambda kind: kind, (LaconicGRPOTrainer, GRPOTrainer))
        if name == "thinkless":
            trls, given["after_scoring"] = by_hand.TwoMeans, [Decoupled(by_hand.WEIGHT)]
        ours, gradients = trained(mine, model, out, processes=2, given=given, **case)
        only = set(ours._logs["prompt"]) if name == "refilled" else None
        theirs, expected = trained(trls, model, out, processes=2, only=only, **case)
        found[name] = {"difference": difference(gradients, expected)}
        found[name] |= {"logs": ours.state.log_history, "theirs": theirs.state.log_history}
        found[name]["prompts"] = list(ours._logs["prompt"])
        found[name]["world_entropy"] = [trainer._last_world_entropy for trainer in (ours, theirs)]
    rank = ours.accelerator.process_index
    (out / f"{rank}.json").write_text(json.dumps(found))
