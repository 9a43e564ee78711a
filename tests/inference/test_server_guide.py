"""The lines of docs/guides/serve.md, against a server."""

from __future__ import annotations

import re
from pathlib import Path

from laconic.inference.engines.scripted import ScriptedEngine

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "serve.md"


def test_the_client_of_the_guide_works(serving, capsys):
    engine = ScriptedEngine(lambda context: ["<think>", " 3 + 4 = 7", "</think>", " 7"][3 * bool(context.text) :])
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    names["ask"](f"{serving(engine).url}/v1", "tiny")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [" 3 + 4 = 7", " 7", "stop 5"]
    assert lines[3].startswith("plain {'think': {'kept': 3, ")
    assert [line.strip() for line in lines[4:]] == ["7", "25"]
