"""Tokens per second through the server, with 64 clients that stream, against the bare engine.

    python bench/server.py [--quick] [--write]

Both decode the same 64 prompts to the same length, in turn, round after round: a ratio compares runs beside each other,
and the median round counts. The engine and the server share a process, as in `laconic serve`; the model has one thread.
The clients are in a process of their own, which competes for the same cores, as it would not if they were elsewhere; it
takes every piece as it comes, and reads the events when the clock has stopped. Seconds are wall time, from the first
request to the end of the last answer; beside them stand processor seconds of the engine's process, which other load on
the machine does not change much.

bare      64 branches of the engine, `generate` to the limit; nobody looks at the text on the way.
streamed  64 clients of /v1/chat/completions, one event for every token with text.

`--write` keeps the figures in bench/results/server.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Before torch is loaded: one core means one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from laconic.eval.provenance import provenance
from laconic.inference.engines.loading import load_model
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.ledger import Ledger
from laconic.inference.opening import Opened
from laconic.inference.policies.choose import parse_choice
from laconic.inference.server.service import Service
from laconic.inference.server.serving import Server
from laconic.inference.sockets import bind
from laconic.recipes.model_spec import ScratchModel
from laconic.training.scratch import build, symbolic_tokenizer

RESULTS = Path(__file__).parent / "results" / "server.json"
SYMBOLS = [str(number) for number in range(300)] + list("+-*/=;")
CLIENTS, TARGET = 64, 0.7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, few tokens, one round")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--clients", nargs=2, metavar=("URL", "TOKENS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.clients:
        print(json.dumps(asyncio.run(clients(options.clients[0], int(options.clients[1])))))
        return 0
    torch.set_num_threads(1)
    bench = Bench(quick=options.quick)
    figures = bench.figures()
    print(json.dumps(figures, indent=2))
    if options.write:
        facts = provenance(parameters=bench.model.num_parameters(), threads=1, **bench.sizes, figures=figures)
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n")
    return int(figures["ratio"] < TARGET)


def prompts() -> list[str]:
    """The same in both processes."""
    rng = random.Random(0)
    return [" ".join(rng.choices(SYMBOLS[:300], k=rng.randrange(6, 60))) for _ in range(CLIENTS)]


class Bench:
    """A random model, and both ways to its tokens."""

    def __init__(self, *, quick: bool) -> None:
        spec = ScratchModel() if quick else ScratchModel(hidden_size=320, layers=4, heads=5)
        with tempfile.TemporaryDirectory() as folder:
            build(spec, symbolic_tokenizer(SYMBOLS), seed=0, folder=Path(folder))
            self.model, self.tokenizer = load_model(folder, device="cpu", dtype="float32")
        self.sizes = {"clients": CLIENTS, "tokens": 16 if quick else 128, "rounds": 1 if quick else 3}

    def figures(self) -> dict[str, Any]:
        """Tokens per second of both, and their ratio."""
        self.bare()  # a first run warms up
        rounds = [(self.bare(), self.streamed()) for _ in range(self.sizes["rounds"])]
        found: dict[str, Any] = {}
        for place, clock in enumerate(("", "processor_")):
            pairs = [(bare[place], streamed[place]) for bare, streamed in rounds]
            found[f"bare_tokens_per_{clock}second"] = statistics.median(bare for bare, _ in pairs)
            found[f"streamed_tokens_per_{clock}second"] = statistics.median(streamed for _, streamed in pairs)
            found[f"{clock}ratio"] = statistics.median(streamed / bare for bare, streamed in pairs)
            found[f"{clock}ratios"] = [streamed / bare for bare, streamed in pairs]
        return found

    def bare(self) -> tuple[float, float]:
        """Tokens of the engine alone, per second and per processor second."""

        async def one(engine: TransformersEngine, number: int, prompt: str) -> int:
            async with engine.open(prompt, ledger=Ledger(), seed=number) as branch:
                return len((await branch.generate(max_tokens=self.sizes["tokens"])).tokens)

        async def run() -> tuple[float, float]:
            engine = self._engine()
            start, used = time.perf_counter(), time.process_time()
            tokens = sum(await asyncio.gather(*(one(engine, *each) for each in enumerate(prompts()))))
            rates = tokens / (time.perf_counter() - start), tokens / (time.process_time() - used)
            await engine.aclose()
            return rates

        return asyncio.run(run())

    def streamed(self) -> tuple[float, float]:
        """Tokens that arrive at the clients, per second and per processor second of the server."""
        service = Service(Opened(self._engine(), "bench", tokenizer=self.tokenizer), parse_choice("plain"))
        listener, ready = bind("127.0.0.1", 0), threading.Event()
        server = Server(service, ready=ready.set)
        thread = threading.Thread(target=server.run_on, args=[listener])
        thread.start()
        ready.wait()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        command = [sys.executable, __file__, "--clients", url, str(self.sizes["tokens"])]
        used = time.process_time()
        try:
            done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            used = time.process_time() - used
        finally:
            server.should_exit = True
            thread.join()
        assert done["tokens"] == CLIENTS * self.sizes["tokens"], done
        assert done["symbols"] > 0.97 * done["tokens"], done  # two of 313 tokens have no text
        return done["tokens"] / done["seconds"], done["tokens"] / used

    def _engine(self) -> TransformersEngine:
        engine = TransformersEngine(self.model, self.tokenizer, batch_size=CLIENTS, signals=False)
        # No token ends a completion.
        engine.eos_ids, engine.decoder.eos = frozenset([len(self.tokenizer) + 1]), [len(self.tokenizer) + 1]
        return engine


async def clients(url: str, tokens: int) -> dict[str, Any]:
    """All clients at once: tokens by the usage, symbols that arrived as text, seconds."""
    place = urlsplit(url)

    async def one(number: int, prompt: str) -> bytes:
        asked = {"messages": [{"role": "user", "content": prompt}], "seed": number, "max_tokens": tokens}
        asked |= {"stream": True, "stream_options": {"include_usage": True}, "separate_reasoning": False}
        body = json.dumps(asked).encode()
        head = f"POST {place.path}/chat/completions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(head.encode() + body)
        received = [piece async for piece in pieces(reader)]
        writer.close()
        return b"".join(received)

    start = time.perf_counter()
    replies = await asyncio.gather(*(one(*each) for each in enumerate(prompts())))
    seconds = time.perf_counter() - start
    counted, symbols = zip(*map(read, replies), strict=True)
    return {"tokens": sum(counted), "symbols": sum(symbols), "seconds": seconds}


async def pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What arrives, as it arrives."""
    while piece := await reader.read(1 << 16):
        yield piece


def read(reply: bytes) -> tuple[int, int]:
    """Tokens by the usage of a streamed reply, and symbols of its text: each is one token, a space goes before it."""
    events = [json.loads(line[6:]) for line in reply.split(b"\n") if line.startswith(b"data: {")]
    texts = [choice["delta"].get("content", "") for event in events for choice in event["choices"]]
    return events[-1]["usage"]["completion_tokens"], len("".join(texts).split())


if __name__ == "__main__":
    sys.exit(main())
