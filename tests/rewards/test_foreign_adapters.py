"""Registered rewards under the signatures of verl and OpenRLHF, called as those frameworks call them."""

import functools
import inspect
import pickle

import numpy as np
import pytest
import torch

from laconic.rewards import REWARDS, Group
from laconic.rewards.adapters.openrlhf import openrlhf_reward
from laconic.rewards.adapters.verl import verl_reward
from laconic.rewards.errors import DataError, RecipeError
from laconic.training import scratch

TEXTS = ["<think> 3 + 4 = 7 </think> 7", "7", "<think> 3 </think> 8", "8"]
RIGHT = [True, True, False, False]
TOKENS = [9, 2, 5, 2]
"""With the end-of-sequence token."""


@pytest.fixture(scope="module")
def tokenizer():
    return scratch.symbolic_tokenizer(["3", "4", "7", "8", "+", "="])


def batch_call(score, texts=TEXTS, golds="7", index=None, **extra):
    """verl's batch reward manager: plural keywords, arrays of objects, one dict of extra columns per sample."""
    index = [0] * len(texts) if index is None else index
    extras = [{"index": at, "split": "train"} | {k: v[i] for k, v in extra.items()} for i, at in enumerate(index)]
    return score(
        data_sources=np.array(["openai/gsm8k"] * len(texts), dtype=object),
        solution_strs=list(texts),
        ground_truths=[golds] * len(texts),
        extra_infos=np.array(extras, dtype=object),
    )


@pytest.mark.parametrize("name", ["efficient_reasoning", "shorter_better", "hapo", "accuracy"])
def test_verl_batch_equals_the_reward_of_the_group(tokenizer, name):
    scores = batch_call(verl_reward(name, tokenizer=tokenizer))
    expected = REWARDS[name](Group.of(RIGHT, TOKENS, problem_id="p"))
    assert [score["score"] for score in scores] == pytest.approx(expected.tolist())
    assert [score["acc"] for score in scores] == RIGHT
    assert [score["length"] for score in scores] == TOKENS


def test_verl_groups_by_index(tokenizer):
    scores = batch_call(verl_reward("kimi_length", tokenizer=tokenizer), index=[0, 1, 0, 1])
    assert [score["score"] for score in scores] == [-0.5, 0.0, 0.0, 0.0]


def test_verl_text_at_the_limit_was_cut(tokenizer):
    scores = batch_call(verl_reward("dler", tokenizer=tokenizer, response_limit=8))
    assert [score["length"] for score in scores] == [8, *TOKENS[1:]]
    group = Group.of(RIGHT, [8, *TOKENS[1:]], [False, True, True, True])
    assert [score["score"] for score in scores] == REWARDS["dler"](group).tolist()


def test_verl_length_and_columns_from_extra_info():
    scores = batch_call(verl_reward("l1_exact"), length=[50, 60, 70, 80], budget=[60] * 4)
    group = Group.of(RIGHT, [50, 60, 70, 80], budget=[60] * 4)
    assert [score["score"] for score in scores] == pytest.approx(REWARDS["l1_exact"](group).tolist())


def test_verl_tasks_are_data_sources(tokenizer):
    ours, others = (verl_reward("accuracy", tokenizer=tokenizer, tasks=[task]) for task in ("openai/gsm8k", "math"))
    assert [score["score"] for score in batch_call(ours)] == [1.0, 1.0, 0.0, 0.0]
    # An abstention, with the verdict as it is.
    assert [(score["score"], score["acc"]) for score in batch_call(others)] == [(0, 1), (0, 1), (0, 0), (0, 0)]


def single_call(score, text, **extra):
    """verl's reward loop: singular keywords, and whatever the configuration adds."""
    merged = functools.partial(score, reward_router_address=None)
    return merged(data_source="x", solution_str=text, ground_truth="7", extra_info={"num_turns": None, **extra})


def test_verl_one_sample_at_a_time(tokenizer):
    score = verl_reward("cosine", tokenizer=tokenizer)
    alone = [single_call(score, text)["score"] for text in TEXTS]
    assert alone == [item["score"] for item in batch_call(score)]
    assert not inspect.iscoroutinefunction(score)


@pytest.mark.parametrize(
    ("name", "keys"), [("shorter_better", {}), ("hapo", {}), ("accuracy", {"gate": {"kind": "running_best"}})]
)
def test_verl_one_sample_is_no_group(tokenizer, name, keys):
    with pytest.raises(DataError, match="one at a time"):
        single_call(verl_reward(name, tokenizer=tokenizer, **keys), "7", index=0)


