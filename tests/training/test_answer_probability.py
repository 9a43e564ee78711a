"""The probability of the gold answer, against a plain computation one sequence at a time."""

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from laconic.inference.trace import TraceReader, prompt_text
from laconic.recipes.model_spec import ScratchModel
from laconic.rewards import REWARDS, Batch, Group
from laconic.rewards.records import Problem
from laconic.training import scratch
from laconic.training.answer_probability import AnswerProbability
from laconic.training.group_scorer import GroupScorer
from laconic.training.reward_adapter import RewardAdapter

PROBLEMS = {
    "a": Problem(id="a", prompt="3 + 4 =", answer="7", task="chain_sum"),
    "b": Problem(id="b", prompt="4 + 4 + 4 =", answer="1 2", task="chain_sum"),  # an answer of two tokens
}
# Long and short thinking, none, an answer without tags, thinking that the token limit cut.
TEXTS = ["<think> 3 + 4 = 7 </think> 7", "<think> </think> 8", "7", "<think> 3 + 4"]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = scratch.symbolic_tokenizer(["1", "2", "3", "4", "7", "8", "+", "="])
    scratch.build(ScratchModel(hidden_size=32, layers=2, heads=2, max_length=64), tokenizer, seed=3, folder=folder)
    config = GRPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=4,
        num_generations=4,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    dataset = Dataset.from_list([{"prompt": "3 + 4 ="}] * 4)
    return GRPOTrainer(str(folder), reward_funcs=[len], args=config, train_dataset=dataset, processing_class=tokenizer)


def rollouts(tokenizer):
    ids = [tokenizer.encode(text) for text in TEXTS]
    return [[*row, tokenizer.eos_token_id] for row in ids[:-1]] + ids[-1:]


def probability(trainer, text, answer):
    """Of the answer's tokens after a text: no batch, no padding."""
    tokenizer = trainer.processing_class
    before, after = tokenizer.encode(text), tokenizer.encode(answer)
    with torch.no_grad():
        logits = trainer.model.eval()(torch.tensor([before + after])).logits[0].float()
    places = logits[len(before) - 1 : -1].log_softmax(dim=-1)
    return float(places[range(len(after)), after].sum().exp())


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_equals_one_sequence_at_a_time(trainer, name):
    tokenizer, problem = trainer.processing_class, PROBLEMS[name]
    ids = rollouts(tokenizer)
    reader = TraceReader(tokenizer)
    found = AnswerProbability(trainer)([problem] * 4, [reader.read(row) for row in ids], ids)
    prompt = prompt_text(tokenizer, problem.prompt)
    thinking = ["<think> 3 + 4 = 7 </think>", "<think> </think>", "", "<think> 3 + 4 </think>"]
    expected = [probability(trainer, f"{prompt} {text}", problem.answer) for text in thinking]
    assert [row["answer_prob"] for row in found] == pytest.approx(expected, rel=1e-4)
    direct = probability(trainer, f"{prompt} <think> </think>", problem.answer)
    assert [row["direct_answer_prob"] for row in found] == pytest.approx([direct] * 4, rel=1e-4)
    assert len({round(value, 9) for value in expected}) == 4


def test_a_reward_gets_them_in_training(trainer):
    tokenizer = trainer.processing_class
    scorer = GroupScorer(PROBLEMS, tokenizer, num_generations=4)
    adapter = RewardAdapter({"name": "rational_metareasoning"}, scorer)
    scorer.answer_probability = AnswerProbability(trainer)
    ids = rollouts(tokenizer)
    got = adapter(completion_ids=ids, problem_id=["a"] * 4)
    traces = [TraceReader(tokenizer).read(row) for row in ids]
    known = scorer.answer_probability([PROBLEMS["a"]] * 4, traces, ids)
    group = Group.of(
        [True, False, True, False],
        [len(row) for row in ids],
        think_length=[trace.think_tokens for trace in traces],
        mode=["think", "no_think", None, "think"],
        answer_prob=[row["answer_prob"] for row in known],
        direct_answer_prob=[row["direct_answer_prob"] for row in known],
    )
    assert got == pytest.approx(REWARDS["rational_metareasoning"](Batch.of(group)).tolist())


def test_nothing_is_asked_for_rewards_that_do_not_read_it(trainer):
    scorer = GroupScorer(PROBLEMS, trainer.processing_class, num_generations=4)
    adapter = RewardAdapter({"name": "accuracy"}, scorer)
    scorer.answer_probability = pytest.fail
    assert adapter(completion_ids=rollouts(trainer.processing_class), problem_id=["a"] * 4) == [1.0, 0.0, 1.0, 0.0]
