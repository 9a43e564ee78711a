"""Rollouts that stop early are beginnings of those that do not, and earn what those earn."""

from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from datasets import Dataset
from trl import GRPOConfig
from trl.generation.vllm_generation import VLLMGeneration

from laconic.recipes.entry import run_stage
from laconic.recipes.model_spec import ScratchModel
from laconic.recipes.stages import GrpoStage
from laconic.rewards.jsonl import read_jsonl
from laconic.rewards.records import Problem
from laconic.training import grpo, init, scratch
from laconic.training.early_stop import limit_generation, rollout_limit
from laconic.training.group_scorer import GroupScorer
from laconic.training.model import load_tokenizer
from laconic.training.reward_adapter import RewardAdapter
from laconic.training.rollouts import SampledRollouts
from laconic.training.trainer import LaconicGRPOTrainer

LONGEST, CAP = 24, 8
PROBLEMS = [Problem(id=f"p{at}", prompt=f"{at} +", answer="7", task="boxes") for at in range(4)]
REWARDS = [
    {"name": "think_prune", "length_limit": CAP},
    {"name": "soft_overlong", "max_length": CAP - 1, "cache": 4, "schedule": {"steps": [[0, 0.5]]}},
]
RECIPE = """
name: stops
problems:
  {source: reasoning_gym, families: [chain_sum], options: {chain_sum: {min_terms: 2, max_terms: 3}}, train: 64, test: 8}
model: {scratch: {hidden_size: 32, layers: 1, heads: 2, max_length: 256, tokenizer: bpe, vocab_size: 384}}
stages:
  - kind: grpo
    model: base
    batch_size: 8
    fast: false
    stop_early: true
    budgets: {low: 12, high: 16}
    rewards: [{name: think_prune, length_limit: 5}]
    trainer:
      num_generations: 4
      max_completion_length: 16
      per_device_train_batch_size: 8
      max_steps: 1
      logging_steps: 1
      # Only TRL's own generation has this.
      min_p: 0.0001
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = scratch.symbolic_tokenizer([*map(str, range(4)), "+", r"\boxed{7}", r"\boxed{8}"])
    scratch.build(ScratchModel(hidden_size=32, layers=1, heads=2), tokenizer, seed=3, folder=folder)
    return folder


def first_step(model, folder, config):
    """The rollouts of the first step, with their rewards and advantages."""
    arguments = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=32,
        num_generations=8,
        max_completion_length=LONGEST,
        max_steps=1,
        loss_type="dr_grpo",
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        save_strategy="no",
    )
    tokenizer = load_tokenizer(str(model), revision=None)
    scorer = GroupScorer({problem.id: problem for problem in PROBLEMS}, tokenizer, num_generations=8)
    drawn = []

    def rollouts(prompts, trainer):
        limit = rollout_limit(config, arguments)
        drawn.append(SampledRollouts(seed=0, max_tokens=limit)(prompts, trainer))
        return drawn[-1]

    trainer = LaconicGRPOTrainer(
        model=str(model),
        reward_funcs=[RewardAdapter(spec.entry, scorer) for spec in config.rewards],
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": p.prompt}], "problem_id": p.id} for p in PROBLEMS]
        ),
        rollout_func=rollouts,
    )
    trainer.train()
    assert trainer.max_completion_length == LONGEST, "what dr_grpo divides by"
    logged = trainer._logs
    return drawn[0]["completion_ids"], {name: list(v) for name, v in logged["rewards"].items()}, [*logged["advantages"]]


def test_stopped_rollouts_are_beginnings_with_the_same_rewards(model, tmp_path):
    free, stopped = (
        first_step(model, tmp_path, GrpoStage(kind="grpo", rewards=REWARDS, stop_early=stop)) for stop in (False, True)
    )
    longer = [len(ids) > CAP + 1 for ids in free[0]]
    assert 8 < sum(longer) < 32
    assert stopped[0] == [ids[: CAP + 1] for ids in free[0]]
    assert stopped[1:] == free[1:]
    # There was something to tell apart.
    assert set(free[1]["think_prune"]) == {0.0, 1.0}
    assert len(set(free[1]["soft_overlong"])) > 2


def test_the_limit_is_never_above_what_training_allows():
    arguments = GRPOConfig(max_completion_length=6, use_cpu=True, bf16=False)
    assert rollout_limit(GrpoStage(kind="grpo", rewards=REWARDS, stop_early=True), arguments) == 6


def test_a_vllm_server_is_asked_for_as_much():
    asked = []

    def generate(*, prompts, n, max_tokens, **_):
        asked.append(max_tokens)
        rows = [[7]] * len(prompts) * n
        return {"prompt_ids": prompts, "completion_ids": rows, "logprobs": [[[0.0]]] * len(rows)}

    # As TRL's trainer makes it, but for the server that answers.
    vllm = object.__new__(VLLMGeneration)
    vllm.__dict__ |= {"mode": "server", "accelerator": Accelerator(cpu=True), "temperature": 1.0, "top_p": 1.0}
    vllm.__dict__ |= {"top_k": 0, "min_p": None, "repetition_penalty": 1.0, "max_completion_length": 24, "logprobs": 0}
    vllm.__dict__ |= {"structured_outputs_regex": None, "generation_kwargs": None}
    vllm.vllm_client = SimpleNamespace(generate=generate)
    limit_generation(SimpleNamespace(use_vllm=True, vllm_generation=vllm), CAP + 1)
    assert vllm.generate([[1, 2]] * 2, None, 2)[1] == [[7], [7]]
    assert asked == [CAP + 1]


def test_trls_own_trainer_and_generation_stop_too_and_ask_for_budgets(tmp_path):
    recipe = tmp_path / "stops.yaml"
    recipe.write_text(RECIPE)
    for kind, main in (("init", init.main), ("grpo", grpo.main)):
        run_stage(kind, main, [str(recipe), "--stage", kind, "--runs", str(tmp_path / "runs")])
    (folder,) = (tmp_path / "runs" / "stops").glob("*-grpo-????????")
    row = next(iter(read_jsonl(folder / "metrics.jsonl")))
    assert row["completions/max_length"] == 6
    assert 12 <= row["budget/tokens"] <= 16