def test_verl_what_is_missing_is_named(tokenizer):
    with pytest.raises(DataError, match="how long"):
        batch_call(verl_reward("shorter_better"))
    with pytest.raises(DataError, match="'index'"):
        batch_call(verl_reward("shorter_better", tokenizer=tokenizer), index=[None] * 4)
    with pytest.raises(DataError, match="whether a completion is right"):
        batch_call(verl_reward("shorter_better", tokenizer=tokenizer), golds=None)
    with pytest.raises(RecipeError, match="warmup needs the training step"):
        verl_reward("shorter_better", warmup={"steps": 5})


def test_verl_verify_and_memory(tokenizer):
    def sevens(text, /, ground_truth, data_source, split, **_):
        return (text, ground_truth, data_source, split) == ("7", "7", "openai/gsm8k", "train")

    score = verl_reward("hapo", tokenizer=tokenizer, verify=sevens)
    assert [item["acc"] for item in batch_call(score)] == [0.0, 1.0, 0.0, 0.0]
    again = verl_reward("hapo", tokenizer=tokenizer)
    again.load_state_dict(score.state_dict())
    longer = ["<think> 7 </think> 7", "8"]
    plain = verl_reward("hapo", tokenizer=tokenizer)
    assert batch_call(again, longer)[0]["score"] < batch_call(plain, longer)[0]["score"] == 1.0
    assert pickle.loads(pickle.dumps(plain)).state_dict() == plain.state_dict()


def queries_of(tokenizer, prompts, texts, pad=""):
    end = tokenizer.eos_token
    return [f"{prompt}{text}{end}{pad}" for prompt, text in zip(prompts, texts, strict=True)]


@pytest.mark.parametrize("name", ["efficient_reasoning", "shorter_better"])
def test_openrlhf_equals_the_reward_of_the_group(tokenizer, name):
    prompts = ["3 + 4 = "] * 4
    reward_func = openrlhf_reward(name, tokenizer=tokenizer, samples_per_prompt=4)
    found = reward_func(queries_of(tokenizer, prompts, TEXTS), prompts, ["7"] * 4)
    expected = REWARDS[name](Group.of(RIGHT, TOKENS))
    torch.testing.assert_close(found["rewards"], torch.tensor(expected, dtype=torch.float32))
    assert found["scores"].tolist() == RIGHT
    assert found["extra_logs"]["completion_tokens"].tolist() == TOKENS
    # Ray accepts functions and classes only.
    assert inspect.isfunction(reward_func)


def test_openrlhf_ends_and_padding(tokenizer):
    prompts, pad = ["3 + 4 = "] * 2, f" {tokenizer.pad_token}" * 2
    reward_func = openrlhf_reward("dler", tokenizer=tokenizer)
    ended, cut = queries_of(tokenizer, prompts, ["7", "7"], pad)
    found = reward_func([ended, cut.replace(tokenizer.eos_token, " ")], prompts, ["7", "7"])
    assert found["extra_logs"]["completion_tokens"].tolist() == [2, 1]
    assert found["rewards"].tolist() == REWARDS["dler"](Group.of([True, True], [2, 1], [True, False])).tolist()


def test_openrlhf_one_row_at_a_time(tokenizer):
    one_by_one = openrlhf_reward("accuracy", tokenizer=tokenizer)
    query = queries_of(tokenizer, ["3 + 4 = "], ["7"])
    assert one_by_one(query, ["3 + 4 = "], ["7"])["rewards"].tolist() == [1.0]
    of_groups = openrlhf_reward("shorter_better", tokenizer=tokenizer, samples_per_prompt=4)
    with pytest.raises(DataError, match="no multiple of 4"):
        of_groups(query, ["3 + 4 = "], ["7"])


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("hapo", {"samples_per_prompt": 4}, "beyond its group"),
        ("grpo_lambda", {"samples_per_prompt": 4}, "beyond its group"),
        ("accuracy", {"gate": {"kind": "running_best"}}, "beyond its group"),
        ("shorter_better", {}, "samples_per_prompt"),
        ("accuracy", {"schedule": {"steps": [[0, 1]]}}, "training step"),
        ("accuracy", {"weight": 2}, "where OpenRLHF weighs"),
    ],
)
def test_openrlhf_refuses_what_it_cannot_do(tokenizer, name, keys, said):
    with pytest.raises(RecipeError, match=said):
        openrlhf_reward(name, tokenizer=tokenizer, **keys)


def test_openrlhf_without_labels(tokenizer):
    with pytest.raises(DataError, match="whether a completion is right"):
        openrlhf_reward("accuracy", tokenizer=tokenizer)(queries_of(tokenizer, ["3 = "], ["3"]), ["3 = "], [""])
    given = openrlhf_reward("accuracy", tokenizer=tokenizer, verify=lambda text, /, label, **_: text.strip() == "3")
    assert given(queries_of(tokenizer, ["3 = "], ["3"]), ["3 = "], [""])["rewards"].tolist() == [1.0]
    with pytest.raises(DataError, match="does not hold its prompt"):
        given(["4 = 4"], ["3 = "], [""])
