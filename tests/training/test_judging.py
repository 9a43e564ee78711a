"""Judges that are asked while other rollouts are decoded: the same verdicts, each asked for once."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from datasets import Dataset
from math_verify import parse
from trl import GRPOConfig, GRPOTrainer

from laconic.recipes.grpo_rollouts import Budgets, EarlyExits, Modes
from laconic.recipes.model_spec import ScratchModel
from laconic.rewards.errors import LaunchError
from laconic.rewards.group import Progress
from laconic.rewards.records import Problem
from laconic.training import scratch
from laconic.training.budget_rollouts import BudgetRollouts
from laconic.training.exit_rollouts import ExitRollouts
from laconic.training.group_scorer import GroupScorer
from laconic.training.judging import before_generation
from laconic.training.mode_rollouts import ModeRollouts
from laconic.training.reward_adapter import RewardAdapter
from laconic.training.rollouts import SampledRollouts
from laconic.training.trainer import LaconicGRPOTrainer
from laconic.training.trl_trainer import TimedGRPOTrainer

PROBLEMS = {
    "a": Problem(id="a", prompt="3 + 4 =", answer="7", task="chain_sum"),
    "b": Problem(id="b", prompt="4 + 4 =", answer="8", task="chain_sum"),
}
TEXTS = ["<think> 3 + 4 = 7 </think> 7", "7", "<think> 3 </think> 7", "<think> 7 </think> 7"]
ROWS = [{"problem_id": "a", "budget": place} for place in range(4)]
LONG = 30
"""Seconds after which a test has failed."""


@pytest.fixture(scope="module")
def tokenizer():
    return scratch.symbolic_tokenizer(["3", "4", "7", "8", "+", "="])


@pytest.fixture
def scorer(tokenizer):
    return GroupScorer(PROBLEMS, tokenizer, num_generations=4)


@pytest.fixture(scope="module")
def ids(tokenizer):
    return [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in TEXTS]


class Remote:
    """A judge behind a server, with one client for all its calls."""

    def __init__(self, url):
        self.url, self.client, self.threads = url, None, set()

    async def __call__(self, row):
        self.threads.add(threading.current_thread())
        self.client = self.client or httpx.AsyncClient(trust_env=False)
        said = {"text": row["text"], "budget": int(row["budget"])}
        return (await self.client.post(self.url, json=said)).json()


@pytest.fixture(scope="module")
def service():
    """A judge's address, and what it was asked; texts that think long are answered last."""
    asked, late = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(said["text"])
            if len(said["text"]) > 24:
                late.wait(0.05)
            answer = json.dumps(1 + len(said["text"]) % 7 + said["budget"] % 3).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_what_was_asked_early_is_what_would_be_asked_later(service, tokenizer, ids):
    url, asked = service
    where = []

    def plain(row):
        where.append(threading.current_thread())
        return 1 + int(row["length"])

    def rewards(early):
        scorer, remote = GroupScorer(PROBLEMS, tokenizer, num_generations=4), Remote(url)
        adapters = [RewardAdapter({"name": "concise_rl", "judge": judge}, scorer) for judge in (remote, plain)]
        found = []
        # The second generation goes on with the client of the first.
        for batch in (ids, ids[::-1]):
            asked.clear()
            where.clear()
            scorer.expect(ROWS)
            for row in early:
                scorer.finished(row, batch[row])
            given = {"completion_ids": list(batch), "problem_id": ["a"] * 4, "budget": [row["budget"] for row in ROWS]}
            found += [adapter(**given) for adapter in adapters]
            assert sorted(asked) == sorted(TEXTS)
            assert where == [threading.current_thread()] * 4
        assert threading.current_thread() not in remote.threads
        assert len(remote.threads) == 1
        return found

    late = rewards(early=())
    assert len({*late[0]}) > 2
    assert rewards(early=(3, 1, 0)) == rewards(early=(0, 1, 2, 3)) == late


def test_rollouts_that_turn_out_otherwise_are_asked_about_anew(scorer, ids):
    asked = []

    async def judge(row):
        asked.append((row["text"], row["budget"]))
        return 5

    adapter = RewardAdapter({"name": "concise_rl", "judge": judge}, scorer)
    scorer.expect(ROWS)
    for row in range(4):
        scorer.finished(row, ids[row])
    changed = [ids[0], ids[0], *ids[2:]]
    adapter(completion_ids=changed, problem_id=["a"] * 4, budget=[0, 1, 2, 9])
    again = {(TEXTS[0], 1), (TEXTS[3], 9)}
    assert set(asked) >= {(TEXTS[0], 0), (TEXTS[2], 2), *again}
    assert len(set(asked) - {(TEXTS[1], 1), (TEXTS[3], 3)}) == 4
    # What the model gives to the answer is shown to judges where a reward reads it; nobody knows it yet.
    scorer.require("answer_prob")
    scorer.answer_probability = lambda problems, traces, ids: [{"answer_prob": 0.5} for _ in ids]
    asked.clear()
    scorer.expect(ROWS)
    scorer.finished(0, ids[0])
    adapter(completion_ids=list(ids), problem_id=["a"] * 4, budget=[0, 1, 2, 3])
    assert len(asked) == 4


