"""Rollouts that begin with given text: what they begin with, what is drawn after it, and what the loss makes of it."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig

from laconic.recipes.grpo_rollouts import Modes
from laconic.recipes.model_spec import ScratchModel
from laconic.recipes.stages import GrpoStage
from laconic.rewards.errors import DataError, LaunchError, RecipeError
from laconic.rewards.group import Progress
from laconic.rewards.jsonl import write_jsonl
from laconic.rewards.records import Problem
from laconic.training import scratch
from laconic.training.group_scorer import GroupScorer
from laconic.training.mode_rollouts import FirstTokenProbability, ModeRollouts, first_token_pieces, mode_rollouts
from laconic.training.reference_accuracy import with_reference_accuracy
from laconic.training.rollouts import SampledRollouts
from laconic.training.scored import Scored, loss_mask
from laconic.training.trainer import LaconicGRPOTrainer

GROUP, LIMIT, SHORT = 4, 12, 5
MODES = {
    "name": "modes",
    "modes": [
        {"text": "</think>", "mode": "no_think", "max_tokens": SHORT},
        {"text": "Alright 3", "mode": "think", "share": 3.0},
    ],
    "first_token_probability": 0.5,
}
GOLDEN = Path(__file__).parents[1] / "golden" / "length_rewards.json"


def modes(**changed):
    return Modes.model_validate(MODES | changed)


def asked(*questions):
    """Prompts of whole groups."""
    return [[{"role": "user", "content": question}] for question in questions for _ in range(GROUP)]


def stage(**changed):
    data = {"kind": "grpo", "rewards": [{"name": "accuracy"}], "trainer": {"num_generations": GROUP}}
    return GrpoStage.model_validate(data | {"rollouts": MODES} | changed)


def build(folder, reward, **settings):
    """A trainer of a small model whose groups begin in two ways."""
    tokenizer = scratch.symbolic_tokenizer(["1", "2", "3", "4", "7", "8", "+", "=", "Alright"])
    scratch.build(ScratchModel(hidden_size=32, layers=2, heads=2, max_length=40), tokenizer, seed=3, folder=folder)
    config = GRPOConfig(
        output_dir=str(folder / "out"),
        report_to=[],
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=2 * GROUP,
        num_generations=GROUP,
        max_completion_length=LIMIT,
        loss_type="grpo",
        importance_sampling_level="sequence",
        **settings,
    )
    return LaconicGRPOTrainer(
        str(folder),
        reward_funcs=[reward],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": asked("3 + 4 =")[0]}] * 4),
        rollout_func=ModeRollouts(modes(), seed=0),
        after_scoring=[FirstTokenProbability(0.5)],
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    trainer = build(
        tmp_path_factory.mktemp("modes"), lambda completion_ids, **_: [float(len(i)) for i in completion_ids]
    )
    with torch.no_grad():
        for weight in trainer.model.parameters():
            # Fresh weights give nearly equal logits, so that rounding would decide what is most likely.
            weight.mul_(4.0 if weight.ndim > 1 else 1.0)
    return trainer


@pytest.fixture
def trainer(made):
    made.model.train()
    return made


def begun(trainer, text):
    return trainer.processing_class(text, add_special_tokens=False)["input_ids"]


def greedy(trainer, prompt, text, limit):
    """Of `generate`, after a prompt and a text: the completion's token ids, the text's among them."""
    start = trainer.processing_class.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt")
    ids = torch.cat([start["input_ids"], torch.tensor([begun(trainer, text)])], dim=1)
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False}
    out = trainer.model.generate(ids, max_new_tokens=limit - len(begun(trainer, text)), **options)
    return out[0, start["input_ids"].shape[1] :].tolist()


def test_each_rollout_is_what_the_model_says_after_its_text(trainer, monkeypatch):
    monkeypatch.setattr(trainer.args, "temperature", 0.0)
    prompts = asked("3 + 4 =", "7 =")
    found = ModeRollouts(modes(), seed=0)(prompts, trainer)
    assert found["mode"] == ["no_think", "think", "think", "think"] * 2
    ways = [("</think>", SHORT), *[("Alright 3", LIMIT)] * 3] * 2
    expected = [greedy(trainer, prompt, *way) for prompt, way in zip(prompts, ways, strict=True)]
    assert found["completion_ids"] == expected
    # The forced tokens count in the limits.
    assert {len(ids) for ids in expected} <= set(range(2, LIMIT + 1))
    assert max(len(expected[0]), len(expected[4])) <= SHORT
    assert all(ids[:2] == begun(trainer, "Alright 3") for ids in expected[1:4])


def test_two_processes_draw_what_one_does(trainer, monkeypatch):
    monkeypatch.setattr(trainer.args, "temperature", 2.0)
    prompts, rollouts = asked("3 + 4 =", "7 =", "8 ="), ModeRollouts(modes(), seed=0)
    whole = rollouts(prompts, trainer)
    assert len({tuple(ids) for ids in whole["completion_ids"]}) > GROUP, "rollouts repeat each other"
    halves = []
    for rank, rows in enumerate((slice(0, 6), slice(6, 12))):
        monkeypatch.setattr(type(trainer.accelerator), "process_index", property(lambda _, rank=rank: rank))
        halves.append(rollouts(prompts[rows], trainer))
    for name in ("completion_ids", "mode", "prompt_ids"):
        assert halves[0][name] + halves[1][name] == whole[name]


def test_an_evaluation_begins_nothing(trainer):
    trainer.model.eval()
    prompts = asked("3 + 4 =")
    assert ModeRollouts(modes(), seed=0)(prompts, trainer) == SampledRollouts(seed=0)(prompts, trainer)
    assert FirstTokenProbability(0.5)(trainer, SimpleNamespace(batch={})) == {}


def test_the_first_token_is_in_the_loss_as_drawn_at_random(trainer):
    rows = [{"prompt": prompt} for prompt in asked("3 + 4 =", "7 + 8 + 1 =")]
    batch = trainer._generate_and_score_completions(rows)
    closing, alright = begun(trainer, "</think>")[0], begun(trainer, "Alright")[0]
    assert batch["completion_ids"][:, 0].tolist() == [closing, alright, alright, alright] * 2
    mask, old = loss_mask(batch), batch["old_per_token_logps"]
    assert mask[:, 0].tolist() == [1] * 8
    assert old[:, 0].tolist() == pytest.approx([math.log(0.5)] * 8)
    for row in range(8):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
        ids = torch.cat([prompt, batch["completion_ids"][row][mask[row].bool()]])
        with torch.no_grad():
            says = trainer.model(ids[None]).logits[0].log_softmax(-1)
        expected = says[len(prompt) : -1].gather(1, ids[len(prompt) + 1 :, None])[:, 0]
        torch.testing.assert_close(old[row, 1 : mask[row].sum()], expected, rtol=1e-4, atol=1e-5)


def test_the_choice_is_learned(tmp_path):
    def direct(mode, **_):
        return [float(one == "no_think") for one in mode]

    settings = {"max_steps": 3, "learning_rate": 0.02, "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True}
    trainer = build(tmp_path, direct, **settings)
    prompt = trainer.processing_class.apply_chat_template(
        asked("3 + 4 =")[0], add_generation_prompt=True, return_tensors="pt"
    )

    def chance():
        with torch.no_grad():
            said = trainer.model(prompt["input_ids"]).logits[0, -1].softmax(-1)
        return float(said[begun(trainer, "</think>")[0]])

    before = chance()
    trainer.train()
    assert chance() > 2 * before
    steps = [row for row in trainer.state.log_history if "reward" in row]
    # One in four is begun without thinking, and rewarded for it. The others, said to be half of what the model does,
    # are far less already: their loss is clipped.
    assert [row["reward"] for row in steps] == [0.25] * 3
    assert [row["clip_ratio/low_mean"] for row in steps] == pytest.approx([0.75] * 3)


def test_what_trl_has_computed_stays(trainer):
    known = torch.full((2, 3), -1.25)
    found = FirstTokenProbability(0.25)(trainer, SimpleNamespace(batch={"old_per_token_logps": known}))
    expected = [math.log(0.25), -1.25, -1.25]
    torch.testing.assert_close(found["old_per_token_logps"], torch.tensor([expected] * 2))
    assert known[0, 0] == -1.25


def test_loss_is_adapt_thinks(trainer, monkeypatch):
    """The authors' worked example, by way of TRL's loss; only the model's forward passes are given."""
    (case,) = json.loads(GOLDEN.read_text())["adaptthink_loss"]
    given, mask = case["inputs"], torch.tensor(case["inputs"]["mask"]).long()
    old, new = (torch.tensor(given[f"{which}_token_probs"]).log() for which in ("old", "new"))

    def forward(*_, **__):
        logps = new if torch.is_grad_enabled() else old
        return logps, torch.zeros_like(logps), None

    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", forward)
    monkeypatch.setattr(trainer, "current_gradient_accumulation_steps", 1, raising=False)
    batch = {
        "prompt_ids": torch.ones(2, 2).long(),
        "prompt_mask": torch.ones(2, 2).long(),
        "completion_ids": torch.ones(2, 3).long(),
        "completion_mask": mask,
        "advantages": torch.tensor(given["advantages"]),
        "num_items_in_batch": mask.sum(),
    }
    scored = Scored(batch, batch["advantages"], mask.sum(1), slice(0, 2), [{}, {}], 2)
    batch |= FirstTokenProbability(case["params"]["nothinking_ratio"])(trainer, scored)
    assert trainer.args.epsilon == case["params"]["clip_low"] == case["params"]["clip_high"]
    assert float(trainer._compute_loss(trainer.model, batch)) == pytest.approx(case["expected"]["loss"], abs=1e-6)


