"""Resumable sampling: what is in the file stays, what is missing is drawn, and the end looks the same."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from laconic.data_gen.progress import Progress
from laconic.data_gen.rollouts import request_seed, sample_rollouts
from laconic.inference.engine import Sampling
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.sampling import Completion, EngineSampler
from laconic.inference.trace import TraceReader
from laconic.rewards.records import Problem, read_rollouts

PROBLEMS = [Problem(f"p{i}", " ".join(map(str, range(i, 2 * i + 1))), str(i), "exact") for i in range(7)]
SAMPLING = Sampling(max_tokens=12)


class CountingSampler:
    """A real sampler that notes which keys it was asked for, and how many tokens it gave."""

    def __init__(self, model, tokenizer):
        self.inner = EngineSampler(TransformersEngine(model, tokenizer, batch_size=5, signals=False))
        self.asked = []
        self.lengths = {}

    def sample(self, requests, sampling):
        requests = list(requests)
        self.asked += [request.key for request in requests]
        with self.inner:
            for completion in self.inner.sample(requests, sampling):
                self.lengths[completion.key] = len(completion.ids)
                yield completion


@pytest.fixture
def run(random_model, tokenizer, tmp_path):
    """Sample into a file; returns the file and the sampler."""
    model = random_model().double()

    def sample(name="r.jsonl", samples=3, problems=PROBLEMS, seed=0):
        sampler = CountingSampler(model, tokenizer)
        path = tmp_path / name
        rollouts = sample_rollouts(
            sampler,
            TraceReader(tokenizer),
            problems,
            samples=samples,
            sampling=SAMPLING,
            seed=seed,
            path=path,
            source="random",
        )
        assert list(read_rollouts(path)) == rollouts
        return path, sampler

    return sample


def test_rows_are_complete_ordered_and_counted(run):
    path, sampler = run()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    keys = [(problem.id, sample) for problem in PROBLEMS for sample in range(3)]
    assert [(row["problem_id"], row["sample"]) for row in rows] == keys
    assert sorted(sampler.asked) == sorted(keys)
    for row in rows:
        assert row["tokens"] == row["think_tokens"] + row["answer_tokens"]
        assert row["tokens"] == sampler.lengths[row["problem_id"], row["sample"]]
        assert row["finished"] or row["tokens"] == SAMPLING.max_tokens
        assert row["seed"] == request_seed(0, row["problem_id"], row["sample"])
    assert len({row["text"] for row in rows}) > 15


@pytest.mark.parametrize("torn", ["", '{"problem_id": "p1", "sa'])
def test_what_is_there_is_not_drawn_again(run, tmp_path, torn):
    whole = run()[0].read_text()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "half.jsonl").write_text("".join(lines[11:4:-1]) + torn)
    path, sampler = run("half.jsonl")
    assert path.read_text() == whole
    there = {(row["problem_id"], row["sample"]) for row in map(json.loads, lines[5:12])}
    assert len(there) == 7
    assert not there & set(sampler.asked)
    assert len(sampler.asked) == 14
    assert run("half.jsonl")[1].asked == []
    assert path.read_text() == whole


def test_more_samples_extend_and_seeds_matter(run):
    few = run("few.jsonl", samples=2)[0].read_text().splitlines()
    more = run("more.jsonl", samples=3)[0].read_text().splitlines()
    assert [line for line in more if json.loads(line)["sample"] < 2] == few
    other = run("other.jsonl", samples=2, seed=1)[0].read_text().splitlines()
    same = [json.loads(a)["text"] == json.loads(b)["text"] for a, b in zip(few, other, strict=True)]
    assert sum(same) < 3


def test_request_seeds_differ_by_every_part():
    seeds = [request_seed(s, p, n) for s in (0, 1, 11) for p in ("a", "1/a", "1") for n in (0, 1, 11)]
    assert max(Counter(seeds).values()) == 1
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_verdicts_come_from_the_verifier(tokenizer, tmp_path):
    class Fixed:
        def sample(self, requests, sampling):
            for request in requests:
                text = {0: "<think> 1 + 1 = 2 </think> 2", 1: "<think> 1 </think> 3", 2: "<think> 1 + 1"}[
                    request.key[1]
                ]
                ids = tokenizer.encode(text) + [tokenizer.eos_token_id] * (request.key[1] < 2)
                yield Completion(request.key, tuple(ids), request.key[1] < 2)

    problem = Problem("p", "1 + 1 =", "2", "exact")
    path = tmp_path / "r.jsonl"
    reader = TraceReader(tokenizer)
    rollouts = sample_rollouts(
        Fixed(), reader, [problem], samples=3, sampling=SAMPLING, seed=0, path=path, source="fixed"
    )
    assert [(r.correct, r.answer, r.finished, r.think_tokens, r.answer_tokens) for r in rollouts] == [
        (True, "2", True, 7, 2),
        (False, "3", True, 3, 2),
        (False, None, False, 4, 0),
    ]
    assert rollouts[0].text == "<think> 1 + 1 = 2 </think> 2"


def test_progress_line():
    progress = Progress("pairs", done=10, total=40)
    for _ in range(5):
        progress.add(100)
    # 500 tokens and 5 rollouts in 20 seconds: 25 rollouts are left, 4 seconds each.
    assert progress.line(20.0) == "pairs: 15/40 rollouts, 25 tokens/s, 1:40 left"
