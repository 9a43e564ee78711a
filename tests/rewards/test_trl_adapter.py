"""Registered rewards under TRL: called as TRL calls them, and by a real GRPOTrainer."""

import json
import pickle
import runpy
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from laconic.recipes.schema import ScratchModel
from laconic.rewards import REWARDS, Batch, Group, Progress
from laconic.rewards.adapters.trl import trl_reward
from laconic.rewards.compose import RESERVED
from laconic.rewards.errors import DataError, RecipeError
from laconic.training import scratch

CHILD = Path(__file__).parent / "child"
EOS = 9
JUDGED = next(name for name, item in REWARDS.items() if item.judged is not None and item.needs == ("judgement",))


def call(reward, texts, *, prompts=None, ids=None, **columns):
    """As TRL does; every text is as many tokens as it has characters, then the end."""
    ids = [[1] * len(text) + [EOS] for text in texts] if ids is None else ids
    return reward(prompts=prompts or ["p"] * len(texts), completions=texts, completion_ids=ids, **columns)


def right(text, /, **_):
    return "right" in text


def first_letter(text, /, answer, **_):
    return text.startswith(answer)


def test_equals_the_reward_of_the_group():
    texts = ["right", "right, but long", "wrong", "right and unfinished"]
    ids = [[1] * 5 + [EOS], [1] * 15 + [EOS], [1, EOS], [1] * 30]
    got = call(trl_reward("efficient_reasoning", alpha=0.4, verify=right, eos_ids=[EOS]), texts, ids=ids)
    group = Group.of([True, True, False, True], [6, 16, 2, 30], [True, True, True, False])
    assert got == REWARDS["efficient_reasoning"](group, alpha=0.4).tolist()
    assert len(set(got)) == 3


def test_rows_of_a_prompt_are_a_group_wherever_they_stand():
    texts = ["right", "right!!", "right?", "right...."]
    got = call(trl_reward("kimi_length", verify=right, eos_ids=[EOS]), texts, prompts=["a", "b", "a", "b"])
    assert got == [0.5, 0.5, -0.5, -0.5]


def test_one_prompt_in_several_groups():
    reward = trl_reward("kimi_length", verify=right, eos_ids=[EOS], num_generations=2)
    assert call(reward, ["right", "right!!", "right....", "right?"]) == [0.5, -0.5, -0.5, 0.5]
    with pytest.raises(DataError, match="no multiple of 2"):
        call(reward, ["right"] * 3)


def test_groups_by_a_column():
    reward = trl_reward("kimi_length", verify=right, eos_ids=[EOS], group_by="index")
    assert call(reward, ["right", "right!!", "right...."], index=[1, 2, 1]) == [0.5, 0.0, -0.5]
    with pytest.raises(DataError, match="'index'"):
        call(reward, ["right"])


def test_a_conversation():
    reward = trl_reward("accuracy", verify=right, eos_ids=[EOS])
    prompts = [[{"role": "user", "content": "right or wrong?"}]] * 2
    completions = [[{"role": "assistant", "content": word}] for word in ("right", "wrong")]
    assert reward(prompts=prompts, completions=completions, completion_ids=[[1], [1]]) == [1.0, 0.0]


def test_verdicts_from_the_data():
    texts = ["<think> 5 </think> 4", "<think> 4 </think> 5", "<think> 4", "4"]
    for columns in ({"answer": ["4"] * 4}, {"solution": ["$4$"] * 4, "answer": [None] * 4}):
        assert call(trl_reward("accuracy", eos_ids=[EOS]), texts, **columns) == [1.0, 0.0, 0.0, 1.0]
    columns = {"answer": ["42 "] * 2, "task": ["exact"] * 2}
    assert call(trl_reward("accuracy", eos_ids=[EOS]), ["42", "42.0"], **columns) == [1.0, 0.0]
    assert call(trl_reward("accuracy", eos_ids=[EOS]), texts, correct=[1, 0, 0, 0]) == [1.0, 0.0, 0.0, 0.0]
    assert call(trl_reward("accuracy", verify=first_letter, eos_ids=[EOS]), ["ab", "ba"], answer=["a", "a"]) == [1, 0]


def test_no_verdict_no_reward():
    with pytest.raises(DataError, match="verify="):
        call(trl_reward("accuracy", eos_ids=[EOS]), ["4"])
    # A gold answer that cannot be read, and a verify that cannot tell.
    assert call(trl_reward("accuracy", eos_ids=[EOS]), ["4", "4"], prompts="ab", answer=["", "4"]) == [None, 1.0]
    reward = trl_reward("shorter_better", verify=lambda text, **_: None if text == "?" else True, eos_ids=[EOS])
    assert call(reward, ["right", "?", "right!"]) == pytest.approx([2.0, None, 1.999])