def test_a_judge_that_fails_is_heard_of_when_it_is_waited_for(scorer, ids):
    failed, held, given_up = threading.Event(), threading.Event(), threading.Event()

    async def judge(row):
        if row["text"] == TEXTS[1]:
            failed.set()
            raise ConnectionError("no answer")
        held.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    adapter = RewardAdapter({"name": "concise_rl", "judge": judge}, scorer)
    scorer.expect(ROWS)
    scorer.finished(1, ids[1])
    assert failed.wait(LONG)
    with pytest.raises(LaunchError, match=r"judge failed on rollout 2 of 4: ConnectionError: no answer \(.*\.py:\d+\)"):
        adapter(completion_ids=list(ids), problem_id=["a"] * 4, budget=[0, 1, 2, 3])
    # The others are not waited for, nor is one of a generation that came to nothing.
    assert held.wait(LONG)
    assert given_up.wait(LONG)
    held.clear(), given_up.clear()
    scorer.expect(ROWS)
    scorer.finished(0, ids[0])
    assert held.wait(LONG)
    scorer.expect(ROWS)
    assert given_up.wait(LONG)


def test_a_judge_that_would_end_the_process_is_named(scorer, ids):
    async def judge(row):
        raise SystemExit(3)

    adapter = RewardAdapter({"name": "concise_rl", "judge": judge}, scorer)
    with pytest.raises(LaunchError, match="judge failed on rollout 1 of 4: RuntimeError: SystemExit 3"):
        adapter(completion_ids=list(ids), problem_id=["a"] * 4)


def test_a_judge_with_a_time_limit_by_signal_is_told_where_it_can_have_one(tokenizer, ids):
    async def judge(row):
        return int(parse(row["text"])[0])

    def plain(row):
        return judge(row)

    found = []
    for one in (judge, plain):
        scorer = GroupScorer(PROBLEMS, tokenizer, num_generations=4)
        adapter = RewardAdapter({"name": "concise_rl", "judge": one}, scorer)
        scorer.expect(ROWS)
        scorer.finished(0, ids[0])
        given = {"completion_ids": list(ids), "problem_id": ["a"] * 4, "budget": [row["budget"] for row in ROWS]}
        if one is judge:
            with pytest.raises(LaunchError, match="judge failed on rollout 1 of 4: ValueError: Math-Verify") as raised:
                adapter(**given)
            assert "make the judge a plain function, which is asked in the main thread" in raised.value.cure
        else:
            found = adapter(**given)
    assert found == [0.7] * 4


