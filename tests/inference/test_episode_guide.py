"""The code of docs/guides/search-episodes.md, and what its tables say."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.episode import PROTOCOLS
from laconic.inference.policies import POLICIES
from laconic.inference.policies.searching import Searching
from laconic.inference.retrieval.bm25 import Bm25Retriever
from laconic.inference.retrieval.documents import Document

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "search-episodes.md"
CORPUS = [Document("a", "Lima is the capital of Peru."), Document("b", "Oslo is the capital of Norway.")]


def turn(context):
    """Asks for the country it was asked about, and answers with the first word of what it finds."""
    country = re.search(r"Question: (\w+)", context.prompt)[1]
    if "</information>" not in context.text:
        return list(f"<search>capital of {country}</search>")
    return list(f"<answer>{re.search(r'Doc 1 (.*?) ', context.text)[1]}</answer>")


def test_the_code_of_the_guide_works(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    retriever = Bm25Retriever.from_documents(CORPUS)
    peru, norway = asyncio.run(names["answer_all"](ScriptedEngine(turn), retriever, ["Peru ?", "Norway ?"]))
    assert (peru.answer, norway.answer) == ("Lima", "Oslo")
    names["show"](peru)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("Lima answer ['capital of Peru'] ('a'")
    assert second == f"{peru.ledger.generated} {peru.ledger.forced} 0"


def test_the_tables_name_every_protocol_and_policy():
    named = set(re.findall(r"^\| `(\w+)`", GUIDE.read_text(), re.MULTILINE))
    assert named == set(PROTOCOLS) | {name for name, item in POLICIES.items() if issubclass(item.policy, Searching)}
