"""Runs one command and ends it, with everything it started, when the process that asked for it is gone.

    python guard.py COMMAND...

`laconic run` holds the other end of this process's standard input. However that process ends, `kill -9` included, the
pipe closes and the guard ends the command's process group. Standard library only, and run as a file: it starts in
milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE = 10.0
"""Seconds between asking the command to end and killing it."""


def main() -> int:
    """Run the command of `sys.argv`; returns its exit status as a shell would (128 + signal number)."""
    # The command shares this process's group, which is signalled as a whole; the guard itself has to outlive it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    orphaned = threading.Event()
    watcher = threading.Thread(target=_watch, args=(command, orphaned), daemon=True)
    watcher.start()
    status = command.wait()
    if orphaned.is_set():
        watcher.join()
    return 128 - status if status < 0 else status


def _watch(command: subprocess.Popen[bytes], orphaned: threading.Event) -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: this returns when the other end is closed
    orphaned.set()
    # torchrun puts its ranks in groups of their own and ends them itself when it is asked to end.
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        command.wait(GRACE)
    # Whatever ignored the request goes now, the guard with it.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
