"""Rewards that compare siblings, against numbers of the authors' own code (for Kimi, of the paper's formula)."""

import json
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Group

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "length_rewards.json").read_text())
# golden entry -> (our reward, authors' parameter -> ours); what is not mapped does not change the formula.
NAMES = {
    "arora_sigmoid": ("efficient_reasoning", {"alpha": "alpha"}),
    "shorterbetter": ("shorter_better", {"alpha": "correct_weight", "beta": "length_weight"}),
    "kimi_paper_length_term": ("kimi_length", {}),
}
CASES = [(entry, case) for entry in NAMES for case in GOLDEN[entry]]


@pytest.mark.parametrize(("entry", "case"), CASES, ids=[f"{e}-{c['params']['case']}" for e, c in CASES])
def test_golden(entry, case):
    name, parameters = NAMES[entry]
    rows = case["inputs"]["group"]
    group = Group.of(
        correct=[row["correct"] for row in rows],
        length=[row["length"] for row in rows],
        finished=[row.get("finished", True) for row in rows],
    )
    ours = {mine: case["params"][theirs] for theirs, mine in parameters.items()}
    np.testing.assert_allclose(REWARDS[name](group, **ours), case["expected"], atol=1e-6)


def test_truncated_rollout_is_wrong_for_efficient_reasoning():
    whole = Group.of(correct=[True, True, False], length=[100, 300, 50])
    cut = Group.of(correct=[True, True, True, False], length=[100, 300, 900, 50], finished=[True, True, False, True])
    rewards = REWARDS["efficient_reasoning"](cut, alpha=0.3)
    assert rewards[2] == 0.0
    np.testing.assert_allclose(rewards[[0, 1, 3]], REWARDS["efficient_reasoning"](whole, alpha=0.3))
