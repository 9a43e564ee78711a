"""A server that speaks the OpenAI protocol over loopback, and fails as real ones do when it is told to."""

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from laconic.inference.engines.openai import OpenAIEngine
from laconic.inference.ledger import Ledger
from laconic.rewards.errors import LaunchError


def render(messages):
    return f"Q:{messages[-1]['content']}A:"


class Characters:
    """A tokenizer of one token per character."""

    all_special_ids = (0,)

    def encode(self, text, add_special_tokens):
        assert not add_special_tokens
        return [ord(character) for character in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i)

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return render(messages)


def prefix_of(body):
    """What the assistant has said so far: after ``A:`` in a raw prompt, else in the last message."""
    if "messages" in body:
        last = body["messages"][-1]
        return last["content"] if last["role"] == "assistant" else ""
    prompt = body["prompt"]
    text = prompt if isinstance(prompt, str) else "".join(map(chr, prompt))
    return text.partition("A:")[2]


@dataclass
class FaultServer:
    """Says `tokens`, from where the request's prefix ends; the fields say what goes wrong."""

    tokens: tuple[str, ...] = ("<think>", "a ", "b ", "</think>", "7")
    say: Callable[[dict], tuple[str, ...]] | None = None
    """Instead of `tokens`, by the request."""
    usage: str = "each"  # none, last, each
    knows: str = "all"  # all, include_usage, nothing: other stream options are answered with 400
    logprobs: str = "as asked"  # as asked, missing, one more
    failures: list = field(default_factory=list)
    """(status, headers, message) for the next requests."""
    drop: int = 0
    """So many connections are reset before an answer."""
    thinking: str = "inline"  # inline, field, hidden
    first_byte: float = 0.0
    pause: float = 0.0
    ignores_budget: bool = False
    grouped: int = 1
    """Tokens in one event."""
    malformed_after: int | None = None
    cut_after: int | None = None
    mute_after: int | None = None
    """The stream ends there, in good order but without a finish reason."""
    hang_after: int | None = None
    finish: str | None = None
    done: bool = True
    requests: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    aborts: int = 0
    sent: int = 0
    live: set = field(default_factory=set)
    most_active: int = 0
    port: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def active(self):
        return len(self.live)

    def note(self, **changes):
        with self.changed:
            for name, change in changes.items():
                setattr(self, name, getattr(self, name) + change)
            self.changed.notify_all()

    def enter(self, body):
        self.live.add(id(body))
        self.most_active = max(self.most_active, self.active)

    def leave(self, body):
        self.live.discard(id(body))
        self.note()

    def wait_for(self, true):
        with self.changed:
            assert self.changed.wait_for(lambda: true(self), timeout=20)

    render = staticmethod(render)
    tokenizer = Characters()

    @asynccontextmanager
    async def engine(self, **settings):
        """An engine over this server that waits no time between attempts."""
        engine = OpenAIEngine(self.url, "tiny", **({"back_off": 0.001} | settings))
        try:
            yield engine
        finally:
            await engine.aclose()

    def raw(self, **settings):
        """An engine that goes on from raw prefixes."""
        return self.engine(**({"server": "vllm", "render": render} | settings))

    async def once(self, engine, *, fate="kept", **given):
        """One generation: its chunk (or error), the ledger, the branch."""
        ledger = Ledger()
        branch = engine.open("q", ledger=ledger)
        try:
            chunk = await branch.generate(**({"max_tokens": 100} | given))
        except LaunchError as error:
            chunk = error
        await branch.close(fate)
        return chunk, ledger, branch

    def one(self, make, **given):
        """The same, in a loop of its own, and the engine."""

        async def go():
            async with make as engine:
                return *await self.once(engine, **given), engine

        return asyncio.run(asyncio.wait_for(go(), 60))

    async def serve(self, ready, over):
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await asyncio.to_thread(over.wait)
        server.close()

    async def connected(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return writer.close()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = json.loads(await reader.readexactly(int(fields["content-length"])))
        self.requests.append(body)
        self.headers.append(head)
        self.enter(body)
        answer = asyncio.create_task(self.answer(head.split()[1], body, writer))
        gone = asyncio.create_task(reader.read(1))
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        # The client is seen to go by the end of what it sends, or by a write that fails, whichever comes first.
        if not answer.done() or isinstance(answer.exception(), ConnectionError):
            answer.cancel()
            self.note(aborts=1)
        gone.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        self.leave(body)
        writer.close()

    async def answer(self, path, body, writer):
        if self.drop:
            self.drop -= 1
            return writer.transport.abort()
        refusal = self.refusal(body)
        if refusal is not None:
            status, headers, message = refusal
            text = json.dumps({"error": {"message": message}}).encode()
            lines = [f"HTTP/1.1 {status} No", "Connection: close", f"Content-Length: {len(text)}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + text)
            return await writer.drain()
        await asyncio.sleep(self.first_byte)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        await self.stream(body, Wire(writer), chat="chat" in path)

    def refusal(self, body):
        if self.failures:
            return self.failures.pop(0)
        options = body.get("stream_options")
        known = {"all": 2, "include_usage": 1, "nothing": 0}[self.knows]
        if options is not None and len(options) > known:
            return 400, {}, "unknown field"
        return None

    async def stream(self, body, wire, *, chat):
        said, reason, stopped = self.text_for(body)
        if chat:
            wire.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        each = self.usage == "each" and "continuous_usage_stats" in body.get("stream_options", {})
        state = {"thinking": False}
        for start in range(0, len(said), self.grouped):
            group = said[start : start + self.grouped]
            for name, act in (("malformed_after", wire.garbage), ("cut_after", wire.cut), ("mute_after", wire.end)):
                if getattr(self, name) is not None and start >= getattr(self, name):
                    return await act()
            if self.hang_after is not None and start >= self.hang_after:
                await asyncio.sleep(3600)
            choice = self.choice(body, group, chat=chat, state=state)
            self.note(sent=len(group))
            if choice is not None:
                wire.event({"choices": [choice]} | (self.report(body, start + len(group)) if each else {}))
            await wire.drain()
            await asyncio.sleep(self.pause)
        # End-of-sequence is a token, and has no text.
        count = len(said) + (reason == "stop" and not stopped)
        ids = {"token_ids": [0]} if "return_token_ids" in body and count > len(said) else {}
        ids |= self.detail(body, ["<eos>"], chat=chat) if count > len(said) else {}
        end = {"index": 0, "finish_reason": self.finish or reason, "delta": {}, "text": ""} | ids
        wire.event({"choices": [end]} | (self.report(body, count) if each else {}))
        if self.usage != "none" and "include_usage" in body.get("stream_options", {}):
            wire.event({"choices": []} | self.report(body, count))
        self.note(sent=count - len(said))
        self.leave(body)  # before the client can know, or its next request would seem to overlap with this one
        await wire.end(done=self.done)

    def text_for(self, body):
        """The tokens that this request is answered with, why they end, and whether by a stop string."""
        said, prefix = list(self.say(body) if self.say else self.tokens), prefix_of(body)
        while said and prefix:
            token = said.pop(0)
            if not prefix.startswith(token):
                said.insert(0, token[len(prefix) :])
                break
            prefix = prefix[len(token) :]
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        for place in range(len(said)):
            if any(stop in "".join(said[: place + 1]) for stop in body.get("stop", ())):
                return said[: place + 1], "stop", True
        cut = limit <= len(said) and not self.ignores_budget
        return (said[:limit], "length", False) if cut else (said, "stop", False)

    def choice(self, body, group, *, chat, state):
        text = "".join(group)
        detail = self.detail(body, group, chat=chat) | ({"index": 0, "finish_reason": None})
        if "return_token_ids" in body:
            detail["token_ids"] = [ord(token) for token in group]
        if not chat:
            return detail | {"text": text}
        if self.thinking == "inline":
            return detail | {"delta": {"content": text}}
        if text in ("<think>", "</think>"):
            state["thinking"] = text == "<think>"
            return None  # a reasoning parser keeps the tags
        if state["thinking"]:
            return None if self.thinking == "hidden" else detail | {"delta": {"reasoning_content": text}}
        return detail | {"delta": {"content": text}}

    def detail(self, body, group, *, chat):
        if not body.get("logprobs") or self.logprobs == "missing":
            return {}
        top = body["top_logprobs"] if chat else body["logprobs"]
        values = [-0.5 - place for place in range(top + (self.logprobs == "one more"))]
        if chat:
            tops = [{"token": f"t{value}", "logprob": value} for value in reversed(values)]
            return {
                "logprobs": {"content": [{"token": t, "logprob": -0.5, "top_logprobs": tops} for t in group]},
            }
        tops = {f"t{value}": value for value in reversed(values)}
        return {
            "logprobs": {"tokens": group, "token_logprobs": [-0.5] * len(group), "top_logprobs": [tops] * len(group)}
        }

    def report(self, body, count):
        given = {"prompt_tokens": 11, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": 4}}
        if self.thinking == "hidden":
            given["completion_tokens_details"] = {"reasoning_tokens": self.tokens.index("</think>") + 1}
        return {"usage": given}


class Wire:
    """Chunks of one answer."""

    def __init__(self, writer):
        self.writer = writer

    def data(self, text):
        raw = f"data: {text}\n\n".encode()
        self.writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")

    def event(self, value):
        self.data(json.dumps(value, ensure_ascii=False))

    async def drain(self):
        await self.writer.drain()

    async def garbage(self):
        self.data('{"choices": [')
        await self.end()

    async def cut(self):
        # The connection ends inside the answer. (A reset could also take back what was sent before it.)
        await self.drain()

    async def end(self, *, done=False):
        if done:
            self.data("[DONE]")
        self.writer.write(b"0\r\n\r\n")
        await self.drain()


@pytest.fixture
def fault_server():
    server, ready, over = FaultServer(), threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(ready, over)), daemon=True)
    thread.start()
    assert ready.wait(timeout=20)
    yield server
    over.set()
    thread.join(timeout=20)


@pytest.fixture
def on_tiny_model():
    """Runs a coroutine function with an engine over a small random decoder, and its model and tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from laconic.inference.engines.transformers import TransformersEngine
    from laconic.training.scratch import bpe_tokenizer, symbolic_tokenizer

    def run(work, *, seed=0, hidden=32, layers=2, tokens="symbolic"):
        symbols = [*map(str, range(30)), *"+-*/=;"]
        tokenizer = symbolic_tokenizer(symbols) if tokens == "symbolic" else bpe_tokenizer(["a b c"], vocab_size=270)
        config = AutoConfig.for_model(
            "llama",
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(seed)
        # Double precision and large weights: what is computed in another order comes to the same tokens.
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(5.0 if weight.ndim > 1 else 1.0)

        async def go():
            engine = TransformersEngine(model, tokenizer)
            try:
                return await work(engine)
            finally:
                await engine.aclose()

        return asyncio.run(asyncio.wait_for(go(), 60))

    return run


class Served:
    """A server of this project on loopback, in a thread with an event loop of its own."""

    def __init__(
        self,
        engine,
        *,
        policy="plain",
        name="tiny",
        opens_thinking=False,
        tokenizer=None,
        retriever=None,
        engines=None,
        **settings,
    ):
        import httpx

        from laconic.inference.opening import Opened
        from laconic.inference.policies.choose import parse_choice
        from laconic.inference.server.service import Service
        from laconic.inference.server.serving import Server
        from laconic.inference.server.settings import Settings
        from laconic.inference.sockets import bind

        opened = Opened(engine, name, tokenizer=tokenizer, opens_thinking=opens_thinking)
        self.engine, self.key = engine, settings.get("key")
        given = {"retriever": retriever, "engines": engines}
        self.service = Service(opened, parse_choice(policy), settings=Settings(**settings), **given)
        listener, ready = bind("127.0.0.1", 0), threading.Event()
        self.place = listener.getsockname()
        self.url = f"http://127.0.0.1:{self.place[1]}"
        # One client for all of a server's requests: to make one takes longer than to answer them.
        self.http = httpx.Client(base_url=self.url, timeout=30, verify=False)
        self.server = Server(self.service, ready=ready.set)
        self._thread = threading.Thread(target=self.server.run_on, args=[listener], daemon=True)
        self._thread.start()
        assert ready.wait(timeout=20)

    def options(self):
        return {"base_url": f"{self.url}/v1", "api_key": self.key or "none needed", "max_retries": 0}

    def client(self):
        """The official client."""
        import openai

        return openai.OpenAI(**self.options(), http_client=self.http)

    def stop(self):
        self.server.should_exit = True

    def join(self):
        self._thread.join(timeout=20)
        self.http.close()
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def serving():
    """Starts servers, `serving(engine, policy=..., **settings)`, and stops them in the end, all at once."""
    started = []

    def start(*given, **settings):
        started.append(Served(*given, **settings))
        return started[-1]

    yield start
    for server in started:
        server.stop()
    for server in started:
        server.join()
