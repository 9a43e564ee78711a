"""One process of a connectivity check: meet the others, compare, add numbers up together, name who is missing.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=node-a MASTER_PORT=29500 python -m laconic.launch.meeting --backends gloo

Prints findings as JSON Lines, as they are made. It is a process of its own because a collective that hangs can only be
ended from outside, and NCCL ends its process when one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

from laconic.launch.findings import Finding

COMPARED = ("laconic", "torch", "transformers", "trl", "accelerate", "deepspeed")
"""Packages that have to be the same on all nodes."""
_NUMBERS = 1 << 16
_FAREWELL = 10.0
"""Seconds that the process with the store stays for the others to read it."""
_CURES = {
    "gloo": "set GLOO_SOCKET_IFNAME to the interface that connects the nodes (see `ip -brief address`), and let each "
    "host's name resolve to its address",
    "nccl": "set NCCL_SOCKET_IFNAME to the interface that connects the nodes; NCCL_DEBUG=INFO says where it stops, "
    "NCCL_IB_DISABLE=1 and NCCL_P2P_DISABLE=1 leave out InfiniBand and direct copies; look at /dev/shm",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Take part in one check; returns 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default="gloo", help="gloo, nccl or gloo,nccl")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for others, each time")
    parser.add_argument("--hosts", default="", help="names of all hosts by rank, comma-separated")
    parser.add_argument("--shared", type=Path, help="a folder that all of them should see")
    options = parser.parse_args(argv)
    status = 0
    for found in _Member(options).check():
        print(json.dumps({"subject": found.subject, "state": found.state, "text": found.text, "cure": found.cure}))
        sys.stdout.flush()
        status = 1 if found.state == "problem" else status
    return status


class _Member:
    """This process among the others."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        self.timeout, self.shared = options.timeout, options.shared
        self.backends = options.backends.split(",")
        self.expected = [name for name in options.hosts.split(",") if name]
        self.store: Any = None

    def check(self) -> Iterator[Finding]:
        """Everything, in order; ends early where the rest could only fail."""
        where = f"{self.place[0]}:{self.place[1]}"
        try:
            self.store = self._open()
        except RuntimeError as error:
            yield _unreachable(self.rank, where, self.timeout, error)
            return
        roll = self._roll()
        if isinstance(roll, Finding):
            yield roll
            return
        hosts = ", ".join(dict.fromkeys(one["host"] for one in roll))
        yield Finding("rendezvous", "ok", f"{self.size} processes met at {where}: {hosts}")
        yield from differences(roll)
        for backend in self.backends:
            if backend == "gloo" or all(one["gpus"] for one in roll):
                yield self._collective(backend, [one["host"] for one in roll])
        self._leave()

    def _open(self) -> Any:
        from torch.distributed import TCPStore

        # torchrun keeps a store at this place itself.
        opens = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        given = {"is_master": opens, "wait_for_workers": False, "timeout": timedelta(seconds=self.timeout)}
        return TCPStore(*self.place, self.size, **given)

    def _roll(self) -> list[dict[str, Any]] | Finding:
        """Who is there, by rank; a finding if somebody is not."""
        if self.rank == 0:
            self.store.set("shared", self._leave_note())
        unheard = Finding("rendezvous", "problem", "rank 0 stopped answering", cure="see what it printed")
        try:
            self.store.set(f"here/{self.rank}", json.dumps(self._about()))
            if self.rank == 0:
                missing = self._missing("here")
                self.store.set("missing", json.dumps(missing))
            self.store.wait(["missing"], timedelta(seconds=self.timeout + _FAREWELL))
        except RuntimeError:
            return unheard
        if missing := json.loads(self.store.get("missing")):
            self._leave(missing)
            return self._absent(missing)
        return [json.loads(self.store.get(f"here/{rank}")) for rank in range(self.size)]

    def _about(self) -> dict[str, Any]:
        import torch

        self.store.wait(["shared"], timedelta(seconds=self.timeout))
        note = self.store.get("shared").decode()
        return {
            "host": socket.gethostname(),
            "gpus": torch.cuda.device_count(),
            "versions": {name: _version(name) for name in COMPARED},
            "sees": not note or Path(note).is_file(),
            "shared": str(self.shared or ""),
        }

    def _leave_note(self) -> str:
        """Path of a file for the others to find; empty where no folder is asked about."""
        if self.shared is None:
            return ""
        self.shared.mkdir(parents=True, exist_ok=True)
        self._note = self.shared.absolute() / f".doctor-{uuid.uuid4().hex}"
        self._note.write_text("written by `laconic doctor --nodes`; may be deleted\n")
        return str(self._note)

    def _missing(self, key: str, seconds: float | None = None, within: Sequence[int] | None = None) -> list[int]:
        """Ranks whose key does not come in time."""
        deadline = time.monotonic() + (self.timeout if seconds is None else seconds)
        lacking = []
        for rank in range(self.size) if within is None else within:
            left = max(0.01, deadline - time.monotonic())
            try:
                self.store.wait([f"{key}/{rank}"], timedelta(seconds=left))
            except RuntimeError:
                lacking.append(rank)
        return lacking

    def _absent(self, ranks: Sequence[int]) -> Finding:
        names = ", ".join(self._name(rank) for rank in ranks)
        return Finding(
            "rendezvous",
            "problem",
            f"{len(ranks)} of {self.size} did not come within {self.timeout:g} s: {names}",
            cure="look whether that node is up, runs this command, and reaches "
            f"{self.place[0]}:{self.place[1]} (firewall, name resolution)",
        )

    def _name(self, rank: int, hosts: Sequence[str] = ()) -> str:
        known = hosts or self.expected
        return f"{known[rank]} (rank {rank})" if rank < len(known) else f"rank {rank}"

    def _collective(self, backend: str, hosts: Sequence[str]) -> Finding:
        """Add up one number from each process, and say whose does not arrive."""
        error, milliseconds = "", 0.0
        try:
            milliseconds = self._all_reduce(backend)
        except (RuntimeError, ValueError) as raised:
            error = str(raised).strip().splitlines()[0]
        end = f"end/{backend}"
        self.store.set(f"{end}/{self.rank}", error)
        silent = self._missing(end, self.timeout + _FAREWELL)
        ends = {rank: self.store.get(f"{end}/{rank}").decode() for rank in range(self.size) if rank not in silent}
        wrong = {rank: text for rank, text in ends.items() if text}
        if not silent and not wrong:
            text = f"all_reduce over {self.size} process{'es' if self.size > 1 else ''} in {milliseconds:.0f} ms"
            return Finding(backend, "ok", text)
        told = [f"{self._name(rank, hosts)}: {text}" for rank, text in wrong.items()]
        told += [f"{self._name(rank, hosts)}: no answer" for rank in silent]
        return Finding(backend, "problem", f"all_reduce fails; {'; '.join(told)}", cure=_CURES[backend])

    def _all_reduce(self, backend: str) -> float:
        """Milliseconds of the second of two; the first one also connects."""
        import torch
        from torch import distributed

        device = torch.device("cpu")
        if backend == "nccl":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        limit = timedelta(seconds=self.timeout)
        store = distributed.PrefixStore(backend, self.store)
        distributed.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=limit)
        for _ in range(2):
            numbers = torch.full((_NUMBERS,), float(self.rank + 1), device=device)
            started = time.perf_counter()
            distributed.all_reduce(numbers)
            total = float(numbers.max())
        spent = (time.perf_counter() - started) * 1e3
        distributed.destroy_process_group()
        if total != self.size * (self.size + 1) / 2:
            raise ValueError(f"the sum is {total:g}, not {self.size * (self.size + 1) / 2:g}")
        return spent

    def _leave(self, missing: Sequence[int] = ()) -> None:
        """Say goodbye; the process with the store goes last."""
        self.store.set(f"bye/{self.rank}", "")
        if self.rank == 0:
            self._missing("bye", _FAREWELL, [rank for rank in range(self.size) if rank not in missing])
            if self.shared is not None:
                self._note.unlink(missing_ok=True)


