"""Dynamic sampling: groups whose rollouts are all alike are drawn again from other problems (DAPO, arXiv:2503.14476).

    trainer = LaconicGRPOTrainer(..., dynamic_sampling=DynamicSampling(rounds=2))

Equal rewards make advantages of zero, so a batch with many such groups is a smaller one, with a noisier gradient. After
a generation is scored, as many other problems as it has groups without signal are drawn from the training set, and
those of their groups that have a signal take the place of those that have none; that again, up to a number of rounds.
DAPO goes on until the batch is full, and takes the next problems in order; here the epoch's order stays as it is.

What is logged of the rollouts (`reward`, `completions/...`, `raw/...`, `frac_reward_zero_std`) is the first draw, the
honest estimate of what the policy does; refills have an account of their own:

- `refill/rounds`, `refill/groups_drawn`, `refill/groups_used`
- `refill/tokens`: generated in the rounds; `refill/seconds`: all that they took
- `refill/without_signal`: groups of the batch that still have none

`num_tokens` and `seconds/...` count the refills, and the log of completions shows the batch that is trained.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from itertools import islice
from math import gcd
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from trl.trainer.utils import nanstd

from laconic.recipes import grpo_sampling
from laconic.rewards.errors import LaunchError
from laconic.training.group_scorer import GroupScorer
from laconic.training.micro_batches import select
from laconic.training.refill_log import Account, logged_apart
from laconic.training.scored import Scored, note_advantages
from laconic.training.segments import exchange, joined

PROBLEM = "problem_id"
"""The column by which problems are told apart; without it, their prompts are."""


class DynamicSampling:
    """Refills the groups of a generation that have no signal.

    Which problems are drawn depends on the run's seed, the step and the problems of the generation alone, so a resumed
    run draws the same. Rewards with a memory see every rollout, used or not. A training set that has no further
    problems ends the rounds.

    Args:
        rounds: At most so many per generation.
        scorer: Of the rewards, where they have one; its rollouts become those of the batch.
        by_correctness: The rollouts of a group have to differ in whether they are correct, whatever rewards make of it
            (DLER punishes truncation after its filter); needs the scorer.
    """

    def __init__(self, *, rounds: int = 1, scorer: GroupScorer | None = None, by_correctness: bool = False) -> None:
        if by_correctness and scorer is None:
            raise ValueError("by_correctness needs a scorer")
        self.rounds, self._scorer, self._by_correctness = rounds, scorer, by_correctness

    def check(self, trainer: Any) -> None:
        """Refuse what cannot be refilled.

        Raises:
            LaunchError: advantages depend on the whole batch in a way of TRL's own, or problems cannot be drawn.
        """
        data = trainer.train_dataset
        reasons = {
            "advantages of multi_objective_aggregation normalize_then_sum are those of the whole batch": (
                trainer.multi_objective_aggregation == "normalize_then_sum"
            ),
            "rollouts with images do not move between processes": trainer._is_vlm,
            "a training set without a length cannot be drawn from": not isinstance(data, Sized),
            f"without a column prompt or {PROBLEM} problems cannot be told apart": (
                isinstance(data, Sized) and not {"prompt", PROBLEM} & set(data[0])
            ),
        }
        for reason, holds in reasons.items():
            if holds:
                raise LaunchError(f"dynamic sampling: {reason}", cure="leave dynamic_sampling out, or change that")

    def __call__(self, trainer: Any, scored: Scored) -> Scored:
        """The generation with its refills; called on every process alike."""
        started, account = time.perf_counter(), Account()
        values, others = self._values(scored), _others(trainer, scored)
        flat = without_signal(values, scored.num_generations)
        while flat and account.rounds < self.rounds:
            rows = _draw(others, len(flat), scored.num_generations, trainer.accelerator)
            if not rows:
                break
            scored = self._round(trainer, scored, rows, values, account)
            flat = without_signal(values, scored.num_generations)
        if account.groups_used and trainer.scale_rewards == "batch":
            scored = _standardised(trainer, scored)
        account.without_signal, account.seconds = len(flat), time.perf_counter() - started
        account.note(trainer._metrics["train"])
        return scored

    def _round(
        self, trainer: Any, scored: Scored, rows: list[dict[str, Any]], values: torch.Tensor, account: Account
    ) -> Scored:
        """Score these rows, and put what has a signal in the place of what has none; `values` and account follow."""
        size, before = scored.num_generations, self._scorer.rollouts if self._scorer else []
        with logged_apart(trainer) as apart:
            new = trainer._score(rows)
        found = self._values(new)
        places = _places(without_signal(values, size), without_signal(found, size), len(found), size)
        account.add(apart, rows=len(found), used=len(places), num_generations=size)
        if self._scorer:
            drawn = dict(enumerate(before)) | {place: self._scorer.rollouts[row] for place, row in places.items()}
            self._scorer.rollouts = list(drawn.values())
        if not places:
            return scored
        values[list(places)] = found[list(places.values())]
        apart.put_in(trainer._logs, places, of=len(values))
        return put_in(scored, new, places, trainer.accelerator)

    def _values(self, scored: Scored) -> torch.Tensor:
        """What groups are judged by, shape (N,)."""
        if not (self._by_correctness and self._scorer):
            return scored.rewards.clone()
        return torch.tensor(self._scorer.correctness(), device=scored.rewards.device)


def refills(spec: grpo_sampling.DynamicSampling | None, scorer: GroupScorer) -> dict[str, Any]:
    """What a recipe's `dynamic_sampling:` is for the trainer, as keywords; {} without one."""
    if spec is None:
        return {}
    found = DynamicSampling(rounds=spec.rounds, scorer=scorer, by_correctness=spec.by == "correct")
    return {"dynamic_sampling": found}