def test_end_of_sequence_must_be_known():
    with pytest.raises(DataError, match="eos_ids"):
        call(trl_reward("accuracy", verify=right), ["right"])


def test_columns_of_the_data_set():
    reward = trl_reward("l1_exact", verify=right, eos_ids=[EOS])
    given = {"budget": [10, 10], "label": [3, 4], "text": [7, 7]}
    group = Group.of([True, False], [6, 6], budget=[10, 10])
    assert call(reward, ["right", "wrong"], **given) == REWARDS["l1_exact"](group).tolist()
    with pytest.raises(DataError, match="'searches'"):
        call(trl_reward("mash", verify=right, eos_ids=[EOS]), ["right", "wrong"])


def test_mode_is_read_from_the_text():
    texts = ["<think> a </think> right", "<think> </think> right", "<think> a </think> no", "</think> no"]
    got = call(trl_reward("thinkless", verify=right, eos_ids=[EOS]), texts)
    lengths = [len(text) + 1 for text in texts]
    group = Group.of([True, True, False, False], lengths, mode=["think", "no_think", "think", "no_think"])
    assert got == REWARDS["thinkless"](group).tolist()
    assert len(set(got)) == 3


@pytest.mark.parametrize(
    ("ids", "text", "tokens"),
    [([1, 7, 2, EOS], "a </think> b", 2), ([1, 2], "<think> a", 2), ([2, EOS], "b", 0)],
)
def test_thinking_tokens(ids, text, tokens):
    reward = trl_reward("accuracy", verify=right, eos_ids=[EOS], think_end_id=7)
    assert reward._completion("p", text, ids, {}).think_length == tokens


def test_wrappers_follow_the_trainer():
    reward = trl_reward("shorter_better", verify=right, eos_ids=[EOS], warmup={"share": 0.5}, tasks=["math"])
    given = {"task": ["math", "math", "search"], "prompts": ["a", "a", "b"]}
    early, late = (
        call(
            reward, ["right", "wrong!", "right"], trainer_state=SimpleNamespace(global_step=step, max_steps=10), **given
        )
        for step in (4, 5)
    )
    assert early == [0.0, 0.0, None]
    assert late == pytest.approx([2.0, -0.001, None])


def test_a_judge():
    async def judge(row):
        assert row["question"] == "p"
        return {"right": 10, "right, but long": 5, "right?": "unclear"}[row["text"]]

    given = {"texts": ["right", "right, but long", "right?"]}
    got = call(trl_reward(JUDGED, verify=right, eos_ids=[EOS], judge=judge), **given)
    group = Group.of([True] * 3, [6, 16, 7], judgement=[10, 5, None])
    np.testing.assert_array_equal(np.array(got, dtype=float), REWARDS[JUDGED](group))
    assert got[2] is None


def test_memory_pickles_and_restores():
    def build():
        return trl_reward("hapo", verify=right, eos_ids=[EOS], gate={"kind": "running_best"})

    first, second = build(), build()
    texts = ["right", "right, but long", "wrong"]
    call(first, texts)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    third = pickle.loads(pickle.dumps(first))
    assert third.__name__ == "hapo"
    shorter = ["right", "right, longer still and longer", "wrong"]
    expected = call(first, shorter)
    assert call(second, shorter) == call(third, shorter) == expected != call(build(), shorter)


def test_mistakes_are_refused_before_training():
    with pytest.raises(RecipeError, match="did you mean hapo"):
        trl_reward("hapoo")
    with pytest.raises(RecipeError, match="did you mean length_weight"):
        trl_reward("shorter_better", length_wight=1)
    with pytest.raises(RecipeError, match="where TRL weighs"):
        trl_reward("accuracy", weight=2.0)
    with pytest.raises(RecipeError, match="needs a judge"):
        trl_reward(JUDGED)


def test_no_parameter_of_a_reward_hides_behind_an_option():
    options = {"verify", "group_by", "num_generations", "eos_ids", "think_end_id", "judge"}
    options |= {"tokenizer", "response_limit", "samples_per_prompt"}
    hidden = {name: (options - RESERVED) & item.parameters.keys() for name, item in REWARDS.items()}
    assert {name: clash for name, clash in hidden.items() if clash} == {}