@pytest.mark.parametrize("kind", [LaconicGRPOTrainer, TimedGRPOTrainer])
def test_judges_have_begun_before_decoding_ends(kind, tokenizer, tmp_path, monkeypatch):
    """Decoding waits for the first judge to begin, and no judge ends before decoding does."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    scratch.build(ScratchModel(hidden_size=32, layers=1, heads=2, max_length=64), tokenizer, seed=3, folder=tmp_path)
    log, calls = {}, {}
    for early in (True, False):
        begun, decoded, finished = threading.Event(), threading.Event(), []
        calls[early] = []

        async def judge(row, *, early=early, begun=begun, decoded=decoded):
            calls[early].append(row["text"])
            begun.set()
            assert not early or await asyncio.to_thread(decoded.wait, LONG)
            return 1 + int(row["length"]) % 9

        scorer = GroupScorer(PROBLEMS, tokenizer, num_generations=4)
        RewardAdapter({"name": "concise_rl", "judge": judge}, scorer)

        # The reward of a model that gets nothing right would say nothing.
        def reward(problem_id, completion_ids, *, scorer=scorer, **_):
            generation = scorer.generation(problem_id, completion_ids, Progress(), {})
            return generation.verdicts[generation.mine, 0].tolist()

        def note(row, ids, columns, *, scorer=scorer, begun=begun, finished=finished):
            scorer.finished(row, ids, columns)
            finished.append(row)
            assert begun.wait(LONG)

        sampled = SampledRollouts(seed=0, on_finished=note if early else None)

        def rollouts(prompts, trainer, *, sampled=sampled, begun=begun, decoded=decoded, finished=finished):
            begun.clear(), decoded.clear(), finished.clear()
            found = sampled(prompts, trainer)
            decoded.set()
            return found

        trainer = kind(
            str(tmp_path),
            reward_funcs=reward,
            args=GRPOConfig(**SETTINGS, output_dir=str(tmp_path / "out")),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": _asked(p), "problem_id": p.id} for p in PROBLEMS.values()] * 2),
            rollout_func=rollouts,
            **before_generation(scorer, {}),
        )
        trainer.train()
        assert sorted(finished) == (list(range(8)) if early else [])
        log[early] = trainer.state.log_history[:-1]
    assert len(calls[True]) == len(calls[False]) == 16
    assert sorted(calls[True]) == sorted(calls[False])
    names = ("reward", "reward_std", "loss", "grad_norm", "completions/mean_length")
    assert [[row[name] for name in names] for row in log[True]] == [[row[name] for name in names] for row in log[False]]
    assert all(row["reward_std"] > 0 for row in log[True])


def judged(scorer, rollouts, prompts, trainer, rows, *, early):
    """What a judge said of rollouts, and the rows that had one begin before the others were there."""
    asked, begun, finished = [], threading.Event(), []

    async def judge(row):
        asked.append(row["text"])
        begun.set()
        return 1 + len(row["text"]) % 9

    def note(take):
        def taken(row, *found):
            take(row, *found)
            finished.append(row)
            assert begun.wait(LONG)

        return taken

    scorer.serve({"name": "concise_rl", "judge": judge})
    if early:
        name, take = ("on_told", scorer.told) if hasattr(rollouts, "on_told") else ("on_finished", scorer.finished)
        setattr(rollouts, name, note(take))
    scorer.expect(rows)
    found = rollouts(prompts, trainer)
    carried = {name: found[name] for name in ("mode", "episode") if name in found}
    generation = scorer.generation([row["problem_id"] for row in rows], found["completion_ids"], Progress(), carried)
    checked = [rollout.text for rollout in generation.rollouts if rollout.correct is not None]
    assert sorted(asked) == sorted(checked)
    assert len(checked) > 4
    return generation.verdicts.tolist(), sorted(finished)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (
            ModeRollouts,
            Modes(name="modes", modes=[{"text": "</think>", "mode": "no_think"}, {"text": "3", "mode": "think"}]),
        ),
        (ExitRollouts, EarlyExits(name="early_exits", cuts=(0.5,), free=2, cue="= </think>")),
        (
            BudgetRollouts,
            Budgets(name="budgets", budgets=[2, 5], answers=2, cue="= </think>", closed_cue="=", answer_tokens=2),
        ),
    ],
)
def test_judges_of_rollouts_from_parts_begin_early_too(kind, spec, tokenizer, tmp_path):
    scratch.build(ScratchModel(hidden_size=32, layers=1, heads=2, max_length=64), tokenizer, seed=3, folder=tmp_path)
    trainer = GRPOTrainer(
        str(tmp_path),
        reward_funcs=[len],
        args=GRPOConfig(**SETTINGS, output_dir=str(tmp_path / "out")),
        train_dataset=Dataset.from_list([{"prompt": "3 + 4 ="}] * 8),
    )
    trainer.model.train()
    rows = [{"problem_id": problem} for problem in "ab" for _ in range(4)]
    prompts = [_asked(PROBLEMS[row["problem_id"]]) for row in rows]
    found = {}
    for early in (True, False):
        scorer = GroupScorer(PROBLEMS, tokenizer, num_generations=4)
        found[early], finished = judged(scorer, kind(spec, seed=0), prompts, trainer, rows, early=early)
        assert finished == (list(range(8)) if early else [])
    assert found[True] == found[False]


def test_judges_of_episodes_begin_early_too(searching, searcher, tmp_path):
    trainer, rollouts, _ = searching.make_trainer(searcher, tmp_path, searching.REWARDS, rows=searching.ROWS)
    trainer.model.train()
    rows = [{"problem_id": searching.PROBLEMS[row // searching.GROUP].id} for row in range(searching.ROWS)]
    found = {}
    for early in (True, False):
        rollouts.on_told = None
        given = (searching.prompts(), trainer, rows)
        found[early], finished = judged(searching.scorer(searcher), rollouts, *given, early=early)
        assert finished == (list(range(searching.ROWS)) if early else [])
    rollouts.close()
    assert found[True] == found[False]


SETTINGS = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 12,
    "max_steps": 2,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "disable_tqdm": True,
}


def _asked(problem):
    return [{"role": "user", "content": problem.prompt}]
