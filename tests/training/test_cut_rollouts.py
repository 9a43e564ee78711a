"""Rollouts that are cuts of others: their tokens, what of them is in the loss, and what rewards are told."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from laconic.inference.engine import Sampling
from laconic.inference.ledger import Ledger
from laconic.inference.trace import TraceReader
from laconic.recipes.grpo_rollouts import Budgets, EarlyExits
from laconic.recipes.model_spec import ScratchModel
from laconic.rewards.errors import RecipeError
from laconic.rewards.group import Progress
from laconic.rewards.records import Problem
from laconic.training import cut_rollouts, scratch
from laconic.training.budget_rollouts import ENDS, BudgetAdvantages, BudgetRollouts, thinking_advantages
from laconic.training.cut_rollouts import EPISODE, Step
from laconic.training.exit_rollouts import ExitRollouts
from laconic.training.group_scorer import GroupScorer
from laconic.training.reward_adapter import RewardAdapter
from laconic.training.scored import Scored

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "length_rewards.json").read_text())
LIMIT, SIZE, GROUPS = 14, 6, 20
CUE = "stop </think> so"
EXITS = {"name": "early_exits", "free": 2, "cue": CUE}
BUDGETS = {"name": "budgets", "budgets": [2, 5, 9], "answers": 2, "cue": CUE, "closed_cue": "so", "answer_tokens": 2}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = scratch.symbolic_tokenizer(["1", "2", "3", "4", "+", "=", "stop", "so"])
    scratch.build(ScratchModel(hidden_size=32, layers=2, heads=2, max_length=64), tokenizer, seed=3, folder=folder)
    settings = {"per_device_train_batch_size": SIZE, "num_generations": SIZE, "max_completion_length": LIMIT}
    config = GRPOConfig(output_dir=str(folder / "out"), report_to=[], use_cpu=True, bf16=False, **settings)
    trainer = GRPOTrainer(
        str(folder), reward_funcs=[len], args=config, train_dataset=Dataset.from_list([{"prompt": "3 + 4 ="}] * SIZE)
    )
    with torch.no_grad():
        for weight in trainer.model.parameters():
            # Fresh weights give nearly equal logits, so that rounding would decide what is most likely.
            weight.mul_(6.0 if weight.ndim > 1 else 1.0)
    return trainer


@pytest.fixture(autouse=True)
def as_set(trainer, monkeypatch):
    """Every test finds a trainer that trains and draws anything."""
    trainer.model.train()
    for name, value in {"temperature": 30.0, "max_completion_length": LIMIT}.items():
        monkeypatch.setattr(trainer.args, name, value)


def prompts(groups=GROUPS):
    texts = [f"{1 + group % 4} + {1 + group // 4 % 4} =" for group in range(groups)]
    return [[{"role": "user", "content": text}] for text in texts for _ in range(SIZE)]


def follow(trainer, prompt_ids, ids, count):
    """What the model most likely says next, token by token, from a whole forward pass each."""
    said = []
    while len(said) < count and trainer.processing_class.eos_token_id not in said:
        with torch.no_grad():
            logits = trainer.model(torch.tensor([[*prompt_ids, *ids, *said]])).logits
        said.append(int(logits[0, -1].argmax()))
    return said


def exits_of(found, group, spec):
    """Of each free rollout of a group: its ids, and the rows of its exits."""
    each = spec.exits(SIZE)
    for trunk in range(spec.free):
        first = group * SIZE + spec.free + trunk * each
        yield found["completion_ids"][group * SIZE + trunk], range(first, first + each)


@pytest.mark.parametrize("extra", [{"cuts": "random", "answer_tokens": 4}, {"cuts": [0.25, 0.75], "learn_cue": True}])
def test_exits_are_a_free_rollout_a_cue_and_an_answer(trainer, extra):
    spec = EarlyExits(**EXITS, **extra)
    found = ExitRollouts(spec, seed=0)(prompts(), trainer)
    tokenizer = trainer.processing_class
    cue, eos = tokenizer(CUE, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id
    close = tokenizer.convert_tokens_to_ids("</think>")
    kinds = set()
    for group in range(GROUPS):
        for free, rows in exits_of(found, group, spec):
            thinking = free.index(close) if close in free else len(free) - (free[-1] == eos)
            kinds.add("closed" if close in free else "ended" if free[-1] == eos else "cut")
            room = min(thinking, LIMIT - len(cue) - (spec.answer_tokens or 1))
            kinds |= {"none"} if not thinking else {"long"} if room < thinking else set()
            cuts = []
            for row in rows:
                ids, mask, told = (found[name][row] for name in ("completion_ids", "env_mask", EPISODE))
                cut = next(at for at in range(len(ids)) if ids[at : at + len(cue)] == cue)
                answer = ids[cut + len(cue) :]
                assert ids[:cut] == free[:cut]
                assert mask == [1] * cut + [int(spec.learn_cue)] * len(cue) + [1] * len(answer)
                assert 1 <= len(answer) <= (spec.answer_tokens or LIMIT)
                assert len(ids) <= LIMIT
                assert told.finished == (answer[-1] == eos)
                assert told.finished or len(answer) == (spec.answer_tokens or LIMIT - cut - len(cue))
                assert (told.think_tokens, told.answer_tokens, told.ids) == (cut, len(answer), (*free[:cut], *answer))
                assert told.text.split("</think>", 1)[1].strip() == told.answer
                assert told.answer.split()[0] == "so", "the cue's own words are the beginning of the answer"
                cuts.append(cut)
            if spec.cuts == "random":
                assert cuts == sorted(cuts)
                assert all(min(1, room) <= cut <= room for cut in cuts)
                kinds.add("several" if len(set(cuts)) > 1 else "one")
            else:
                assert cuts == [max(min(1, room), int(share * room)) for share in spec.cuts]
    assert kinds >= {"closed", "ended", "cut", "none", "long"}
    for row in range(GROUPS * SIZE):
        if row % SIZE < spec.free:
            told = found[EPISODE][row]
            assert found["env_mask"][row] == [1] * len(found["completion_ids"][row])
            assert told.tokens == len(found["completion_ids"][row])


def test_exits_say_what_the_model_says_after_the_cue(trainer, monkeypatch):
    monkeypatch.setattr(trainer.args, "temperature", 0.0)
    spec = EarlyExits(**EXITS, cuts=[0.3, 0.9], answer_tokens=3)
    found = ExitRollouts(spec, seed=0)(prompts(4), trainer)
    for row, (prompt, ids) in enumerate(zip(found["prompt_ids"], found["completion_ids"], strict=True)):
        told = found[EPISODE][row]
        given = len(ids) - told.answer_tokens if row % SIZE >= spec.free else 0
        count = LIMIT if row % SIZE < spec.free else 3
        assert ids[given:] == follow(trainer, prompt, ids[:given], count)


@pytest.mark.parametrize("kind", ["exits", "budgets"])
def test_processes_draw_the_same_rollouts_wherever_groups_are_split(trainer, monkeypatch, kind):
    made = {
        "exits": ExitRollouts(EarlyExits(**EXITS | {"free": 1}, cuts="random"), seed=5),
        "budgets": BudgetRollouts(Budgets(**BUDGETS), seed=5),
    }[kind]
    rows = prompts(4)
    whole = made(rows, trainer)
    # Six processes of four rows: beginnings, middles and ends of groups, and exits without their free rollout.
    for process in range(6):
        monkeypatch.setattr(type(trainer.accelerator), "process_index", property(lambda self, at=process: at))
        part = made(rows[4 * process : 4 * process + 4], trainer)
        assert part == {name: values and values[4 * process : 4 * process + 4] for name, values in whole.items()}
    monkeypatch.undo()
    trainer.model.train()
    trainer.state.global_step = 1
    later = made(rows, trainer)
    trainer.state.global_step = 0
    assert later["completion_ids"] != whole["completion_ids"]


def test_forks_read_nothing_again(trainer, monkeypatch):
    account = Ledger()
    monkeypatch.setattr(cut_rollouts, "Ledger", lambda: account)
    spec = EarlyExits(**EXITS | {"free": 1}, cuts="random")
    found = ExitRollouts(spec, seed=0)(prompts(1), trainer)
    exits = found[EPISODE][1:]
    # The newest token of a fork is read with the cue.
    least = sum(len(found["prompt_ids"][0]) + told.think_tokens - 1 for told in exits)
    assert account.cached >= least
    assert account.generated == found[EPISODE][0].tokens + sum(told.answer_tokens for told in exits)


def test_an_evaluation_is_free(trainer):
    trainer.model.eval()
    found = ExitRollouts(EarlyExits(**EXITS, cuts="random"), seed=0)(prompts(1), trainer)
    assert set(found) == {"prompt_ids", "completion_ids", "logprobs"}
    assert BudgetAdvantages(Budgets(**BUDGETS))(trainer, None) == {}


def test_no_room_is_said_with_numbers(trainer, monkeypatch):
    monkeypatch.setattr(trainer.args, "max_completion_length", 8)
    with pytest.raises(RecipeError, match=r"step 0: max_completion_length 8 leaves .* cue of 3 tokens .* answer of 5"):
        ExitRollouts(EarlyExits(**EXITS, cuts="random", answer_tokens=5), seed=0)(prompts(1), trainer)
    trainer.model.train()
    with pytest.raises(RecipeError, match="has no room for 4 tokens of thinking, a cue of 3 and an answer of 2"):
        BudgetRollouts(Budgets(**BUDGETS | {"budgets": [4]}), seed=0)(prompts(1), trainer)


@pytest.mark.parametrize(
    ("text", "expected"), [("1 2 </think> 3", 2), ("</think> 3", 0), ("1 2 3", 3), ("1 2 <|end|>", 2), ("<|end|>", 0)]
)
def test_where_thinking_ends(trainer, text, expected):
    tokenizer = trainer.processing_class
    text = text.replace("<|end|>", tokenizer.eos_token)
    reader = TraceReader(tokenizer)
    step = Step(SimpleNamespace(tokenizer=tokenizer), reader, Sampling(), SIZE)
    assert step.thinking(step.encode(text)) == expected
    assert replace(step, reader=TraceReader(tokenizer, opens_thinking=True)).thinking(step.encode(text)) == expected


def test_rewards_see_the_order_of_exits_by_what_was_drawn(trainer, monkeypatch):
    monkeypatch.setattr(trainer.args, "temperature", 1.0)
    spec = EarlyExits(**EXITS | {"free": 1}, cuts="random", answer_tokens=3)
    found = ExitRollouts(spec, seed=0)(prompts(2), trainer)
    answers = [told.answer or "" for told in found[EPISODE]]
    # Right is what the most say, so that several are.
    golds = [max(filter(None, part), key=part.count) for part in (answers[:SIZE], answers[SIZE:])]
    problems = {str(at): Problem(str(at), "", gold, "exact") for at, gold in enumerate(golds)}
    scorer = GroupScorer(problems, trainer.processing_class, num_generations=SIZE)
    reward = RewardAdapter({"name": "s_grpo_early_exit", "weight": 1.0}, scorer)
    given = {"problem_id": [str(row // SIZE) for row in range(2 * SIZE)], EPISODE: found[EPISODE]}
    rewards = reward(completion_ids=found["completion_ids"], **given)
    rollouts = scorer.generation(given["problem_id"], found["completion_ids"], Progress(), given).rollouts
    cue = len(trainer.processing_class(CUE, add_special_tokens=False)["input_ids"])
    for row, rollout in enumerate(rollouts):
        assert rollout.tokens == len(found["completion_ids"][row]) - cue * (row % SIZE > 0)
        right = [other.tokens for other in rollouts[row // SIZE * SIZE :][:SIZE] if other.correct]
        assert len(right) > 1
        assert rewards[row] == (0.5 ** sum(tokens < rollout.tokens for tokens in right) if rollout.correct else 0.0)


def chains_of(found, spec, size=SIZE):
    """The rows of each chain of thought."""
    for first in range(0, len(found["completion_ids"]), spec.rows):
        yield range(first, first + spec.rows)


def test_budgets_train_every_token_once(trainer):
    spec = Budgets(**BUDGETS)
    found = BudgetRollouts(spec, seed=1)(prompts(), trainer)
    tokenizer = trainer.processing_class
    eos, close = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("</think>")
    cues = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (spec.cue, spec.closed_cue)]
    kinds = set()
    for rows in chains_of(found, spec):
        parts = [{name: found[name][row] for name in ("completion_ids", "env_mask", EPISODE, ENDS)} for row in rows]
        ends = parts[0][ENDS]
        thinking = parts[-1]["completion_ids"][: ends[-1]]
        assert ends == [min(budget, len(thinking)) for budget in spec.budgets]
        assert all(part[ENDS] == ends for part in parts)
        kinds.add("closed" if thinking[-1] == close else "ended" if thinking[-1] == eos else "cut")
        learned = [0] * len(thinking)
        for number, part in enumerate(parts):
            end = ends[number // spec.answers]
            ids, mask, told = part["completion_ids"], part["env_mask"], part[EPISODE]
            assert ids[:end] == thinking[:end]
            learned = [one + other for one, other in zip(learned, [*mask[:end], *[0] * len(thinking)], strict=False)]
            if end == len(thinking) and thinking[-1] == eos:
                assert (ids, told.answer, told.tokens, told.finished) == (thinking, None, end, True)
                continue
            cue = cues[end == len(thinking) and thinking[-1] == close]
            assert ids[end : end + len(cue)] == cue
            said = ids[end + len(cue) :]
            assert mask[end:] == [0] * len(cue) + [1] * len(said)
            assert 1 <= len(said) <= 2
            assert (told.think_tokens, told.answer_tokens) == (end, len(said))
            assert told.text.split("</think>", 1)[1].strip() == told.answer
        assert learned == [1] * len(thinking)
    assert kinds == {"closed", "ended", "cut"}


@pytest.mark.parametrize("case", GOLDEN["anytime_brpo_cot_advantage"], ids=lambda case: case["params"]["kind"])
def test_golden_thinking_advantages(case):
    scores = torch.tensor(case["inputs"]["answer_scores_[rollout][budget]"], dtype=torch.float64)
    spec = Budgets(name="budgets", budgets=[2000, 4000, 6000, 8000], prior=case["params"]["kind"])
    assert spec.weights == pytest.approx(case["params"]["budget_probs"], rel=1e-12)
    found = thinking_advantages(scores, torch.tensor(spec.weights, dtype=torch.float64))
    # As many digits as are printed.
    assert found.tolist() == [pytest.approx(row, abs=0.51e-5) for row in case["expected"]]


def test_budgets_without_a_score_are_left_out_of_the_means():
    nan, halves = torch.nan, torch.tensor([0.5, 0.5])

    def found(scores, weights=halves):
        return thinking_advantages(torch.tensor(scores), weights).nan_to_num(nan=-9.0).tolist()

    # Returns [1, 0.5] and [0, 0]; no earlier score where the first chain is at its second budget.
    assert found([[nan, 1.0], [0.0, 0.0]]) == [[0.5, 0.25], [-0.5, -0.125]]
    # Nothing is scored ahead of the first chain's second budget, so the other chain is its group there.
    assert found([[1.0, nan], [0.0, 0.0]]) == [[0.5, -9.0], [-0.5, 0.0]]
    # Only the last budget counts, and the first chain has no score there.
    assert found([[1.0, nan], [0.0, 1.0]], torch.tensor([0.0, 1.0])) == [[-9.0, -9.0], [0.0, 0.5]]
    # A chain without any score is none: three are as two.
    scores = torch.rand((3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    scores[1] = nan
    advantages = thinking_advantages(scores, weights)
    assert torch.allclose(advantages[[0, 2]], thinking_advantages(scores[[0, 2]], weights), rtol=1e-12)
    assert advantages[1].isnan().all()


def test_an_answer_without_a_score_takes_nothing_from_the_others(trainer):
    """Two chains of two budgets and two answers; the second chain's thinking ends before its first budget."""
    spec = Budgets(**BUDGETS | {"budgets": [2, 4]})
    ends = [[2, 4]] * 4 + [[1, 1]] * 4
    rewards = torch.tensor([torch.nan, 1.0, 0.0, 1.0, 1.0, torch.nan, 0.0, 0.5])
    mask = torch.ones((8, 5), dtype=torch.long)
    batch = {"completion_mask": mask}
    scored = Scored(batch, rewards, mask.sum(1), slice(0, 8), [{ENDS: one} for one in ends], 8)
    found = BudgetAdvantages(spec)(trainer, scored)["advantages"]
    # Mean scores 1 and 0.5, 1 and 0.25; returns 0.75 and 0.25, 0.625 and 0.125, whose means are 0.6875 and 0.1875.
    first, second, other = 0.0625, 0.25 - (0.5 * 0.5 + 0.5 * 0.1875), -0.0625
    expected = [
        [first, first, 0.0, 0.0, 0.0],
        [first, first, 0.0, 0.0, 0.0],
        [first, first, second, second, -0.5],
        [first, first, second, second, 0.5],
        # All answers of a chain that ends early stand at the same place, with a mean score of 0.5.
        [other, 0.5, 0.5, 0.5, 0.5],
        [other, 0.0, 0.0, 0.0, 0.0],
        [other, -0.5, -0.5, -0.5, -0.5],
        [other, 0.0, 0.0, 0.0, 0.0],
    ]
    assert torch.allclose(found, torch.tensor(expected))


