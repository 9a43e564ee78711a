"""Waits until a server answers, and no longer than its process lives.

    python -m laconic.launch.await_server http://node-c:20001/health --process 4711

Standard library only. Exit code 0: it answers; 1: it ended or took too long.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

_BETWEEN = 2.0
"""Seconds between two attempts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Wait as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="answers with status 200 once the server is ready")
    parser.add_argument("--process", type=int, help="id of the process that runs it")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds (default: %(default)g)")
    options = parser.parse_args(argv)
    started = time.monotonic()
    while not answers(options.url):
        waited = time.monotonic() - started
        if options.process is not None and not lives(options.process):
            return _failed(f"the server of {options.url} ended before it answered", "its messages stand above")
        if waited > options.timeout:
            return _failed(f"no answer from {options.url} within {waited:.0f} s", "give it longer with --timeout")
        time.sleep(_BETWEEN)
    print(f"{options.url} answers after {time.monotonic() - started:.0f} s", flush=True)
    return 0


def answers(url: str) -> bool:
    """Whether a request is answered with status 200."""
    # A cluster's proxy knows nothing of its nodes.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def lives(process: int) -> bool:
    """Whether there is a process of this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _failed(text: str, cure: str) -> int:
    print(f"error: {text}\n  -> {cure}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
