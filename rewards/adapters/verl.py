"""Registered rewards as reward functions of verl.

A file of your own, ``my_reward.py``::

    from laconic.rewards.adapters.verl import verl_reward

    compute_score = verl_reward("efficient_reasoning", tokenizer="path/of/the/model", response_limit=8192)

and in the configuration, for the versions with a batch reward manager (until the reward loop replaced it in 2026)::

    custom_reward_function.path=my_reward.py
    custom_reward_function.name=compute_score
    reward_model.reward_manager=batch
    data.max_response_length=8192
    reward_model.use_reward_loop=False      # only where the key exists

There the whole generation batch comes in one call, on one process, so groups are whole and rewards may have memory
(verl's checkpoints do not hold it). Later versions call reward functions with one sample at a time, on several
workers::

    reward.custom_reward_function.path=my_reward.py
    reward.custom_reward_function.name=compute_score

which is enough for rewards of scope ``rollout`` only; the others refuse such a call. Written against verl's source at
commits 302f740 and abddec4; verl itself is not among our tests, its calls are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laconic.rewards.adapters.rows import Completion, RowReward, Verify, think_end, think_length
from laconic.rewards.adapters.tokens import load_tokenizer
from laconic.rewards.errors import DataError
from laconic.rewards.judge import Judge


def verl_reward(
    name: str,
    *,
    tokenizer: Any = None,
    response_limit: int | None = None,
    verify: Verify | None = None,
    group_by: str = "index",
    judge: Judge | str | None = None,
    **keys: Any,
) -> VerlReward:
    """A registered reward as verl's ``compute_score``, for a batch or for one sample.

    verl passes texts without special tokens: a length is the number of tokens the text has, and one for the
    end-of-sequence token if it is below `response_limit`, unless ``extra_info["length"]`` says it exactly. A completion
    is right if `verify` says so, else if its answer equals ``ground_truth`` by the verifier that ``extra_info["task"]``
    names (``math`` without one). ``extra_info`` may hold further columns that the reward reads. For ``tasks``, the task
    is ``extra_info["task"]`` or the data source. An abstention is a score of 0, since verl has no other.

    Args:
        name: Registered name, or ``module:function``.
        tokenizer: The model's tokenizer or the path of its folder; not needed where ``extra_info`` has the length.
        response_limit: verl's ``data.max_response_length``: a text of this many tokens was cut. None takes every
            completion as finished.
        verify: ``def verify(completion, /, ground_truth, data_source, **extra_info): ...``, True or False.
        group_by: Key of ``extra_info`` that numbers the problem inside its data source.
        judge: For a reward that asks one: a function (async or not), or its place as ``package.module:function``.
        **keys: The reward's parameters, and the keys ``gate, tasks, times_correct`` of a recipe.

    Raises:
        RecipeError: an unknown reward or key, or a value out of range; also ``warmup`` and ``schedule``, since verl
            does not tell reward functions where training is.
    """
    reward = RowReward(name, "verl", judge, keys)
    reward.refuse_schedules("verl")
    return VerlReward(reward, load_tokenizer(tokenizer), response_limit, verify, group_by)


class VerlReward:
    """What `verl_reward` gives."""

    def __init__(
        self, reward: RowReward, tokenizer: Any, response_limit: int | None, verify: Verify | None, group_by: str
    ) -> None:
        self.__name__ = reward.reward.name
        self.reward = reward
        self.tokenizer = tokenizer
        self.response_limit = response_limit
        self.verify = verify
        self.group_by = group_by

    def __call__(
        self,
        data_source: str | None = None,
        solution_str: str | None = None,
        ground_truth: Any = None,
        extra_info: Mapping[str, Any] | None = None,
        *,
        data_sources: Sequence[str] | None = None,
        solution_strs: Sequence[str] | None = None,
        ground_truths: Sequence[Any] | None = None,
        extra_infos: Sequence[Mapping[str, Any] | None] | None = None,
        **_: Any,
    ) -> Any:
        """Score a batch (names in the plural) or one sample (names in the singular), as verl calls either.

        Returns:
            ``{"score", "acc", "length"}`` per sample, in order; for the call with one sample that one dict.

        Raises:
            DataError: one sample of a reward that needs its group, or nothing tells a length, a problem or a verdict.
        """
        if solution_strs is not None:
            return self._score(data_sources, solution_strs, ground_truths, extra_infos)
        if not self.reward.one_by_one:
            raise DataError(
                f"reward {self.__name__} looks at more than one rollout, and verl calls with one at a time",
                cure="use verl's batch reward manager, or a reward of scope rollout (`laconic list rewards`)",
            )
        return self._score([data_source], [solution_str], [ground_truth], [extra_info])[0]

    def state_dict(self) -> dict[str, Any]:
        """The reward's memory, as JSON can hold it; {} without one."""
        return self.reward.scorer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a memory that `state_dict` gave."""
        self.reward.scorer.load_state_dict(state)

    def _score(self, sources: Any, texts: Sequence[Any], golds: Any, extras: Any) -> list[dict[str, float]]:
        given = [dict(extra or {}) for extra in extras]
        groups = [self._group(at, *item) for at, item in enumerate(zip(sources, given, strict=True))]
        completions = [self._completion(*item) for item in zip(sources, texts, golds, given, strict=True)]
        rows = self.reward.rows(completions, groups, self.verify)
        rewards = self.reward.score(rows)
        return [
            {"score": reward or 0.0, "acc": float(bool(row["correct"])), "length": float(row["length"])}
            for reward, row in zip(rewards, rows, strict=True)
        ]

    def _group(self, at: int, source: Any, given: Mapping[str, Any]) -> str:
        if given.get(self.group_by) is not None:
            return f"{source}/{given[self.group_by]}"
        if not self.reward.one_by_one:
            raise DataError(
                f"reward {self.__name__}: extra_info has no {self.group_by!r}, which tells the samples of one problem",
                cure="number the problems of the data set in extra_info, or name its key in group_by",
            )
        return f"{source}/{at}"

    def _completion(self, source: Any, text: str, gold: Any, given: dict[str, Any]) -> Completion:
        ids = None if self.tokenizer is None else self.tokenizer.encode(text, add_special_tokens=False)
        length, finished = self._length(ids, given)
        return Completion(
            prompt=str(given.get("question", "")),
            text=text,
            length=length,
            finished=finished,
            gold=gold,
            ids=ids,
            think_length=None if ids is None else think_length(ids, think_end(self.tokenizer), text),
            task=source,
            given={"data_source": source, "ground_truth": gold} | given,
        )

    def _length(self, ids: Sequence[int] | None, given: Mapping[str, Any]) -> tuple[int, bool]:
        """Generated tokens with the end-of-sequence token, and whether there was one."""
        if given.get("length") is not None:
            length = int(given["length"])
            return length, self.response_limit is None or length < self.response_limit
        if ids is None:
            raise DataError(
                f"reward {self.__name__}: nothing tells how long a completion is",
                cure="pass tokenizer=(the model's folder), or put length into extra_info",
            )
        finished = self.response_limit is None or len(ids) < self.response_limit
        return len(ids) + finished, finished