@pytest.fixture
def trainer_of(tmp_path):
    """A trainer of a small random model on two prompts, and the rows that it asked rewards for."""
    tokenizer = scratch.symbolic_tokenizer(["3", "4", "7", "8", "+", "="])
    scratch.build(ScratchModel(hidden_size=16, layers=1, heads=2, max_length=32), tokenizer, seed=0, folder=tmp_path)
    calls = []

    def spy(prompts, completion_ids, completions, trainer_state, **_):
        calls.append((list(zip(prompts, completion_ids, completions, strict=True)), trainer_state.global_step))
        return [0.0] * len(prompts)

    def make(trainer_class, config_class, *rewards, prompts=("3 + 4 =", "4 + 4 =")):
        data = Dataset.from_list([{"prompt": text, "budget": 4 + 2 * at} for at, text in enumerate(prompts)])
        config = config_class(
            output_dir=str(tmp_path / "out"), max_steps=2, num_generations=4, per_device_train_batch_size=8,
            per_device_eval_batch_size=8, max_completion_length=12, logging_steps=1, use_cpu=True, report_to="none",
            learning_rate=1e-3, save_strategy="no", seed=3, disable_tqdm=True, dataloader_pin_memory=False,
            gradient_checkpointing=False, bf16=False,
        )  # fmt: skip
        trainer = trainer_class(str(tmp_path), [*rewards, spy], config, data, data, processing_class=tokenizer)
        return trainer, calls, tokenizer

    return make


def even(text, **_):
    return len(text) % 2 == 0


@pytest.mark.parametrize("classes", [(GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig)])
def test_in_a_real_trainer(trainer_of, classes):
    rewards = [
        trl_reward("efficient_reasoning", alpha=0.4, verify=even),
        trl_reward("l1_max", verify=even, schedule={"share": [[0.0, 1.0], [1.0, 0.0]]}),
        trl_reward("hapo", verify=even),
    ]
    trainer, calls, tokenizer = trainer_of(*classes, *rewards)
    trainer.train()
    memory = rewards[2].state_dict()
    hapo = REWARDS["hapo"].build()
    for (rows, step), log in zip(calls, [log for log in trainer.state.log_history if "loss" in log], strict=True):
        batch = batch_of(rows, step, tokenizer.eos_token_id)
        assert {group.size for group in batch} == {4}
        assert 0 < batch.correct.mean() < 1
        assert 0 < batch.finished.mean() < 1
        expected = {
            "efficient_reasoning": REWARDS["efficient_reasoning"](batch, alpha=0.4),
            "l1_max": REWARDS["l1_max"](batch) * (1 - step / 2),
            "hapo": hapo(batch),
        }
        for name, values in expected.items():
            assert log[f"rewards/{name}/mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert list(memory.values()) == list(renamed(hapo.state_dict(), memory).values())
    trainer.evaluate()
    assert rewards[2].state_dict() == memory


def test_a_prompt_that_comes_twice_makes_two_groups(trainer_of):
    trainer, calls, _ = trainer_of(
        GRPOTrainer, GRPOConfig, trl_reward("kimi_length", verify=even), prompts=["3 + 4 ="] * 2
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    differ = []
    for (rows, _), log in zip(calls, logs, strict=True):
        right, lengths = [even(text) for _, _, text in rows], [len(ids) for _, ids, _ in rows]
        halves = [Group.of(right[at : at + 4], lengths[at : at + 4]) for at in (0, 4)]
        expected = REWARDS["kimi_length"](Batch.of(*halves)).mean()
        assert log["rewards/kimi_length/mean"] == pytest.approx(expected, abs=1e-6)
        differ.append(abs(expected - REWARDS["kimi_length"](Group.of(right, lengths)).mean()) > 1e-3)
    assert any(differ)


def batch_of(rows, step, eos):
    groups = defaultdict(list)
    for prompt, ids, text in rows:
        groups[prompt].append((even(text), len(ids), ids[-1] == eos))
    return Batch(
        tuple(
            Group.of(*zip(*members, strict=True), problem_id=prompt, progress=Progress(step, 2),
                     budget=[4 if prompt.startswith("3") else 6] * len(members))
            for prompt, members in groups.items()
        )
    )  # fmt: skip


def renamed(state, like):
    """The memory with the prompts as the adapter names them; both dicts are in the order of first appearance."""
    return {
        key: dict(zip(like[key], value.values(), strict=True)) if isinstance(value, dict) else value
        for key, value in state.items()
    }


@pytest.mark.distributed
def test_groups_split_over_processes_are_whole(tmp_path, monkeypatch):
    script = CHILD / "trl_ranks.py"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*torchrun, str(script), str(tmp_path)], check=True, capture_output=True, timeout=300)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    module = runpy.run_path(str(script))
    alone = json.loads(json.dumps(module["rewards"](0, 1)))
    for name in module["NAMES"]:
        assert [one + two for one, two in zip(first[name], second[name], strict=True)] == alone[name]
        assert len(set(alone[name][1])) > 2
        assert first[f"{name} memory"] == second[f"{name} memory"] == alone[f"{name} memory"]
