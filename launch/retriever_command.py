"""`laconic retriever`: index a corpus, serve it, search it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from laconic.rewards.errors import LaunchError, RecipeError

if TYPE_CHECKING:
    from laconic.inference.retrieval.documents import Document, Hit
    from laconic.inference.retrieval.stored import Manifest

app = typer.Typer(help="Index a corpus, serve it, search it.", no_args_is_help=True, rich_markup_mode=None)

Place = Annotated[
    str,
    typer.Argument(metavar="PLACE", help="An index folder, a corpus FILE.jsonl, or http://host:port of a server."),
]


@app.command("index")
def index_command(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="FILE.jsonl, or hub:NAME for a data set.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="A new folder.")],
    kind: Annotated[str, typer.Option("--kind", metavar="NAME", help="bm25, fts5 (needs nothing) or dense.")] = "bm25",
    k1: Annotated[float, typer.Option("--k1", help="Of bm25: how soon repetitions of a word count no more.")] = 1.5,
    b: Annotated[float, typer.Option("--b", help="Of bm25: how much long documents are marked down.")] = 0.75,
    encoder: Annotated[str | None, typer.Option("--encoder", metavar="MODEL", help="Of dense.")] = None,
    family: Annotated[
        str, typer.Option("--family", metavar="NAME", help="Of the encoder: e5, bge or plain (no prefixes, mean).")
    ] = "e5",
    split: Annotated[str, typer.Option("--split", help="Of a data set.")] = "train",
    config: Annotated[str | None, typer.Option("--config", help="Of a data set.")] = None,
) -> None:
    """Index a corpus into a folder, which `serve`, `search` and recipes open without indexing again."""
    started = time.monotonic()
    documents = _documents(corpus, split, config)
    manifest = _built(kind, documents, out, k1=k1, b=b, encoder=encoder, family=family)
    megabytes = sum(manifest.files.values()) / 1e6
    print(f"{manifest.documents} documents, {kind}, {megabytes:.1f} MB, {time.monotonic() - started:.1f} s: {out}")
    print(f"digest {manifest.corpus}")


def _documents(corpus: str, split: str, config: str | None) -> Iterator[Document]:
    from laconic.inference.retrieval.documents import read_corpus, read_hub

    if corpus.startswith("hub:"):
        return read_hub(corpus.removeprefix("hub:"), split=split, config=config)
    return read_corpus(corpus)


def _built(
    kind: str, documents: Iterator[Document], out: Path, *, k1: float, b: float, encoder: str | None, family: str
) -> Manifest:
    from laconic.inference.retrieval.bm25 import Bm25Retriever
    from laconic.inference.retrieval.dense import DenseRetriever
    from laconic.inference.retrieval.dense_encoder import TransformersEncoder
    from laconic.inference.retrieval.fts5 import Fts5Retriever

    if kind == "bm25":
        return Bm25Retriever.build(documents, out, k1=k1, b=b)
    if kind == "fts5":
        return Fts5Retriever.build(documents, out)
    if kind != "dense":
        raise RecipeError(f"--kind {kind}: there is no such index", cure="bm25, fts5 or dense")
    if encoder is None:
        raise RecipeError("--kind dense needs --encoder", cure="--encoder intfloat/e5-base-v2 --family e5")
    return DenseRetriever.build(documents, out, TransformersEncoder(encoder, family=family))


@app.command("serve")
def serve_command(
    place: Place,
    host: Annotated[str, typer.Option("--host", help="Where to listen; by default only this machine can connect.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    k: Annotated[int, typer.Option("--k", min=1, max=1000, help="Hits of requests that name no number.")] = 3,
) -> None:
    """Serve a retriever in the protocols of Search-R1, SkyRL, FlashRAG and R1-Searcher."""
    import ipaddress

    try:
        from laconic.inference.retrieval.server import Limits, Service
        from laconic.inference.retrieval.serving import Server
        from laconic.inference.sockets import bind, place_of
    except ImportError as error:
        raise LaunchError(f"the retrieval server needs {error.name}", cure='pip install "laconic[search]"') from None
    from laconic.inference.retrieval.opening import open_retriever

    # Before the index is opened: a taken port shows at once.
    with bind(host, port) as listener:
        service = Service(open_retriever(place), limits=Limits(k=k))
        if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            _say(f"warning: everyone who reaches {host} can search here")
        Server(service, ready=lambda: _say(f"serving {place} at {place_of(listener)}/retrieve")).run_on(listener)


@app.command("search")
def search_command(
    place: Place,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Hits.")] = 3,
    protocol: Annotated[
        str, typer.Option("--protocol", metavar="NAME", help="Of a server: search_r1, skyrl, flashrag, r1_searcher.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per hit.")] = False,
) -> None:
    """Search once, and print what was found."""
    hits = asyncio.run(_search(place, query, k, protocol))
    if not hits and not as_json:
        print("nothing found")
    for rank, hit in enumerate(hits, start=1):
        print(_as_json(hit) if as_json else _as_text(rank, hit))


async def _search(place: str, query: str, k: int, protocol: str) -> list[Hit]:
    from laconic.inference.retrieval.opening import open_retriever

    # Somebody is waiting: a server that is away is not waited for.
    client = {"patience": 0.0, "protocol": protocol} if place.startswith(("http://", "https://")) else {}
    retriever = open_retriever(place, **client)
    try:
        return (await retriever.search([query], k=k))[0]
    finally:
        await retriever.aclose()


def _as_json(hit: Hit) -> str:
    return json.dumps(hit.document.to_row() | {"score": hit.score}, ensure_ascii=False)


def _as_text(rank: int, hit: Hit) -> str:
    text = " ".join(hit.document.text.split())
    title = f" {hit.document.title}:" if hit.document.title else ""
    return f"{rank}. {hit.score:.3f} [{hit.document.id}]{title} {text[:300]}{'...' if len(text) > 300 else ''}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
