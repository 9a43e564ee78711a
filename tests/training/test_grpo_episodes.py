"""Search episodes in GRPO: what enters the loss, what rewards are told, on one rank and on two."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from laconic.data_gen.world.spaced import SPACED
from laconic.inference.episode_documents import counter, observation
from laconic.inference.retrieval.documents import Hit
from laconic.inference.retrieval.fts5 import Fts5Retriever
from laconic.rewards.errors import DataError, LaunchError
from laconic.training import episode_rollouts

CHILD = Path(__file__).parent / "child"
PROTOCOL = SPACED


@pytest.fixture(scope="module")
def alone(searching, searcher, tmp_path_factory):
    """Two steps in this process: the trainer and what was noted; every episode's own record."""
    episodes, original = [], episode_rollouts.run_episode

    async def noted(*arguments, **given):
        episode = await original(*arguments, **given)
        episodes.append(episode)
        return episode

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episode_rollouts, "run_episode", noted)
        trainer, found = searching.trained(searcher, tmp_path_factory.mktemp("alone"), rows=searching.ROWS)
    return trainer, found, episodes


def runs(mask):
    """(value, start, end) of each run of equal values."""
    edges = [0, *(place for place in range(1, len(mask)) if mask[place] != mask[place - 1]), len(mask)]
    return [(mask[start], start, end) for start, end in pairwise(edges)]


def test_the_gradient_is_that_of_the_drawn_tokens_alone(alone):
    trainer, _, _ = alone
    masked = 0
    for ((states, gradient), inputs), head in zip(trainer.seen, trainer.heads, strict=True):
        ids, mask = inputs["completion_ids"], inputs["completion_mask"] * inputs["tool_mask"]
        length = ids.shape[1]
        states, gradient = states[:, -length - 1 : -1], gradient[:, -length - 1 : -1]
        # Of - A log p(id) / N with a ratio of 1, by hand.
        probabilities = (states @ head.T).softmax(-1)
        missing = probabilities - torch.nn.functional.one_hot(ids, len(head))
        by_hand = inputs["advantages"][:, None, None] * mask[..., None] * missing @ head / mask.sum()
        torch.testing.assert_close(gradient, by_hand, rtol=1e-4, atol=1e-7)
        assert not gradient[mask == 0].any()
        masked += int(((inputs["completion_mask"] == 1) & (mask == 0)).sum())
    assert masked > 50


def test_masked_are_observations_hints_and_the_end(searching, alone):
    trainer, found, _ = alone
    tokenizer = trainer.processing_class
    limit = searching.SEARCH.document_tokens
    documents, seen = {document.id: document for document in searching.WORLD.documents}, []
    for step in found["rollouts"]:
        columns = [step[name] for name in ("completion_ids", "env_mask", "retrieved", "invalid_actions")]
        for ids, mask, retrieved, invalid in zip(*columns, strict=True):
            assert len(ids) == len(mask)
            spans = [(kept, tokenizer.decode(ids[start:end])) for kept, start, end in runs(mask)]
            forced = [text.removesuffix("<|end|>").strip() for kept, text in spans if not kept]
            shown = [text for text in forced if text.startswith("<information> doc")]
            assert shown == [shown_as(tokenizer, [documents[id] for id in hits], limit) for hits in retrieved]
            others = [PROTOCOL.hint, PROTOCOL.disabled, PROTOCOL.notice]
            rest = [text for text in forced if text not in shown]
            assert set(rest) <= {"", *(" ".join(text.split()) for text in others)}
            assert sum(text == PROTOCOL.hint.strip() for text in rest) in (invalid, invalid - 1)
            seen += [*shown, *rest]
    assert {PROTOCOL.hint.strip(), " ".join(PROTOCOL.disabled.split())} <= set(seen)
    assert len([text for text in seen if "doc 1" in text]) > 3


def shown_as(tokenizer, documents, limit):
    hits = [Hit(document, 1.0) for document in documents]
    text = observation(PROTOCOL, hits, limit=limit, count=counter(tokenizer)).text
    return " ".join(text.split())


def test_columns_are_those_of_the_records(searching, alone):
    _, found, episodes = alone
    size = searching.ROWS
    assert len(episodes) == 2 * size
    # Episodes end in any order; text and queries tell them apart.
    told = [
        {name: step[name][row] for name in step if name not in ("logprobs",)} | {"text": text}
        for step, texts in zip(found["rollouts"], found["texts"], strict=True)
        for row, text in enumerate(texts)
    ]
    expected = [
        (
            "".join(piece.text for piece in episode.pieces if piece.kind == "generated"),
            [search.query for search in episode.searches],
            [list(search.ids) for search in episode.searches],
            len(episode.searches),
            episode.invalid,
            ["search"] * len(episode.searches),
        )
        for episode in episodes
    ]
    names = ("text", "queries", "retrieved", "searches", "invalid_actions", "tools")
    got = [tuple(row[name] for name in names) for row in told]
    assert sorted(got) == sorted(expected)
    assert {row["searches"] for row in told} >= {0, 1}
    for episode in episodes:
        assert all(len(piece.ids) == piece.drawn for piece in episode.pieces if piece.kind == "generated")
    trained = sum(sum(mask) for step in found["rollouts"] for mask in step["env_mask"])
    assert trained == sum(piece.drawn for episode in episodes for piece in episode.pieces)


