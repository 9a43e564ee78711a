"""`laconic retriever` as a user runs it: index a corpus, search it, serve it, be told what is wrong."""

import asyncio
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from laconic.inference.retrieval.documents import digest_of, read_corpus
from laconic.launch.cli import app
from laconic.rewards.errors import DataError, LaunchError, RecipeError

ROWS = [
    {"id": 7, "contents": '"Berlin"\nBerlin lies on the Spree.'},
    {"id": "8", "title": "Paris", "text": "Paris lies on the Seine. " + "And so on. " * 40},
    {"id": "9", "text": "Rivers of Europe are many."},
]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def laconic(*arguments):
    done = CliRunner().invoke(app, ["retriever", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("kind", ["bm25", "fts5"])
def test_a_corpus_is_indexed_once_and_searched_from_disk(corpus, kind):
    said = laconic("index", "corpus.jsonl", "--out", "index", "--kind", kind)
    assert said.startswith(f"3 documents, {kind}, ")
    assert said.endswith(f"digest {digest_of(read_corpus(corpus))}\n")
    corpus.unlink()
    first = json.loads(laconic("search", "index", "where is the Spree", "-k", "1", "--json"))
    assert first.pop("score") > 0
    assert first == {"id": "7", "title": "Berlin", "text": "Berlin lies on the Spree."}


def test_hits_are_printed_for_people_too(corpus):
    lines = laconic("search", "corpus.jsonl", "paris rivers", "-k", "5").splitlines()
    assert [line.split()[0] for line in lines] == ["1.", "2."]
    assert {line.split("[")[1][0] for line in lines} == {"8", "9"}
    (paris,) = (line for line in lines if "[8]" in line)
    assert " Paris: Paris lies on the Seine." in paris
    assert paris.endswith("...")
    assert len(paris) < 350
    assert laconic("search", "corpus.jsonl", "unknown") == "nothing found\n"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["index", "none.jsonl", "--out", "index"], DataError, "no such file"),
        (["index", "corpus.jsonl", "--out", "index", "--kind", "other"], RecipeError, "no such index"),
        (["index", "corpus.jsonl", "--out", "index", "--kind", "dense"], RecipeError, "needs --encoder"),
        (["index", "corpus.jsonl", "--out", "."], DataError, "exists already"),
        (["search", "index", "x"], DataError, "no retriever at 'index'"),
        (["search", "http://127.0.0.1:9", "x"], LaunchError, "cannot reach http://127.0.0.1:9 "),
        (["serve", "corpus.jsonl", "--host", "203.0.113.1"], LaunchError, "cannot listen at 203.0.113.1"),
    ],
)
@pytest.mark.usefixtures("corpus")
def test_what_cannot_be_done_is_said(arguments, error, message):
    with pytest.raises(error, match=message):
        laconic(*arguments)


def test_serving_until_told_to_stop(corpus):
    command = [sys.executable, "-m", "laconic.launch.cli", "retriever", "serve", str(corpus), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        ready = process.stderr.readline()
        assert ready.startswith(f"serving {corpus} at http://127.0.0.1:")
        url = ready.split()[-1]
        assert url.endswith("/retrieve")
        assert json.loads(laconic("search", url, "Spree", "--json"))["id"] == "7"
        assert laconic("search", url, "Spree", "--protocol", "r1_searcher").startswith("1. 1.000 [")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_the_guide_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "retrieval.md").read_text()
    code = {kind: re.findall(rf"```{kind}\n(.*?)```", guide, re.DOTALL) for kind in ("json", "bash", "python")}
    Path("corpus.jsonl").write_text(code["json"][0])
    commands = [shlex.split(line)[2:] for line in code["bash"][0].splitlines()]
    assert len(commands) == 2
    assert [line[:2] for line in [laconic(*command) for command in commands][-1].splitlines()] == ["1.", "2."]
    names = {"__name__": "guide"}
    exec(code["python"][0], names)
    asyncio.run(names["main"]("wiki.index"))
    printed = capsys.readouterr().out.splitlines()
    assert [printed[0][:1], printed[2][:1], printed[-1]] == ["1", "2", "1"]