def test_each_token_has_the_advantage_of_its_part(trainer):
    spec = Budgets(**BUDGETS | {"prior": "linear"})
    found = BudgetRollouts(spec, seed=1)(prompts(), trainer)
    width = max(map(len, found["completion_ids"]))
    mask = torch.tensor([[*row, *[1] * (width - len(row))] for row in found["env_mask"]])
    whole = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in found["completion_ids"]])
    rewards = torch.rand(len(mask), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rewards[: 2 * spec.rows] = torch.nan
    scored = Scored(
        {"tool_mask": mask, "completion_mask": whole},
        rewards,
        torch.tensor([]),
        slice(0, len(mask)),
        [{ENDS: ends} for ends in found[ENDS]],
        2 * spec.rows,
    )
    piece = BudgetAdvantages(spec)
    advantages = piece(trainer, scored)["advantages"]
    assert not advantages[mask * whole == 0].any()
    assert not advantages[: 2 * spec.rows].any(), "what could not be scored has a signal"
    for group in range(1, len(mask) // (2 * spec.rows)):
        own = rewards[group * 2 * spec.rows :][: 2 * spec.rows].view(2, 3, 2)
        weights = torch.tensor(spec.weights, dtype=torch.float64)
        thinking = thinking_advantages(own.mean(-1), weights)
        for number in range(2 * spec.rows):
            chain, place = divmod(number, spec.rows)
            budget, answer = divmod(place, spec.answers)
            row = group * 2 * spec.rows + number
            ends = found[ENDS][row]
            alike = [at for at, end in enumerate(ends) if end == ends[budget]]
            for token, value in enumerate(advantages[row].tolist()):
                if not mask[row, token] * whole[row, token]:
                    continue
                if token < ends[budget]:
                    segment = next(at for at, end in enumerate(ends) if token < end)
                    assert value == pytest.approx(thinking[chain, segment].item())
                else:
                    baseline = own[chain, alike].mean()
                    assert value == pytest.approx((own[chain, budget, answer] - baseline).item())
    middle = slice(2 * spec.rows + 3, 4 * spec.rows + 5)
    batch = {name: scored.batch[name][middle] for name in scored.batch}
    part = piece(trainer, replace(scored, batch=batch, mine=middle, rows=scored.rows[middle]))["advantages"]
    assert torch.equal(part, advantages[middle])
