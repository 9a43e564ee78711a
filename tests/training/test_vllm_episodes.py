"""Search episodes in GRPO over TRL's vLLM, against a double of its calls: the episodes of our own engine."""

import asyncio
import inspect

import pytest
from trl.generation.vllm_client import VLLMClient

from laconic.inference.retrieval.fts5 import Fts5Retriever
from laconic.rewards.errors import LaunchError
from laconic.training.vllm_episodes import VllmEpisodes

SAME = (
    "prompt_ids",
    "completion_ids",
    "env_mask",
    "queries",
    "retrieved",
    "searches",
    "invalid_actions",
    "well_formed",
)


@pytest.fixture(scope="module")
def double(searching):
    import vllm_double

    with pytest.MonkeyPatch.context() as patch:
        vllm_double.install(patch)
        yield vllm_double


@pytest.fixture(scope="module")
def own(searching, searcher, tmp_path_factory):
    """The likeliest episodes on our own engine, answers asked for on the side included."""
    rewards = [{"name": "auto_search"}]
    trainer, rollouts, _ = searching.make_trainer(searcher, tmp_path_factory.mktemp("own"), rewards, disabled=0.5)
    trainer.args.temperature = 0.0
    found = rollouts(searching.prompts(), trainer)
    rollouts.close()
    assert sum(found["searches"]) > 3
    return found


class Slow:
    """Lets others go on while it searches."""

    def __init__(self, documents):
        self.below = Fts5Retriever.from_documents(documents)

    async def search(self, queries, *, k):
        await asyncio.sleep(0.02)
        return await self.below.search(queries, k=k)

    async def aclose(self):
        await self.below.aclose()


def test_the_double_takes_what_trl_takes(double):
    ours, theirs = (list(inspect.signature(one.generate).parameters) for one in (double.Client, VLLMClient))
    assert ours == theirs


def test_episodes_on_a_server_are_those_of_our_engine(searching, searcher, own, double, tmp_path):
    given = {"rows": searching.ROWS, "disabled": 0.5, "episodes": VllmEpisodes, "use_vllm": True, "vllm_mode": "server"}
    trainer, rollouts, _ = searching.make_trainer(searcher, tmp_path, [{"name": "auto_search"}], **given)
    trainer.args.temperature = 0.0
    found = rollouts(searching.prompts(), trainer)
    rollouts.close()
    names = (*SAME, "self_answers")
    assert {name: found[name] for name in names} == {name: own[name] for name in names}
    requests = trainer.vllm_generation.vllm_client.requests
    # All rows of the first round at once; later ones have as many requests as limits differ.
    assert requests[0][:2] == (searching.ROWS, searching.LIMIT)
    assert sum(rows for rows, _, _ in requests) > searching.ROWS
    assert requests[0][2] == {
        "stop": ["</search>", "</answer>"],
        "stop_token_ids": [trainer.processing_class.eos_token_id],
        "min_tokens": 0,
    }
    for values, mask in zip(found["logprobs"], found["env_mask"], strict=True):
        assert [value < 0 for value in values] == [bool(kept) for kept in mask]


def test_training_on_a_server(searching, searcher, double, tmp_path):
    given = {"disabled": 0.5, "episodes": VllmEpisodes, "use_vllm": True, "vllm_mode": "server"}
    trainer, rollouts, _ = searching.make_trainer(searcher, tmp_path, searching.REWARDS, **given)
    trainer.train()
    rollouts.close()
    # Sent once for every generation, and what was drawn has the probability that training gives it.
    assert trainer.vllm_generation.told == ["weights"] * 2
    logs = [row for row in trainer.state.log_history if "reward" in row]
    assert [row["sampling/sampling_logp_difference/max"] for row in logs] == pytest.approx([0, 0], abs=1e-4)
    assert all(row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-4) for row in logs)
    assert sum(row["raw/searches"] for row in logs) > 0


def test_a_colocated_vllm_sleeps_between_generations_only(searching, searcher, own, double, tmp_path):
    settings = {"vllm_mode": "colocate", "vllm_enable_sleep_mode": True, "retriever": Slow(searching.WORLD.documents)}
    trainer, found = searching.served(searcher, tmp_path, rows=searching.ROWS, **settings)
    assert {name: found[name] for name in SAME} == {name: own[name] for name in SAME}
    assert trainer.vllm_generation.told == ["weights", "wake kv_cache", "sleep"]
    # Everybody's next turn is in one call: those who search are waited for.
    calls, turns = trainer.vllm_generation.llm.calls, [told.facts["turns"] for told in found["episode"]]
    assert [len(call) for call in calls] == [sum(n > at for n in turns) for at in range(max(turns))]
    first = calls[0]
    # Rows of one group have the same prompt, and seeds of their own.
    assert len({params.seed for params in first}) == len(first) == searching.ROWS
    assert {params.logprobs for params in first} == {0}


def test_what_the_server_says_is_in_the_error(searching, searcher, double, tmp_path, monkeypatch):
    def refuse(self, prompts, **_):
        raise Exception("Request failed: 400, too long")

    monkeypatch.setattr(double.Client, "generate", refuse)
    with pytest.raises(LaunchError, match=r"rollouts of step 0: vLLM's server failed: .*Request failed: 400, too long"):
        searching.served(searcher, tmp_path, rows=searching.ROWS)
