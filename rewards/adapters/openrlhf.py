"""Registered rewards as the ``reward_func`` of OpenRLHF.

A file of your own, ``my_reward.py``, given as ``--remote_rm_url my_reward.py`` together with ``--label_key answer``::

    from laconic.rewards.adapters.openrlhf import openrlhf_reward

    reward_func = openrlhf_reward("efficient_reasoning", tokenizer="path/of/the/model", samples_per_prompt=8)

Versions that score after generation call it with ``--micro_rollout_batch_size`` rows at a time, in Ray tasks: make that
a multiple of ``--n_samples_per_prompt``, so that groups are whole. Versions with agent executors call it with one row
at a time, which is enough for rewards of scope ``rollout`` only; the others refuse such a call (OpenRLHF logs the
message and goes on without a reward). No call sees the whole batch, and calls come in several processes, so rewards
that look beyond their group are refused altogether. Written against OpenRLHF's source at commits 2cedb6a and 04655bc;
OpenRLHF itself is not among our tests, its calls are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from laconic.rewards.adapters.rows import Completion, RowReward, Verify, digest, think_end, think_length
from laconic.rewards.adapters.tokens import load_tokenizer
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.judge import Judge


def openrlhf_reward(
    name: str,
    *,
    tokenizer: Any,
    samples_per_prompt: int | None = None,
    verify: Verify | None = None,
    task: str = "math",
    judge: Judge | str | None = None,
    **keys: Any,
) -> Callable[..., dict[str, Any]]:
    """A registered reward as OpenRLHF's ``reward_func(queries, prompts, labels, **kwargs)``.

    A query is prompt and completion with special tokens. Its length is the number of tokens its completion has when
    encoded again, and it is finished if the last one ends a sequence. A completion is right if `verify` says so, else
    if its answer equals the label. An abstention is a reward of 0, since OpenRLHF has no other.

    Args:
        name: Registered name, or ``module:function``.
        tokenizer: The model's tokenizer, or the path of its folder.
        samples_per_prompt: OpenRLHF's ``--n_samples_per_prompt``; needed by rewards that look at the group.
        verify: ``def verify(completion, /, label, **_): ...``, True or False.
        task: Names the verifier of labels.
        judge: For a reward that asks one: a function (async or not), or its place as ``package.module:function``.
        **keys: The reward's parameters, and the key ``times_correct`` of a recipe.

    Returns:
        A plain function, since Ray takes no other callable. It gives ``rewards``, ``scores`` (1 for right and 0 for
        wrong, for dynamic filtering) and ``extra_logs``, each a float tensor of shape (rows,).

    Raises:
        RecipeError: an unknown reward or key, or a value out of range; a reward that looks beyond its group or
            follows training; no `samples_per_prompt` for one that looks at its group.
    """
    reward = RowReward(name, "OpenRLHF", judge, keys)
    _check(reward, samples_per_prompt)
    tokens = load_tokenizer(tokenizer)

    def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any) -> dict[str, Any]:
        """Rewards of these rows, in order."""
        import torch

        completions = [_completion(tokens, task, *row) for row in zip(queries, prompts, labels, strict=True)]
        rows = reward.rows(completions, [digest(prompt) for prompt in prompts], verify)
        rewards = reward.score(rows, size=None if reward.one_by_one else samples_per_prompt)
        right = torch.tensor([float(bool(row["correct"])) for row in rows])
        lengths = torch.tensor([float(row["length"]) for row in rows])
        return {
            "rewards": torch.tensor([value or 0.0 for value in rewards]),
            "scores": right,
            "extra_logs": {"accuracy": right, "completion_tokens": lengths},
        }

    return reward_func


def _check(reward: RowReward, samples_per_prompt: int | None) -> None:
    reward.refuse_schedules("OpenRLHF")
    if reward.reward.stateful or reward.reward.scope == "batch" or "gate" in reward.entry:
        raise RecipeError(
            f"reward {reward.reward.name}, as given, looks beyond its group; OpenRLHF shows it parts of a batch",
            cure="use a reward of scope group or rollout without memory and gate, or train with TRL",
        )
    if not reward.one_by_one and samples_per_prompt is None:
        raise RecipeError(
            f"reward {reward.reward.name} looks at whole groups", cure="pass samples_per_prompt=n_samples_per_prompt"
        )


def _completion(tokenizer: Any, task: str, query: str, prompt: str, label: Any) -> Completion:
    _, found, text = query.partition(prompt)
    if not found:
        raise DataError(
            f"the query {query[:80]!r} does not hold its prompt", cure="report this with OpenRLHF's version"
        )
    ids = _without_padding(tokenizer, tokenizer.encode(text, add_special_tokens=False))
    finished = bool(ids) and ids[-1] == tokenizer.eos_token_id
    spoken = tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=False)
    return Completion(
        prompt=prompt,
        text=spoken,
        length=len(ids),
        finished=finished,
        # Without --label_key the labels are empty.
        gold=None if label in (None, "") else label,
        ids=ids,
        think_length=think_length(ids, think_end(tokenizer), spoken),
        given={"label": label, "task": task},
    )


def _without_padding(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Padding at the end left out; where it is the end-of-sequence token, all but the first of them."""
    ids = list(ids)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    while ids and ids[-1] == pad and (pad != end or ids[-2:] == [end, end]):
        ids.pop()
    return ids
