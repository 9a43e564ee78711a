"""Where a result file comes from, in one sentence."""

from __future__ import annotations

from typing import Any


def provenance_line(results: dict[str, Any], command: str, file: str) -> str:
    """Command, commit, machine and file.

    Args:
        results: A result file with its ``provenance``.
        command: What made it.
        file: Its name in bench/results.
    """
    facts = results["provenance"]
    commit = facts["commit"]["hash"][:10] if facts["commit"] else "not under version control"
    return (
        f"Made by `{command}` at commit {commit} on {facts['hardware']['cpu']}, {facts['hardware']['cores']} cores; "
        f"the file is `bench/results/{file}`."
    )
