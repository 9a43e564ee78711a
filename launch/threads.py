"""How many threads each rank computes with, chosen from what the machine is doing now.

Two torch threads on two idle cores are nearly twice as fast as one; beside other work they wait for each other and can
be ten times slower. So threads are given to idle cores only.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from laconic.launch.machine import usable_cores

_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Threads:
    """The choice, and why."""

    count: int
    """Threads per rank."""
    reason: str


def choose_threads(ranks: int, *, requested: int | None = None, cores: int | None = None) -> Threads:
    """Choose OMP_NUM_THREADS for each of `ranks` processes on this machine.

    `requested` wins, then OMP_NUM_THREADS of the environment, then the idle cores divided by the ranks.
    """
    if requested is not None:
        return Threads(requested, "as --threads asks")
    if inherited := os.environ.get("OMP_NUM_THREADS", ""):
        # OpenMP allows a list, one number per nesting level; the first is the one that counts here.
        return Threads(int(inherited.split(",")[0]), "as OMP_NUM_THREADS in the environment asks")
    cores = cores or usable_cores()
    busy = busy_cores()
    return Threads(threads_for(cores, busy, ranks), f"{cores} cores of which {busy:.1f} are busy")


def threads_for(cores: int, busy: float, ranks: int) -> int:
    """Idle cores (rounded, so that a trace of other work costs none) divided by ranks, at least 1."""
    return max(1, round(cores - busy) // ranks)


def busy_cores(seconds: float = 0.5) -> float:
    """Cores in use by others: the load average of the last minute, or what is seen now if that is less.

    The load average still holds what has just ended (an installation, a killed run), a short look does not; but a short
    look misses work that pauses only now, so the average is what counts when both are low. Cores that the host has
    taken from this virtual machine count as busy.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if not _STAT.is_file():
        return load
    before = _cpu_seconds(_STAT.read_text())
    time.sleep(seconds)
    after = _cpu_seconds(_STAT.read_text())
    used, stolen = ((late - early) / seconds for early, late in zip(before, after, strict=True))
    return min(load, used) + stolen


def _cpu_seconds(stat: str) -> tuple[float, float]:
    """Seconds all cores have computed, and seconds stolen by the host, since boot (proc(5), first line)."""
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in stat.split()[1:9])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks, steal / ticks
