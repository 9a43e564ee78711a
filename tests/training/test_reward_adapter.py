"""Rewards as TRL callables in one process; several processes are in test_two_ranks.py."""

import pickle

import pytest

from laconic.rewards import REWARDS, Group
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem
from laconic.training import scratch
from laconic.training.reward_adapter import GroupScorer, RewardAdapter

PROBLEMS = {
    "a": Problem(id="a", prompt="3 + 4 =", answer="7", task="chain_sum"),
    "b": Problem(id="b", prompt="4 + 4 =", answer="8", task="chain_sum"),
    "broken": Problem(id="broken", prompt="?", answer="", task="math"),
}
TEXTS = ["<think> 3 + 4 = 7 </think> 7", "7", "<think> 3 </think> 8", "<think> 3 + 4"]


@pytest.fixture
def tokenizer():
    return scratch.symbolic_tokenizer(["3", "4", "7", "8", "+", "="])


@pytest.fixture
def scorer(tokenizer):
    return GroupScorer(PROBLEMS, tokenizer, num_generations=4)


def encode(tokenizer, texts=TEXTS):
    """The last text is cut by the token limit: it has no end-of-sequence token."""
    ids = [tokenizer.encode(text) for text in texts]
    return [[*row, tokenizer.eos_token_id] for row in ids[:-1]] + ids[-1:]


@pytest.mark.parametrize("name", ["accuracy", "efficient_reasoning", "shorter_better", "kimi_length"])
def test_equals_the_reward_of_the_group(scorer, tokenizer, name):
    ids = encode(tokenizer)
    got = RewardAdapter(name, {}, scorer)(completion_ids=ids, problem_id=["a"] * 4, prompts=None, completions=None)
    group = Group.of([True, True, False, False], [len(row) for row in ids], [True, True, True, False])
    assert got == pytest.approx(REWARDS[name](group).tolist())


def test_each_group_on_its_own(scorer, tokenizer):
    ids = encode(tokenizer) + encode(tokenizer)
    rewards = RewardAdapter("accuracy", {}, scorer)(completion_ids=ids, problem_id=["a"] * 4 + ["b"] * 4)
    assert rewards == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def test_gold_that_cannot_be_checked_abstains(scorer, tokenizer):
    rewards = RewardAdapter("accuracy", {}, scorer)(completion_ids=encode(tokenizer), problem_id=["broken"] * 4)
    assert rewards == [None] * 4


def test_a_split_group_is_refused(scorer, tokenizer):
    with pytest.raises(DataError, match="num_generations=4"):
        RewardAdapter("accuracy", {}, scorer)(completion_ids=encode(tokenizer), problem_id=["a", "a", "b", "b"])


def test_raw_facts_are_logged_beside_the_shaped_reward(scorer, tokenizer):
    logged = {}
    adapter = RewardAdapter("efficient_reasoning", {"alpha": 0.4}, scorer, log_raw=True)
    ids = encode(tokenizer)
    adapter(completion_ids=ids, problem_id=["a"] * 4, log_metric=logged.__setitem__)
    assert logged["raw/accuracy"] == 0.5
    assert logged["raw/tokens"] == pytest.approx(sum(map(len, ids)) / 4)
    assert logged["raw/truncated"] == 0.25
    assert logged["raw/tokens_correct"] == pytest.approx((len(ids[0]) + len(ids[1])) / 2)


def test_pickles_and_keeps_its_name(scorer, tokenizer):
    adapter = RewardAdapter("shorter_better", {"length_weight": 0.1}, scorer)
    ids = encode(tokenizer)
    before = adapter(completion_ids=ids, problem_id=["a"] * 4)
    copy = pickle.loads(pickle.dumps(adapter))
    assert copy.__name__ == "shorter_better"
    assert copy(completion_ids=ids, problem_id=["a"] * 4) == before


def test_any_end_of_sequence_token_finishes_a_rollout(tokenizer):
    # Instruction-tuned models often end with one token in chat and another elsewhere.
    other = tokenizer.convert_tokens_to_ids("=")
    scorer = GroupScorer(PROBLEMS, tokenizer, num_generations=2, eos_ids=[tokenizer.eos_token_id, other])
    ids = [[*tokenizer.encode("7"), other], [*tokenizer.encode("7"), tokenizer.eos_token_id]]
    assert RewardAdapter("efficient_reasoning", {}, scorer)(completion_ids=ids, problem_id=["a"] * 2) == [0.95, 0.95]
