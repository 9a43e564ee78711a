"""Queries per second of the BM25 retriever, in this process and behind our server, on synthetic passages.

    python bench/retriever.py [--quick] [--write]

20,000 passages of 100 words, drawn by Zipf's law over 60,000 words without its 30 most frequent (text without stop
words looks like that); each query is 8 words of one passage, 3 hits are asked for. Queries come in batches of 64. The
server is a process of its own, which opens the index from disk; the client keeps one or four batches on their way. All
are measured in turn, round after round, and a ratio compares what was measured in the same round; medians count. The
server keeps passages that were found in memory (here, sooner or later, all), this process reads them from disk again.

Rates are per second of wall time and per processor second, of this process or of the server's; the latter do not
change much with other load on the machine. The client's own work is in wall time only: with one batch on its way the
server waits meanwhile, with four it does not where there are two idle cores. The target holds for four.

`--write` keeps the figures in bench/results/retriever.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Before numpy is loaded: one core means one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import numpy as np
from starlette.responses import JSONResponse

from laconic.eval.provenance import provenance
from laconic.inference.retrieval.bm25 import Bm25Retriever
from laconic.inference.retrieval.documents import Document
from laconic.inference.retrieval.http import HttpRetriever
from laconic.inference.retrieval.protocol import Retriever
from laconic.inference.retrieval.server import Service
from laconic.inference.retrieval.serving import Server
from laconic.inference.sockets import bind, place_of

RESULTS = Path(__file__).parent / "results" / "retriever.json"
BATCH, K = 64, 3
TARGETS = {"numpy": 1200.0, "numba": 8000.0}
RATIO = 0.6
WALL = ("per_second", "http_one", "http_four")
PROCESSOR = ("per_processor_second", "http_per_processor_second")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2,000 passages, one round, no targets")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "BACKEND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return 0
    sizes = {"passages": 2000, "queries": 1024, "rounds": 1} if options.quick else {}
    sizes = {"passages": 20_000, "queries": 4096, "rounds": 5} | sizes
    figures = measured(**sizes)
    print(json.dumps(figures, indent=2))
    if options.write:
        facts = provenance(threads=1, batch=BATCH, k=K, **sizes, targets=TARGETS | {"http": RATIO}, figures=figures)
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n")
    return 0 if options.quick else int(not kept(figures))


def kept(figures: dict[str, Any]) -> bool:
    """Whether the targets were met; those of numba where it is installed."""
    fast = all(found["per_second"] >= TARGETS[backend] for backend, found in figures["backends"].items())
    return fast and all(found["http_four_ratio"] >= RATIO for found in figures["backends"].values())


def texts(passages: int, queries: int) -> tuple[list[Document], list[str]]:
    """The corpus and the queries, the same every time."""
    rng = np.random.default_rng(0)
    weights = 1 / (np.arange(60_000) + 31.0)
    words = rng.choice(60_000, size=(passages, 100), p=weights / weights.sum())
    documents = [Document(str(n), " ".join(f"w{word}" for word in row)) for n, row in enumerate(words)]
    return documents, [" ".join(f"w{word}" for word in rng.choice(words[n % passages], 8)) for n in range(queries)]


def measured(*, passages: int, queries: int, rounds: int) -> dict[str, Any]:
    """All figures."""
    documents, asked = texts(passages, queries)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        manifest = Bm25Retriever.build(documents, Path(folder) / "index")
        built = {"index_seconds": time.perf_counter() - started, "index_bytes": sum(manifest.files.values())}
        backends = ["numpy", *(["numba"] if find_spec("numba") else [])]
        return built | {"backends": {name: one(Path(folder) / "index", name, asked, rounds) for name in backends}}


def one(folder: Path, backend: str, asked: list[str], rounds: int) -> dict[str, Any]:
    """One backend, here and behind a server."""
    with served(folder, backend) as url:
        return asyncio.run(compared(Bm25Retriever.open(folder, backend=backend), url, asked, rounds))


async def compared(here: Bm25Retriever, url: str, asked: list[str], rounds: int) -> dict[str, Any]:
    """Rates of every round; the figures are medians."""
    there = HttpRetriever(url, cache=0)
    # The first searches compile, connect and read the disk; and both must find the same.
    assert await here.search(asked[:BATCH], k=K) == await there.search(asked[:BATCH], k=K)
    found: dict[str, list[float]] = {name: [] for name in (*WALL, *PROCESSOR)}
    for _ in range(rounds):
        used = time.process_time()
        found["per_second"].append(await rate(here, asked, at_once=1))
        found["per_processor_second"].append(len(asked) / (time.process_time() - used))
        found["http_one"].append(await rate(there, asked, at_once=1))
        used = server_seconds(url)
        found["http_four"].append(await rate(there, asked, at_once=4))
        found["http_per_processor_second"].append(len(asked) / (server_seconds(url) - used))
    await there.aclose()
    await here.aclose()
    ratios = {
        f"{name}_ratio": [http / bare for http, bare in zip(found[name], found[base], strict=True)]
        for base, *names in (WALL, PROCESSOR)
        for name in names
    }
    return {name: statistics.median(values) for name, values in (found | ratios).items()} | {"rounds": found}


async def rate(retriever: Retriever, asked: list[str], *, at_once: int) -> float:
    """Queries per second, in batches, so many of them on their way."""
    batches = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]

    async def some(start: int) -> None:
        for batch in batches[start::at_once]:
            assert len(await retriever.search(batch, k=K)) == len(batch)

    started = time.perf_counter()
    await asyncio.gather(*(some(start) for start in range(at_once)))
    return len(asked) / (time.perf_counter() - started)


@contextmanager
def served(folder: Path, backend: str) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    command = [sys.executable, __file__, "--serve", str(folder), backend]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def serve(folder: str, backend: Any) -> None:
    """What that process does."""
    with bind("127.0.0.1", 0) as listener:
        service = Service(Bm25Retriever.open(folder, backend=backend))
        server = Server(service, ready=lambda: print(place_of(listener), flush=True))
        server.app.add_route("/processor", lambda request: JSONResponse(time.process_time()))
        server.run_on(listener)


def server_seconds(url: str) -> float:
    """Processor seconds of that process so far."""
    return httpx.get(f"{url}/processor").json()


if __name__ == "__main__":
    sys.exit(main())