def without_signal(values: torch.Tensor, num_generations: int) -> list[int]:
    """The groups in which all values are equal, those that are NaN left out."""
    groups = values.view(-1, num_generations)
    least, most = groups.nan_to_num(nan=torch.inf).amin(1), groups.nan_to_num(nan=-torch.inf).amax(1)
    return (most <= least).nonzero().flatten().tolist()


def put_in(scored: Scored, new: Scored, places: Mapping[int, int], accelerator: Accelerator) -> Scored:
    """A generation with some rollouts of another in the places of its own.

    Args:
        scored: The generation.
        new: The other one.
        places: By row of `scored` the row of `new`, both counted over all processes.
        accelerator: Knows the other processes.
    """
    first, count = scored.mine.start, len(scored.rows)
    mine = {place - first: row for place, row in places.items() if first <= place < first + count}
    order = list(range(count))
    for at, place in enumerate(mine):
        order[place] = count + at
    batch = select(joined(scored.batch, exchange(new.batch, list(mine.values()), accelerator)), order)
    theirs = gather_object(list(new.rows))
    known = [*scored.rows, *(theirs[row] for row in mine.values())]
    rewards, tokens = scored.rewards.clone(), scored.tokens.clone()
    rewards[list(places)] = new.rewards[list(places.values())]
    tokens[list(places)] = new.tokens[list(places.values())]
    batch["num_items_in_batch"] = tokens.sum()
    return replace(scored, batch=batch, rewards=rewards, tokens=tokens, rows=[known[row] for row in order])


def _others(trainer: Any, scored: Scored) -> Iterator[dict[str, Any]]:
    """Problems that are not in the batch, each once, in an order that the same generation always has."""
    data = trainer.train_dataset
    batch = gather_object([_problem(row) for row in scored.rows])
    said = "/".join([str(trainer.args.seed), str(trainer.state.global_step), *batch])
    seed = int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big")
    return _unknown(data, np.random.default_rng(seed).permutation(len(data)), set(batch))


def _unknown(data: Any, order: np.ndarray, known: set[str]) -> Iterator[dict[str, Any]]:
    for index in order:
        row = data[int(index)]
        if (problem := _problem(row)) not in known:
            known.add(problem)
            yield row


def _problem(row: Mapping[str, Any]) -> str:
    return str(row[PROBLEM]) if PROBLEM in row else repr(row.get("prompt"))


def _draw(
    others: Iterator[dict[str, Any]], groups: int, num_generations: int, accelerator: Accelerator
) -> list[dict[str, Any]]:
    """This process's rows of at least so many groups, as many on every process; none once there are too few."""
    processes = accelerator.num_processes
    whole = processes // gcd(processes, num_generations)
    drawn = list(islice(others, -(-groups // whole) * whole))
    problems = drawn[: len(drawn) // whole * whole]
    rows = [dict(problem) for problem in problems for _ in range(num_generations)]
    per_process = len(rows) // processes
    return rows[accelerator.process_index * per_process :][:per_process]


def _places(flat: Sequence[int], lacking: Sequence[int], drawn: int, size: int) -> dict[int, int]:
    """Rows of groups without signal, and the new rows that take their place."""
    good = [group for group in range(drawn // size) if group not in set(lacking)]
    pairs = zip(flat, good, strict=False)
    return {old * size + at: group * size + at for old, group in pairs for at in range(size)}


def _standardised(trainer: Any, scored: Scored) -> Scored:
    """TRL's advantages over the whole batch (scale_rewards: batch), of the batch that it is now."""
    mean = scored.rewards.view(-1, scored.num_generations).nanmean(1).repeat_interleave(scored.num_generations)
    every = ((scored.rewards - mean) / (nanstd(scored.rewards) + 1e-4)).nan_to_num(nan=0.0)
    batch = scored.batch | {"advantages": every[scored.mine]}
    note_advantages(trainer, batch)
    return replace(scored, batch=batch)
