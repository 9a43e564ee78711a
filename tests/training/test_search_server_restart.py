"""The retrieval server is killed and started again in the middle of a step: rollouts wait, and nothing is lost."""

import asyncio
import signal
import subprocess
import sys
import threading

from laconic.inference.retrieval.bm25 import Bm25Retriever
from laconic.inference.retrieval.http import HttpRetriever
from laconic.inference.sockets import bind
from laconic.training import episode_rollouts

KILLED_AT = 2
COMPARED = ("prompt_ids", "completion_ids", "env_mask", "retrieved", "queries", "passages")


class Killed:
    """`laconic retriever serve` in a process of its own, which is killed while it has the second search to answer.

    It is started again at the same place a moment later.
    """

    def __init__(self, index):
        with bind("127.0.0.1", 0) as listener:
            self.port = str(listener.getsockname()[1])
        self.index, self.searches, self.processes, self.timers = index, 0, [], []
        self.start()
        assert "serving" in self.processes[0].stderr.readline()
        url = f"http://127.0.0.1:{self.port}"
        self.client = HttpRetriever(url, back_off=0.05, longest_pause=0.2, patience=60, cache=0)

    def start(self):
        serve = ["-m", "laconic.launch.cli", "retriever", "serve", str(self.index), "--port", self.port]
        self.processes.append(subprocess.Popen([sys.executable, *serve], stderr=subprocess.PIPE, text=True))

    async def search(self, queries, *, k):
        self.searches += 1
        if self.searches != KILLED_AT:
            return await self.client.search(queries, k=k)
        (process,) = self.processes
        process.send_signal(signal.SIGSTOP)  # it takes the request in, and does not answer
        search = asyncio.create_task(self.client.search(queries, k=k))
        await asyncio.wait([search], timeout=0.2)
        assert not search.done()
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.timers.append(threading.Timer(0.2, self.start))
        self.timers[0].start()
        return await search

    async def aclose(self):
        await self.client.aclose()

    def stop(self):
        for timer in self.timers:
            timer.join()
        for process in self.processes:
            process.kill()
            process.wait()
            process.stderr.close()


def trained(searching, model, out, retriever):
    """Two steps: the rollouts of each, what was logged, and in which step the searches were made."""
    trainer, rollouts, _ = searching.make_trainer(model, out, searching.REWARDS, retriever=retriever)
    rollouts.columns |= {"passages"}
    told, searches = [], []

    def noted(prompts, trainer):
        told.append(episode_rollouts.SampledEpisodes.__call__(rollouts, prompts, trainer))
        searches.append(getattr(retriever, "searches", None))
        return told[-1]

    trainer.rollout_func = noted
    trainer.train()
    rollouts.close()
    names = ("loss", "grad_norm", "reward", "raw/searches", "raw/retrieved_tokens")
    logs = [[row[name] for name in names] for row in trainer.state.log_history if "reward" in row]
    return [{name: one[name] for name in COMPARED} for one in told], logs, searches


def test_rollouts_wait_for_a_server_that_was_killed(searching, searcher, tmp_path):
    documents = searching.WORLD.documents
    expected = trained(searching, searcher, tmp_path / "one", Bm25Retriever.from_documents(documents))
    Bm25Retriever.build(documents, tmp_path / "index")
    server = Killed(tmp_path / "index")
    try:
        rollouts, logs, searches = trained(searching, searcher, tmp_path / "other", server)
    finally:
        server.stop()
    # Within the first step: there were searches before it and after it.
    assert searches[0] > KILLED_AT
    assert server.client.retried > 0
    assert (rollouts, logs) == expected[:2]
    assert sum(len(ids) for step in rollouts for ids in step["retrieved"]) > KILLED_AT