def test_half_of_each_group_cannot_search(searching, alone):
    trainer, found, _ = alone
    tokenizer = trainer.processing_class
    for step in found["rollouts"]:
        assert step["search_enabled"] == [False, False, True, True] * 3
        assert not any(step["searches"][row] for row in range(searching.ROWS) if not step["search_enabled"][row])
        for ids, enabled in zip(step["prompt_ids"], step["search_enabled"], strict=True):
            assert ("no search ." in tokenizer.decode(ids)) is not enabled


def test_metrics_count_what_was_carried_out(searching, alone):
    _, found, _ = alone
    for step, logs in zip(found["rollouts"], found["logs"], strict=True):
        able = [n for n, enabled in zip(step["searches"], step["search_enabled"], strict=True) if enabled]
        assert logs["raw/searches"] == pytest.approx(sum(able) / len(able))
        assert logs["raw/searching"] == pytest.approx(sum(n > 0 for n in able) / len(able))
        assert logs["raw/invalid_actions"] == pytest.approx(sum(step["invalid_actions"]) / searching.ROWS)


def on_one_rank(searching, searcher, out):
    """Rollouts over the double of TRL's vLLM; on two ranks the first asks for both, and they come to uneven turns."""
    import vllm_double

    with pytest.MonkeyPatch.context() as patch:
        vllm_double.install(patch)
        _, found = searching.served(searcher, out, rows=searching.ROWS)
    return {name: values for name, values in found.items() if name != "episode"}


@pytest.mark.distributed
def test_two_ranks_are_one(searching, searcher, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(CHILD / "searching.py"), str(searcher), str(tmp_path)]
    done = subprocess.run([*torchrun, *script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-6000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    _, single, _ = alone
    single = json.loads(json.dumps(single))
    for step, both in enumerate(zip(*(rank["rollouts"] for rank in ranks), strict=True)):
        for name, values in single["rollouts"][step].items():
            if name != "logprobs":
                assert [*both[0][name], *both[1][name]] == values, name
    key = lambda row: (row["step"], row["ids"], row["mask"], row["advantage"])  # noqa: E731
    expected = sorted(single["gradients"], key=key)
    got = sorted((row for rank in ranks for row in rank["gradients"]), key=key)
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine["step"], mine["ids"], mine["mask"]) == (theirs["step"], theirs["ids"], theirs["mask"])
        assert mine["sizes"] == pytest.approx(theirs["sizes"], rel=1e-3, abs=1e-6)
        assert [size > 0 for size in mine["sizes"]] == [bool(kept and mine["advantage"]) for kept in mine["mask"]]
    for name, values in json.loads(json.dumps(on_one_rank(searching, searcher, tmp_path))).items():
        assert name == "logprobs" or [*ranks[0]["served"][name], *ranks[1]["served"][name]] == values, name
    for rank in ranks:
        assert rank["memory"] == single["memory"]
        assert rank["weights"] == pytest.approx(single["weights"], abs=1e-3)
    assert single["memory"][0]


def test_a_retriever_that_fails_ends_the_step_with_its_reason(searching, searcher, tmp_path):
    class Failing(Fts5Retriever):
        async def search(self, queries, *, k):
            raise LaunchError("the server stayed away", cure="start it")

    documents = Fts5Retriever.from_documents(searching.WORLD.documents)
    documents.__class__ = Failing
    trainer, rollouts, _ = searching.make_trainer(searcher, tmp_path, [{"name": "mash"}], retriever=documents)
    with pytest.raises(LaunchError, match="rollouts of step 0: the server stayed away"):
        trainer.train()
    rollouts.close()


def test_a_prompt_without_room_is_an_error(searching, searcher, tmp_path):
    trainer, rollouts, _ = searching.make_trainer(searcher, tmp_path, [{"name": "mash"}])
    rollouts.search = rollouts.search.model_copy(update={"context_tokens": 3})
    with pytest.raises(DataError, match="leaves no room for an episode"):
        trainer.train()
    rollouts.close()


def test_what_is_said_depends_on_no_batch(searching, searcher, tmp_path):
    trainer, rollouts, _ = searching.make_trainer(searcher, tmp_path, [{"name": "auto_search"}])
    prompts = [[{"role": "user", "content": problem.prompt}] for problem in searching.PROBLEMS]
    wide = rollouts(prompts, trainer)
    rollouts.batch_size = 2
    narrow = rollouts(prompts, trainer)
    rollouts.close()
    assert narrow["completion_ids"] == wide["completion_ids"]
    assert narrow["env_mask"] == wide["env_mask"]
    # Answers asked for on the side: one after each search, and no part of the episode.
    assert narrow["self_answers"] == wide["self_answers"]
    assert [len(answers) for answers in wide["self_answers"]] == wide["searches"]
    assert any(wide["searches"])
    plain, others, _ = searching.make_trainer(searcher, tmp_path, [{"name": "mash"}])
    assert others(prompts, plain)["completion_ids"] == wide["completion_ids"]
    others.close()