def test_no_room(trainer):
    tight = modes(modes=[{"text": "</think>", "mode": "no_think", "max_tokens": 1}, MODES["modes"][1]])
    with pytest.raises(RecipeError, match=r"a limit of 1 tokens, of which '</think>'.* takes 1"):
        ModeRollouts(tight, seed=0)(asked("3 + 4 ="), trainer)
    with pytest.raises(DataError, match="exceed the model's 40 positions"):
        ModeRollouts(modes(), seed=0)(asked("3 " * 30), trainer)


def test_texts_that_say_nothing_to_the_model(trainer):
    foreign = modes(modes=[MODES["modes"][0], {"text": "Okay", "mode": "think"}])
    with pytest.raises(RecipeError, match="no tokens for 'Okay'"):
        ModeRollouts(foreign, seed=0)(asked("3 + 4 ="), trainer)
    alike = modes(modes=[{"text": "Alright 1", "mode": "no_think"}, {"text": "Alright 3", "mode": "think"}])
    with pytest.raises(RecipeError, match=r"'Alright 1' and 'Alright 3' begin with the same token"):
        ModeRollouts(alike, seed=0, first_token_chooses=True)(asked("3 + 4 ="), trainer)
    assert len(ModeRollouts(alike, seed=0)(asked("3 + 4 ="), trainer)["mode"]) == GROUP


