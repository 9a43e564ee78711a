"""Prompts that name budgets: the same ones on every process and after a resume, and rewards are told which."""

import numpy as np
import pytest
from datasets import Dataset
from trl import GRPOConfig

from laconic.recipes.grpo_budgets import PromptBudgets
from laconic.recipes.model_spec import ScratchModel
from laconic.rewards.group import Progress
from laconic.rewards.records import Problem, Rollout
from laconic.training import scratch
from laconic.training.generations import ExactResume
from laconic.training.group_scorer import GroupScorer
from laconic.training.model import load_tokenizer
from laconic.training.prompt_budgets import BudgetedPrompts, budget_metrics, budget_range
from laconic.training.reward_adapter import RewardAdapter
from laconic.training.trainer import LaconicGRPOTrainer

IDS = [f"p{number}" for number in range(2000)]
START = Progress(0, 100)


def asked(seed=0, progress=START, ids=IDS, **given):
    prompts = BudgetedPrompts(PromptBudgets(**given), seed=seed)
    return np.array([prompts.budget(name, progress) for name in ids])


def test_uniform_between_the_ends_and_half_of_them_upper_bounds():
    budgets = asked(low=3, high=6, at_most_share=0.5)
    assert set(budgets) == {-6, -5, -4, -3, 3, 4, 5, 6}
    for value in set(budgets):
        assert (budgets == value).mean() == pytest.approx(1 / 8, abs=0.025)
    assert (asked() > 0).all()
    assert (asked(at_most_share=1.0) < 0).all()
    assert asked().mean() == pytest.approx(2050, abs=80)


def test_a_problem_keeps_its_draws():
    first = asked()
    assert (first == asked(progress=Progress(7, 100))).all()
    assert (first[::-1] == asked(ids=IDS[::-1])).all(), "depends on more than the problem"
    assert (first == asked(seed=1)).mean() < 0.01
    several = np.stack([asked(draws=3, progress=Progress(step, 100)) for step in range(12)])
    kinds = [len(set(column)) for column in several.T]
    assert max(kinds) == 3
    assert np.mean(kinds) == pytest.approx(3 * (1 - (2 / 3) ** 12), abs=0.05)


def test_a_schedule_moves_what_is_asked_for():
    schedule = [(0.2, 1000, 2000), (0.6, 200, 400)]
    plan = PromptBudgets(schedule=schedule)
    assert [budget_range(plan, share) for share in (0, 0.2, 0.4, 0.6, 1)] == [
        (1000, 2000),
        (1000, 2000),
        (600, 1200),
        (200, 400),
        (200, 400),
    ]
    early, late = (asked(progress=Progress(step, 100), schedule=schedule) for step in (20, 60))
    assert early.min() >= 1000
    assert late.max() <= 400
    # The place between the two ends stays.
    np.testing.assert_allclose((early - 1000) / 1001, (late - 200) / 201, atol=1 / 201)


def test_metrics_say_how_well_rollouts_kept_to_it():
    told = [(100, 150), (200, 100), (-100, 100), (-100, 101), (None, 5)]
    rollouts = [
        Rollout(
            "p", 0, "math", "", None, False, True, tokens, 0, tokens, meta={} if budget is None else {"budget": budget}
        )
        for budget, tokens in told
    ]
    assert budget_metrics(rollouts) == {"budget/tokens": 125.0, "budget/deviation": 0.5, "budget/exceeded": 0.5}
    assert budget_metrics(rollouts[:2]).keys() == {"budget/tokens", "budget/deviation"}
    assert budget_metrics(rollouts[4:]) == {}


BUDGETS = PromptBudgets(low=1, high=9, at_most_share=0.5, draws=2)
L1 = [{"name": "l1_exact", "alpha": 0.01, "own_prompts": True}, {"name": "l1_max", "alpha": 0.01, "own_prompts": True}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    symbols = [*map(str, range(10)), "+", "Think", "for", "maximum", "tokens."]
    shape = ScratchModel(hidden_size=16, layers=1, heads=1)
    scratch.build(shape, scratch.symbolic_tokenizer(symbols), seed=0, folder=folder)
    return folder


def train(model, folder, *, resume=False):
    """Four steps of four groups, on rollouts of three tokens; what was asked at each step, and what it earned."""
    calls, earned = [], []

    def rollouts(prompts, trainer):
        texts = [messages[-1]["content"] for messages in prompts]
        calls.append((trainer.state.global_step, texts))
        tokenizer = trainer.processing_class
        ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
        completion = tokenizer.convert_tokens_to_ids(["7", "7", tokenizer.eos_token])
        return {"prompt_ids": ids["input_ids"], "completion_ids": [completion] * len(texts), "logprobs": None}

    def watch(rewards):
        def score(**given):
            found = [reward(**given) for reward in rewards]
            earned.append(list(zip(given["prompts"], given["budget"], *found, strict=True)))
            return [0.0] * len(given["budget"])

        return score

    problems = [Problem(id=f"p{at}", prompt=f"{at} +", answer="7 7", task="words") for at in range(8)]
    rows = [{"prompt": [{"role": "user", "content": p.prompt}], "problem_id": p.id} for p in problems]
    arguments = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        num_generations=2,
        max_completion_length=8,
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    tokenizer = load_tokenizer(str(model), revision=None)
    scorer = GroupScorer({problem.id: problem for problem in problems}, tokenizer, num_generations=2)
    rewards = [RewardAdapter(entry, scorer, log_raw=at == 0) for at, entry in enumerate(L1)]
    trainer = LaconicGRPOTrainer(
        model=str(model),
        reward_funcs=watch(rewards),
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        rollout_func=rollouts,
        callbacks=[ExactResume()],
        before_generation=BudgetedPrompts(BUDGETS, seed=5),
    )
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2") if resume else None)
    return trainer, calls, earned


def test_rollouts_are_asked_rewards_are_told_and_a_resume_asks_the_same(model, tmp_path):
    trainer, calls, earned = train(model, tmp_path)
    assert [step for step, _ in calls] == [0, 1, 2, 3]
    prompts = BudgetedPrompts(BUDGETS, seed=5)
    for (step, texts), rows in zip(calls, earned, strict=True):
        for text, (messages, budget, exact, at_most) in zip(texts, rows, strict=True):
            assert messages[-1]["content"] == text
            assert budget == prompts.budget(f"p{text[0]}", Progress(step, 4))
            kind = "for" if budget > 0 else "for maximum"
            assert text == f"{text[0]} + Think {kind} {abs(budget)} tokens."
            # Three tokens, all right: each reward pays for its own kind.
            mine = (1 - 0.01 * abs(3 - budget), None) if budget > 0 else (None, 0.5 + 0.01 * (-budget - 3))
            assert (exact, at_most) == pytest.approx(mine)
    kinds = {budget > 0 for rows in earned for _, budget, *_ in rows}
    assert kinds == {True, False}
    logged = [row["budget/tokens"] for row in trainer.state.log_history if "budget/tokens" in row]
    assert logged == [pytest.approx(np.mean([abs(budget) for _, budget, *_ in rows])) for rows in earned]
    _, again, _ = train(model, tmp_path, resume=True)
    assert again == calls[2:]
