"""The retrieval server is stopped and started again while rollouts search: they wait, and nothing is lost."""

import threading

import pytest

from laconic.inference.retrieval.fts5 import Fts5Retriever
from laconic.inference.retrieval.http import HttpRetriever
from laconic.inference.retrieval.server import Service
from laconic.inference.retrieval.serving import Server
from laconic.inference.sockets import bind, place_of


class Restarted:
    """A server that goes away before the third search, and comes back at the same place a moment later."""

    def __init__(self, documents):
        self.documents, self.searches = documents, 0
        self.listener = bind("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.start()
        self.client = HttpRetriever(place_of(self.listener), back_off=0.05, longest_pause=0.2, patience=60, cache=0)

    def start(self):
        ready = threading.Event()
        self.server = Server(Service(Fts5Retriever.from_documents(self.documents)), ready=ready.set)
        self.thread = threading.Thread(target=self.server.run_on, args=[self.listener])
        self.thread.start()
        assert ready.wait(20)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)
        self.listener.close()

    def again(self):
        self.listener = bind("127.0.0.1", self.port)
        self.start()

    async def search(self, queries, *, k):
        self.searches += 1
        if self.searches == 3:
            self.stop()
            self.timer = threading.Timer(0.5, self.again)
            self.timer.start()
        return await self.client.search(queries, k=k)

    async def aclose(self):
        await self.client.aclose()


def logged(trainer):
    names = ("loss", "grad_norm", "reward", "raw/searches", "raw/retrieved_tokens")
    return [[row[name] for name in names] for row in trainer.state.log_history if "reward" in row]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_rollouts_wait_for_a_server_that_comes_back(searching, searcher, tmp_path):
    expected, rollouts, _ = searching.make_trainer(searcher, tmp_path / "in_process", searching.REWARDS)
    expected.train()
    rollouts.close()
    server = Restarted(searching.WORLD.documents)
    trainer, rollouts, _ = searching.make_trainer(searcher, tmp_path / "served", searching.REWARDS, retriever=server)
    trainer.train()
    rollouts.close()
    server.timer.join()
    server.stop()
    assert server.client.retried > 0
    assert server.searches > 3
    assert logged(trainer) == [pytest.approx(row) for row in logged(expected)]