def test_only_our_engine_can(trainer, monkeypatch):
    assert mode_rollouts(stage(), trainer.args).first_token_chooses
    assert [piece.probability for piece in first_token_pieces(stage())] == [0.5]
    free = stage(rollouts={key: value for key, value in MODES.items() if key != "first_token_probability"})
    assert not mode_rollouts(free, trainer.args).first_token_chooses
    assert first_token_pieces(free) == []
    hybrid = stage(rollouts=free.rollouts.model_dump(), advantages={"name": "hgpo"})
    assert mode_rollouts(hybrid, trainer.args).first_token_chooses
    with monkeypatch.context() as changed:
        changed.setattr(trainer.args, "min_p", 0.1)
        with pytest.raises(LaunchError, match="drawn by Laconic's own engine"):
            mode_rollouts(stage(), trainer.args)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(LaunchError, match="leave out vLLM, FSDP"):
        mode_rollouts(stage(), trainer.args)


def test_rewards_see_the_mode_a_rollout_was_begun_in(trainer):
    tokenizer = trainer.processing_class
    scorer = GroupScorer({"p": Problem("p", "3 =", "3", "exact")}, tokenizer, num_generations=2)
    scorer.serve({"name": "adapt_think"})
    # Nothing in the first text tells its mode, and the second says another.
    ids = [[*begun(trainer, text), tokenizer.eos_token_id] for text in ("Alright 3", "</think> 3")]
    carried = {"mode": ["no_think", "think"]}
    (group,) = scorer.generation(["p", "p"], ids, Progress(), carried).batch
    assert group.mode == ("no_think", "think")
    (group,) = scorer.generation(["p", "p"], list(ids), Progress(), {}).batch
    assert group.mode == (None, "no_think")
    assert group.length.tolist() == [3, 3]


def test_reference_accuracy(tmp_path):
    verdicts = {"a": [True, False, False, True], "b": [False, False], "c": [None]}
    counts = {"finished": True, "tokens": 3, "think_tokens": 0, "answer_tokens": 3}
    rows = [
        {"problem_id": name, "sample": at, "task": "exact", "text": "", "answer": None, "correct": one, **counts}
        for name, of_problem in verdicts.items()
        for at, one in enumerate(of_problem)
    ]
    write_jsonl(tmp_path / "rollouts.jsonl", rows)
    problems = [Problem(name, "?", "1", "exact", meta={"level": 1}) for name in "abc"]
    known = with_reference_accuracy(problems, tmp_path)
    shares = [problem.meta for problem in known]
    assert shares == [{"level": 1, "reference_accuracy": 0.5}, {"level": 1, "reference_accuracy": 0.0}, {"level": 1}]
    with pytest.raises(DataError, match="1 of 4 training problems were not asked"):
        with_reference_accuracy([*problems, Problem("d", "?", "1", "exact")], tmp_path)
