"""The guide's code runs in order and prints what the guide says."""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "knowledge-world.md"


def test_the_guide_prints_what_it_says(capsys):
    names = {}
    shown = 0
    blocks = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", GUIDE.read_text(), re.DOTALL)
    for code, output in blocks:
        exec(code, names)
        printed = capsys.readouterr().out
        if output:
            shown += 1
            assert printed == output
    assert (len(blocks), shown) == (5, 3)
    assert {row["kind"] for each in names["rows"] for row in each["pieces"]} == {"generated", "retrieved"}
