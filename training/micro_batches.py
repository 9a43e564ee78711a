"""Which rollouts share a forward pass: sorted by length, under a token budget, the same number on every process."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch

from laconic.recipes.arithmetic import micro_batch_tokens

Batch: TypeAlias = dict[str, Any]
"""Rollouts as TRL keeps them: prompts padded on the left, everything per completion token on the right."""
Size: TypeAlias = tuple[int, int]
"""Tokens of a rollout's prompt and of its completion."""
Rounds: TypeAlias = list[list[list[int]]]
"""By round and process: the rows of one micro-batch. Some may be empty, none is missing."""

PER_ROUND = 1 / 8
"""What a forward and backward pass costs however little is in it, in budgets of tokens."""
LEAST_SHARED = 1 / 12
"""Of a micro-batch's tokens: where sharing prompts saves fewer, the second forward pass costs more than it saves."""
_HELD = 1 / 8
"""Of a shared prompt's tokens: what each rollout holds of them all the same, its keys and values."""
PROMPT_FIELDS = ("prompt_ids", "prompt_mask")


def plan_rounds(sizes: Sequence[Size], *, processes: int, budget: int, prompts: Sequence[int] | None = None) -> Rounds:
    """Deal rollouts out so that in every round each process has a micro-batch of about the same size.

    Rollouts are sorted by length and cut where that costs the fewest tokens, padding included, when every round costs
    an eighth of the budget besides. A micro-batch holds at most `budget` tokens unless a single rollout has more.

    Args:
        sizes: Of each rollout.
        processes: Over which they are dealt out.
        budget: Tokens of one micro-batch, padding included.
        prompts: Which prompt each rollout has, where a forward pass reads the ones it shares once.
    """
    order = sorted(range(len(sizes)), key=lambda row: (-sum(sizes[row]), -sizes[row][1], row))
    earlier = None if prompts is None else _earlier([prompts[row] for row in order])
    cuts = _cuts(np.array([sizes[row] for row in order]).reshape(-1, 2), earlier, processes, budget)
    return [[order[start + process : end : processes] for process in range(processes)] for start, end in pairwise(cuts)]


def saved_by_sharing(rows: Any, prompts: Any, prompt: Any, completion: Any) -> Any:
    """Tokens that a forward pass need not read if it reads its prompts once and then what follows each.

    Args:
        rows: Rollouts; like all that follows, a number or an array of them.
        prompts: Different ones among theirs.
        prompt: Columns of prompts.
        completion: Columns of completions.

    Returns:
        Zero where a second forward pass would cost more than it saves.
    """
    saved = (rows - prompts) * prompt
    return np.where(saved >= LEAST_SHARED * rows * (prompt + completion), saved, 0)


def default_budget(own: int, device: torch.device) -> int:
    """Tokens of a micro-batch where nothing is said (`recipes.arithmetic.micro_batch_tokens`).

    Args:
        own: Tokens of TRL's micro-batch if all its rollouts were the longest.
        device: That trains.
    """
    return micro_batch_tokens(own, on_cpu=device.type == "cpu")


def plan_apart(sizes: Sequence[Sequence[Size]], *, budget: int, prompts: Sequence[Sequence[int] | None] = ()) -> Rounds:
    """The same where every process keeps its own rollouts; row numbers count within a process.

    Args:
        sizes: By process, of each rollout.
        budget: Tokens of one micro-batch.
        prompts: The same of `plan_rounds`' prompts; nothing if none are shared.
    """
    prompts = prompts or [None] * len(sizes)
    plans = [
        plan_rounds(own, processes=1, budget=budget, prompts=whose) for own, whose in zip(sizes, prompts, strict=True)
    ]
    rounds = max(map(len, plans))
    return [[plan[at][0] if at < len(plan) else [] for plan in plans] for at in range(rounds)]


def _earlier(prompts: Sequence[int]) -> np.ndarray:
    """For each rollout, the place of the last one before it with the same prompt; -1 if there is none."""
    last: dict[int, int] = {}
    places = np.empty(len(prompts), dtype=int)
    for at, prompt in enumerate(prompts):
        places[at] = last.get(prompt, -1)
        last[prompt] = at
    return places


def _cuts(sizes: np.ndarray, earlier: np.ndarray | None, processes: int, budget: int) -> list[int]:
    """Where rounds begin and end, by the costs of what is left, from the last rollout backwards."""
    count, totals = len(sizes), sizes.sum(1)
    least, ends = np.zeros(count + 1), np.zeros(count, dtype=int)
    for start in reversed(range(count)):
        # What is shared is not held twice, so that there may be more rollouts than their lengths say.
        shortest = totals[start] if earlier is None else sizes[start, 1]
        stop = start + processes * max(1, budget // max(1, int(shortest)))
        new = None if earlier is None else earlier[start:stop] < start
        rows, tokens, held = _tokens(sizes[start:stop], new, processes)
        cost = tokens + budget * PER_ROUND + least[start + 1 : start + 1 + len(tokens)]
        cost[(rows > 1) & (held > budget)] = np.inf
        ends[start] = start + 1 + int(cost.argmin())
        least[start] = cost.min()
    cuts = [0]
    while cuts[-1] < count:
        cuts.append(int(ends[cuts[-1]]))
    return cuts


def _tokens(sizes: np.ndarray, new: np.ndarray | None, processes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each process has to do in a round that ends with each of these rollouts.

    Args:
        sizes: Of the rollouts from the round's first on, shape (N, 2).
        new: Which of them have a prompt that none before them has; None if no prompts are shared.
        processes: Over which they are dealt out.

    Returns:
        Rollouts, tokens that are read, and tokens that are held at once.
    """
    prompt, completion = np.maximum.accumulate(sizes).T
    rows = -(-np.arange(1, len(sizes) + 1) // processes)
    tokens = rows * (prompt + completion)
    if new is None:
        return rows, tokens, tokens
    saved = saved_by_sharing(rows, np.minimum(rows, new.cumsum()), prompt, completion)
    return rows, tokens - saved, tokens - saved * (1 - _HELD)


def select(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch; what is not per row stays."""
    index = torch.tensor(rows, dtype=torch.long)
    return {
        name: field[index.to(field.device)] if isinstance(field, torch.Tensor) and field.ndim else field
        for name, field in batch.items()
    }


def trimmed(batch: Batch, size: Size) -> Batch:
    """Without the columns that are padding in every row.

    Args:
        batch: Rollouts.
        size: Columns to keep of prompts and of completions.
    """
    prompt, completion = size
    columns = batch["completion_ids"].size(1)
    found = {}
    for name, field in batch.items():
        per_token = isinstance(field, torch.Tensor) and field.ndim == 2 and field.size(1) == columns
        if name in PROMPT_FIELDS:
            field = field[:, -prompt:]
        elif per_token:
            field = field[:, :completion]
        found[name] = field
    return found


def width(sizes: Sequence[Size], *, multiple: int | None = None) -> Size:
    """The columns that some rollouts need, at least one each; each rounded up to a multiple if one is given."""
    prompt = max(1, *(size[0] for size in sizes), 1)
    completion = max(1, *(size[1] for size in sizes), 1)
    if multiple is None:
        return prompt, completion
    return -(-prompt // multiple) * multiple, -(-completion // multiple) * multiple
