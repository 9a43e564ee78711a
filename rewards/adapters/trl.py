"""Registered rewards as reward functions of TRL::

    from laconic.rewards import trl_reward

    GRPOTrainer(model, reward_funcs=[trl_reward("hapo")], train_dataset=dataset)

Tested with TRL 1.16 (`GRPOTrainer`). TRL calls a reward function on every process with that process's rows, so that a
group may be split; the rows are gathered first, a few numbers each, and rewards are those of whole groups.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from laconic.rewards.adapters.rows import Completion, Row, RowReward, Verify, digest, think_end, think_length
from laconic.rewards.errors import DataError
from laconic.rewards.group import Progress
from laconic.rewards.judge import Judge

_GOLD_COLUMNS = ("answer", "solution")


def trl_reward(
    name: str,
    *,
    verify: Verify | None = None,
    group_by: str | None = None,
    num_generations: int | None = None,
    eos_ids: Collection[int] | None = None,
    think_end_id: int | None = None,
    judge: Judge | str | None = None,
    **keys: Any,
) -> TrlReward:
    """A registered reward as a reward function for TRL's GRPO and RLOO trainers.

    A completion is right if `verify` says so; without it, if the data-set column ``correct`` does; else if its answer
    (what follows ``</think>``) equals the column ``answer`` or ``solution``, by the verifier that the column ``task``
    names (``math`` without one). Columns that the reward reads, such as ``budget`` or ``reference_accuracy``, are taken
    from the data set. With TRL's tools, the tokens of tool results count as generated, as in TRL's own lengths.

    Args:
        name: Registered name, or ``module:function`` for a reward of your own.
        verify: ``def verify(completion, /, answer, **_): ...``, from the completion's text and the row's data-set
            columns by name to True or False; None means that this one cannot be checked and gets no reward from here.
        group_by: Data-set column whose equal values make a group; by default rows with the same prompt are one.
        num_generations: Size of a group; by default the trainer's.
        eos_ids: Every token that ends a completion; by default the trainer's.
        think_end_id: The token ``</think>``; by default the trainer's tokenizer is asked.
        judge: For a reward that asks one: a function (async or not), or its place as ``package.module:function``.
        **keys: The reward's parameters, and the keys ``warmup, schedule, gate, tasks, times_correct`` of a recipe.
            Weights are TRL's: ``GRPOConfig(reward_weights=...)``.

    Raises:
        RecipeError: an unknown reward or key, or a value out of range; the message has the legal ones.
    """
    reward = RowReward(name, "TRL", judge, keys)
    return TrlReward(reward, verify, group_by, num_generations, eos_ids, think_end_id)


class TrlReward:
    """What `trl_reward` gives; TRL logs it under the reward's name.

    A reward with memory is one object per training: `state_dict` has what must be saved to resume. Completions of an
    evaluation are scored with the memory as it is, and leave it so.
    """

    def __init__(
        self,
        reward: RowReward,
        verify: Verify | None,
        group_by: str | None,
        num_generations: int | None,
        eos_ids: Collection[int] | None,
        think_end_id: int | None,
    ) -> None:
        self.__name__ = reward.reward.name
        self.reward = reward
        self.verify = verify
        self.group_by = group_by
        self.num_generations = num_generations
        self.eos_ids = None if eos_ids is None else frozenset(eos_ids)
        self.think_end_id = think_end_id

    def __call__(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards of this process's rows, in order; None where the reward abstains.

        Raises:
            DataError: nothing tells whether a completion is right or how it ended, or a column is missing.
        """
        # TRL hands its trainer to nobody, but the method that logs is bound to it.
        trainer = getattr(log_metric, "__self__", None)
        self._learn_tokens(trainer)
        given = [
            {name: values[at] for name, values in columns.items() if _per_row(values, len(prompts))}
            for at in range(len(prompts))
        ]
        rows = self.reward.rows(
            [self._completion(*item) for item in zip(prompts, completions, completion_ids, given, strict=True)],
            [self._group(*item) for item in zip(prompts, given, strict=True)],
            self.verify,
        )
        everyone, start = gathered(rows)
        evaluating = trainer is not None and not trainer.model.training
        scorer = copy.deepcopy(self.reward.scorer) if evaluating else self.reward.scorer
        size = self.num_generations or _group_size(trainer, evaluating)
        rewards = self.reward.score(everyone, _progress(trainer_state), size=size, scorer=scorer)
        return rewards[start : start + len(rows)]

    def state_dict(self) -> dict[str, Any]:
        """The reward's memory, as JSON can hold it; {} without one."""
        return self.reward.scorer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a memory that `state_dict` gave."""
        self.reward.scorer.load_state_dict(state)

    def _learn_tokens(self, trainer: Any) -> None:
        if self.eos_ids is None:
            if trainer is None:
                raise DataError(
                    f"reward {self.__name__}: nobody says which tokens end a completion", cure="pass eos_ids=[...]"
                )
            self.eos_ids = frozenset(trainer.eos_token_ids)
        if self.think_end_id is None and trainer is not None:
            processor = trainer.processing_class
            self.think_end_id = think_end(getattr(processor, "tokenizer", processor))

    def _completion(self, prompt: Any, completion: Any, ids: Sequence[int], given: Mapping[str, Any]) -> Completion:
        assert self.eos_ids is not None
        text = _text(completion, "assistant")
        return Completion(
            prompt=_text(prompt, "user"),
            text=text,
            length=len(ids),
            finished=len(ids) > 0 and ids[-1] in self.eos_ids,
            gold=next((given[name] for name in _GOLD_COLUMNS if given.get(name) is not None), None),
            ids=ids,
            think_length=think_length(ids, self.think_end_id, text),
            given=given,
        )

    def _group(self, prompt: Any, given: Mapping[str, Any]) -> str:
        if self.group_by is None:
            return digest(json.dumps(prompt, sort_keys=True, default=str))
        if given.get(self.group_by) is None:
            raise DataError(f"reward {self.__name__}: no column {self.group_by!r} to group by", cure="check group_by")
        return str(given[self.group_by])


def gathered(rows: list[Row]) -> tuple[list[Row], int]:
    """The rows of all processes in the order of their ranks, and where this process's begin. A collective call."""
    torch = sys.modules.get("torch")
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows, 0
    parts: list[list[Row]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, rows)
    start = sum(len(part) for part in parts[: torch.distributed.get_rank()])
    return [row for part in parts for row in part], start


def _group_size(trainer: Any, evaluating: bool) -> int | None:
    """Rollouts per group as the trainer draws them, so that a prompt which comes twice makes two groups."""
    drawn = getattr(trainer, "num_generations_eval", None) if evaluating else None
    return drawn or getattr(trainer, "num_generations", None)


def _per_row(values: Any, count: int) -> bool:
    return isinstance(values, list | tuple) and len(values) == count


def _progress(trainer_state: Any) -> Progress:
    if trainer_state is None:
        return Progress()
    return Progress(step=trainer_state.global_step, total=max(trainer_state.max_steps, 0) or None)


def _text(said: Any, role: str) -> str:
    """A prompt or completion as text: as it is, or what its messages of this role say."""
    if isinstance(said, str):
        return said
    messages = [message for message in said if message["role"] == role]
    return "\n".join(message["content"] for message in messages if isinstance(message.get("content"), str))