def differences(roll: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """What is not the same on all nodes and has to be.

    Args:
        roll: By rank: `host`, `gpus`, `versions`, whether it `sees` the `shared` folder.
    """
    first = roll[0]
    for name in COMPARED:
        other = {one["host"]: one["versions"][name] for one in roll if one["versions"][name] != first["versions"][name]}
        if other:
            text = ", ".join(f"{host} has {version or 'none'}" for host, version in other.items())
            yield Finding(
                "versions",
                "problem",
                f"{name}: {first['host']} has {first['versions'][name] or 'none'}, {text}",
                cure="use one environment that all nodes see",
            )
    if blind := [one["host"] for one in roll if not one["sees"]]:
        text = f"{', '.join(blind)} cannot see what {first['host']} writes to {first['shared']}"
        yield Finding("shared folder", "problem", text, cure="name a folder on a shared disk with --runs")
    if len({one["gpus"] for one in roll}) > 1:
        text = ", ".join(f"{one['host']} {one['gpus']}" for one in roll)
        yield Finding("gpus", "problem", f"not as many on every node: {text}", cure="look at nvidia-smi there")


def _unreachable(rank: int, where: str, seconds: float, error: RuntimeError) -> Finding:
    said = str(error).strip().splitlines()[0]
    if rank == 0:
        text = f"{socket.gethostname()} (rank 0) cannot listen at {where}: {said}"
        cure = "set MASTER_PORT to a free port and MASTER_ADDR to a name of this host"
        return Finding("rendezvous", "problem", text, cure=cure)
    text = f"{socket.gethostname()} (rank {rank}) cannot reach {where} within {seconds:g} s: {said}"
    cure = "look whether rank 0 runs there, and whether a firewall or another network stands between them"
    return Finding("rendezvous", "problem", text, cure=cure)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
