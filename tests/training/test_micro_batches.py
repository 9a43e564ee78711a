"""How rollouts are cut into micro-batches and dealt out."""

import itertools
import random

import numpy as np
import pytest
import torch

from laconic.training.micro_batches import (
    LEAST_SHARED,
    PER_ROUND,
    default_budget,
    plan_apart,
    plan_rounds,
    saved_by_sharing,
    select,
    trimmed,
    width,
)
from laconic.training.segments import _prompt_numbers


def sizes(count, seed=0):
    rng = random.Random(seed)
    return [(rng.randrange(3, 9), max(1, min(80, round(rng.lognormvariate(2.5, 0.8))))) for _ in range(count)]


def cost(rounds, given, budget):
    """Tokens of what every round makes each process wait for."""
    widths = [max(len(rows) * sum(width([given[row] for row in rows])) for rows in one if rows) for one in rounds]
    return sum(widths) + len(rounds) * budget * PER_ROUND


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 5, 40])
def test_every_rollout_once_under_the_budget_with_equal_work(processes, count):
    given = sizes(count)
    rounds = plan_rounds(given, processes=processes, budget=100)
    assert sorted(row for one in rounds for rows in one for row in rows) == list(range(count))
    for one in rounds:
        assert len(one) == processes
        assert max(map(len, one)) - min(map(len, one)) <= 1
        for rows in one:
            assert len(rows) <= 1 or len(rows) * sum(width([given[row] for row in rows])) <= 100
    shares = [sum(sum(given[row]) for one in rounds for row in one[process]) for process in range(processes)]
    # Dealt from the longest on, nobody is further behind than the longest rollout of each round.
    assert max(shares) - min(shares) <= sum(max(sum(given[row]) for rows in one for row in rows) for one in rounds)


def test_the_cuts_are_the_best():
    given = sizes(9, seed=3)
    order = sorted(range(9), key=lambda row: (-sum(given[row]), -given[row][1], row))
    best = float("inf")
    for chosen in itertools.product([False, True], repeat=8):
        cuts = [0, *(at + 1 for at, cut in enumerate(chosen) if cut), 9]
        rounds = [[order[start:end]] for start, end in itertools.pairwise(cuts)]
        if all(len(r) == 1 or len(r) * sum(width([given[row] for row in r])) <= 120 for (r,) in rounds):
            best = min(best, cost(rounds, given, 120))
    assert cost(plan_rounds(given, processes=1, budget=120), given, 120) == best


def test_processes_that_keep_their_rollouts_have_as_many_micro_batches():
    rounds = plan_apart([sizes(20), [], sizes(1)], budget=60)
    assert [sorted(itertools.chain(*rows)) for rows in zip(*rounds, strict=True)] == [list(range(20)), [], [0]]
    assert len(rounds) > 3


def test_nothing_to_plan():
    assert plan_rounds([], processes=2, budget=10) == []
    assert plan_apart([[], []], budget=10) == []


def test_trimming_takes_padding_alone():
    batch = {
        "prompt_ids": torch.tensor([[0, 0, 1, 2], [0, 3, 4, 5], [6, 7, 8, 9]]),
        "completion_ids": torch.tensor([[1, 2, 0, 0, 0], [3, 0, 0, 0, 0], [4, 5, 6, 7, 8]]),
        "old_per_token_logps": torch.arange(15.0).view(3, 5),
        "advantages": torch.tensor([1.0, 2.0, 3.0]),
        "num_items_in_batch": torch.tensor(8),
    }
    found = trimmed(select(batch, [1, 0]), (3, 2))
    assert found["prompt_ids"].tolist() == [[3, 4, 5], [0, 1, 2]]
    assert found["completion_ids"].tolist() == [[3, 0], [1, 2]]
    assert found["old_per_token_logps"].tolist() == [[5, 6], [0, 1]]
    assert found["advantages"].tolist() == [2, 1]
    assert found["num_items_in_batch"] == 8
    assert width([(3, 1), (2, 2)]) == (3, 2)
    assert width([(3, 1), (2, 2)], multiple=4) == (4, 4)
    assert width([(0, 0)]) == (1, 1)


@pytest.mark.parametrize(
    ("own", "cpu", "gpu"), [(900, 900, 900), (3000, 2048, 2048), (9000, 2048, 4500), (99999, 2048, 8192)]
)
def test_default_budget(own, cpu, gpu):
    assert default_budget(own, torch.device("cpu")) == cpu
    assert default_budget(own, torch.device("cuda")) == gpu


def tokens_of(rows, sizes, prompts, held=0):
    """What a forward pass of these rollouts reads; `held` is the share of what it saves that stays in memory."""
    prompt, completion = (max(sizes[row][side] for row in rows) for side in (0, 1))
    different = len({prompts[row] for row in rows})
    saved = (len(rows) - different) * prompt
    saved *= saved >= LEAST_SHARED * len(rows) * (prompt + completion)
    return len(rows) * (prompt + completion) - (1 - held) * saved


def test_the_cuts_are_the_best_with_shared_prompts():
    rng = random.Random(4)
    prompts = [at % 3 for at in range(10)]
    sizes = [((4, 9, 6)[prompt], rng.randrange(1, 14)) for prompt in prompts]
    order = sorted(range(10), key=lambda row: (-sum(sizes[row]), -sizes[row][1], row))
    budget = 60

    def cost(rounds):
        return sum(tokens_of(rows, sizes, prompts) for (rows,) in rounds) + len(rounds) * budget * PER_ROUND

    best = float("inf")
    for chosen in itertools.product([False, True], repeat=9):
        cuts = [0, *(at + 1 for at, cut in enumerate(chosen) if cut), 10]
        rounds = [[order[start:end]] for start, end in itertools.pairwise(cuts)]
        if all(len(rows) == 1 or tokens_of(rows, sizes, prompts, held=1 / 8) <= budget for (rows,) in rounds):
            best = min(best, cost(rounds))
    found = plan_rounds(sizes, processes=1, budget=budget, prompts=prompts)
    assert cost(found) == best
    assert cost(found) < cost(plan_rounds(sizes, processes=1, budget=budget))


def test_a_few_prompts_are_not_worth_a_second_pass():
    assert saved_by_sharing(10, 10, 100, 1) == 0
    assert saved_by_sharing(12, 1, 100, 1) == 1100
    completion = int(11 * 12 / (LEAST_SHARED * 12)) - 12  # of twelve rollouts of one prompt of twelve tokens
    assert saved_by_sharing(12, 1, 12, np.array([completion, completion + 1])).tolist() == [11 * 12, 0]


def test_prompts_have_the_same_number_however_they_are_padded():
    def numbered(rows, width):
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return _prompt_numbers({"prompt_ids": ids, "prompt_mask": mask}).tolist()

    rows = [[5, 6], [6, 5], [0, 5, 6], [5, 6, 0], [5], [0]]
    narrow, wide = numbered(rows, 3), numbered(rows, 40)
    assert narrow == wide
    assert len(set(narrow)) == len(rows)
