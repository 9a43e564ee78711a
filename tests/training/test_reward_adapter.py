"""Rewards as TRL callables in one process; several processes are in test_two_ranks.py."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from laconic.rewards import REWARDS, Group, Progress
from laconic.rewards.compose import compose
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem
from laconic.training import scratch
from laconic.training.group_scorer import GroupScorer
from laconic.training.reward_adapter import RewardAdapter

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
    adapter = RewardAdapter({"name": name}, scorer)
    got = adapter(completion_ids=ids, problem_id=["a"] * 4, prompts=None, completions=None)
    group = Group.of([True, True, False, False], [len(row) for row in ids], [True, True, True, False])
    assert got == pytest.approx(REWARDS[name](group).tolist())


def test_each_group_on_its_own(scorer, tokenizer):
    ids = encode(tokenizer) + encode(tokenizer)
    rewards = RewardAdapter({"name": "accuracy"}, scorer)(completion_ids=ids, problem_id=["a"] * 4 + ["b"] * 4)
    assert rewards == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def test_gold_that_cannot_be_checked_abstains(scorer, tokenizer):
    rewards = RewardAdapter({"name": "accuracy"}, scorer)(completion_ids=encode(tokenizer), problem_id=["broken"] * 4)
    assert rewards == [None] * 4


@pytest.fixture
def seen(scorer, tokenizer):
    """The group that a reward of that name sees."""

    def look(name, progress=None, **carried):
        RewardAdapter({"name": name}, scorer)
        generation = scorer.generation(["a"] * len(TEXTS), encode(tokenizer), progress or Progress(), carried)
        (group,) = generation.batch
        return group

    return look


def test_what_every_group_carries(seen):
    group = seen("accuracy", Progress(3, 12))
    assert (group.problem_id, group.task, group.question, group.golds) == ("a", "chain_sum", "3 + 4 =", ("7",))
    assert group.text == tuple(TEXTS)
    assert group.answer == ("7", "7", "8", None)
    assert group.finished.tolist() == [True, True, True, False]
    assert group.think_length.tolist() == [7, 0, 3, 4]
    assert group.length.tolist() == [9, 2, 5, 4]
    assert (group.progress.step, group.progress.share) == (3, 0.25)
    # Nobody asked for these.
    assert group.ids is group.mode is group.label is group.well_formed is group.budget is None


def test_columns_that_a_reward_asks_for_are_read(seen, scorer, tokenizer):
    RewardAdapter({"name": "thinkless"}, scorer)
    group = seen("repetition")
    assert group.ids == tuple(tuple(ids) for ids in encode(tokenizer))
    assert group.mode == ("think", None, "think", "think")
    assert group.well_formed.tolist() == [True, False, True, False]
    assert seen("dr_saf").label == (None,) * 4


def test_columns_of_the_problem(scorer, seen):
    meta = {"budget": 9, "reference_accuracy": 0.25, "golds": ["7", "seven"], "operands": [3, 4]}
    scorer.problems["a"] = Problem(id="a", prompt="3 + 4 =", answer="7", task="chain_sum", meta=meta)
    group = seen("accuracy")
    assert group.budget.tolist() == [9.0] * 4
    assert (group.reference_accuracy, group.golds) == (0.25, ("7", "seven"))


def test_columns_that_a_rollout_function_returned(seen):
    searches, queries = [0, 1, 2, 0], [[], ["q"], ["q", "r"], []]
    group = seen("accuracy", searches=searches, queries=queries, text=["not this"] * 4, log_extra=None)
    assert group.searches.tolist() == searches
    assert group.queries == ((), ("q",), ("q", "r"), ())
    assert group.text == tuple(TEXTS)


def test_the_judge_is_asked_about_each_rollout(scorer, tokenizer, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "child")
    judged = RewardAdapter({"name": "concise_rl", "judge": "judges:by_thinking"}, scorer)
    texts = ["<think> 3 + 4 = 7 </think> 7", "</think> 7", "<think> 7 </think> 8", "<think> 3 + 4"]
    ids = encode(tokenizer, texts)
    # Thinking of 7, 1 and 3 tokens, and one that never ends.
    for _ in range(2):
        assert judged(completion_ids=list(ids), problem_id=["a"] * 4) == [0.7, 1.0, 0.0, None]
    assert judged(completion_ids=list(ids), problem_id=["broken"] * 4) == [None] * 4


def test_two_judges_do_not_mix(scorer, tokenizer, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "child")
    by_thinking, even = (
        RewardAdapter({"name": "concise_rl", "judge": f"judges:{judge}"}, scorer) for judge in ("by_thinking", "even")
    )
    given = {"completion_ids": encode(tokenizer, ["</think> 7"] * 4), "problem_id": ["a"] * 4}
    assert [by_thinking(**given)[:3], even(**given)[:3]] == [[1.0] * 3, [0.5] * 3]


def test_what_goes_round_a_reward_and_its_memory(scorer, tokenizer):
    entry = {"name": "hapo", "gate": {"kind": "running_best", "tolerance": 0.1}, "warmup": {"steps": 2}}
    adapter, alone = RewardAdapter(entry, scorer), compose(entry)
    paid = []
    # One of four right, two of four, one again: the gate opens when accuracy is at its best, the warm-up at step 2.
    for step, right in enumerate((1, 2, 1, 2), start=1):
        ids = encode(tokenizer, [TEXTS[0]] * right + [TEXTS[2]] * (3 - right) + [TEXTS[3]])
        columns = ([True] * right + [False] * (4 - right), [len(row) for row in ids], [True, True, True, False])
        group = Group.of(*columns, problem_id="a", progress=Progress(step, 10))
        state = SimpleNamespace(global_step=step, max_steps=10)
        paid.append(adapter(completion_ids=ids, problem_id=["a"] * 4, trainer_state=state))
        assert paid[-1] == alone(group).tolist()
    assert [any(rewards) for rewards in paid] == [False, True, False, True]
    assert adapter.state_dict() == alone.state_dict()
    again = RewardAdapter(entry, scorer)
    again.load_state_dict(adapter.state_dict())
    state = SimpleNamespace(global_step=5, max_steps=10)
    given = {"completion_ids": encode(tokenizer), "problem_id": ["a"] * 4, "trainer_state": state}
    assert again(**given) == adapter(**given)


def test_a_split_group_is_refused(scorer, tokenizer):
    with pytest.raises(DataError, match="num_generations=4"):
        RewardAdapter({"name": "accuracy"}, scorer)(completion_ids=encode(tokenizer), problem_id=["a", "a", "b", "b"])


def test_raw_facts_are_logged_beside_the_shaped_reward(scorer, tokenizer):
    logged = {}
    adapter = RewardAdapter({"name": "efficient_reasoning", "alpha": 0.4}, scorer, log_raw=True)
    ids = encode(tokenizer)
    adapter(completion_ids=ids, problem_id=["a"] * 4, log_metric=logged.__setitem__)
    assert logged["raw/accuracy"] == 0.5
    assert logged["raw/tokens"] == pytest.approx(sum(map(len, ids)) / 4)
    assert logged["raw/truncated"] == 0.25
    assert logged["raw/tokens_correct"] == pytest.approx((len(ids[0]) + len(ids[1])) / 2)


def test_pickles_and_keeps_its_name(scorer, tokenizer):
    adapter = RewardAdapter({"name": "shorter_better", "length_weight": 0.1}, scorer)
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
    adapter = RewardAdapter({"name": "efficient_reasoning"}, scorer)
    assert adapter(completion_ids=ids, problem_id=["a"] * 2) == [0.95, 0.95]
