"""What `laconic doctor` says is there, is missing, and mends it; and nodes that meet, as real processes on loopback."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from laconic.inference.sockets import bind
from laconic.launch import machine_check
from laconic.launch.collectives import collectives, ranks
from laconic.launch.machine_check import disk, port, shared_memory
from laconic.launch.meeting import COMPARED, differences
from laconic.launch.package_check import bringing, constraints, declared, in_range, packages, requirements
from laconic.rewards.errors import LaunchError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("version", "tested", "good"),
    [
        ("1.16.0", ">=1.16,<1.17", True),
        ("1.17.0", ">=1.16,<1.17", False),
        ("1.9", ">=1.16", False),
        ("2.13.0+cpu", ">=2.9", True),
        ("5", ">=5,<6", True),
        ("6.0.0rc1", ">=5,<6", False),
        ("3.0", "", True),
    ],
)
def test_tested_ranges(version, tested, good):
    assert in_range(version, tested) is good


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("numpy", "pip install laconic"),
        ("trl", "pip install 'laconic[train]' brings it"),
        ("torch", "pip install 'laconic[train]' brings it (so does dense)"),
        ("numba", "pip install 'laconic[bm25-numba]' brings it"),
        ("bm25s", "pip install 'laconic[search]' brings it (so does bm25-numba)"),
        ("opensearch-py", "pip install 'laconic[opensearch]' brings it"),
        ("qdrant-client", "pip install 'laconic[qdrant]' brings it"),
        ("starlette", "pip install 'laconic[serve]' brings it (so does search)"),
        ("vllm", "pip install 'laconic[vllm]' brings it"),
        ("pytest", "pip install 'laconic[dev]' brings it"),
    ],
)
def test_a_missing_package_comes_with_the_extra_that_has_it(name, cure):
    found = {one.name: one for one in requirements(declared())}
    assert bringing(found[name]) == cure


def test_outside_a_checkout_the_installed_metadata_counts(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert declared(tmp_path) == metadata.requires("laconic")


def test_every_package_that_is_imported_is_declared():
    names = {one.name.replace("-", "_").lower() for one in requirements(declared())}
    modules = {"pyyaml": "yaml", "opensearch_py": "opensearchpy"}
    known = {modules.get(name, name) for name in names} | {"laconic"} | sys.stdlib_module_names
    # What transformers, pydantic, jinja2 and uvicorn are made of.
    known |= {"tokenizers", "huggingface_hub", "safetensors", "pydantic_core", "markupsafe", "h11"}
    foreign = {}
    for folder in ("rewards", "inference", "data_gen", "recipes", "training", "eval", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found = [alias.name for alias in node.names]
                else:
                    found = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                foreign |= {name: path.name for name in found if name.partition(".")[0] not in known}
    assert foreign == {}


def test_installed_packages_have_their_version():
    found = {finding.subject: finding for finding in packages()}
    assert found["numpy"].state == "ok"
    assert found["numpy"].text == f"{metadata.version('numpy')} (tested: >=2)"


def test_versions_beside_those_that_are_tested_together(tmp_path):
    numpy = metadata.version("numpy")
    file = tmp_path / "constraints.txt"
    file.write_text(f"# together\nnumpy=={numpy}\nnot-installed==1.0\n")
    assert [found.state for found in constraints(file)] == ["ok"]
    file.write_text(f"numpy==1.0\npydantic=={metadata.version('pydantic')}\n")
    (found,) = constraints(file)
    assert (found.state, found.text) == (
        "note",
        f"1 of 2 versions differ from constraints.txt: numpy {numpy} (not 1.0)",
    )
    assert constraints(tmp_path / "absent") == []


Usage = namedtuple("Usage", "total used free")


def test_little_space_and_little_shared_memory_are_problems_with_a_cure(tmp_path, monkeypatch):
    assert shared_memory(8, tmp_path / "absent").state == "note"
    monkeypatch.setattr(machine_check.shutil, "disk_usage", lambda folder: Usage(64 * 2**20, 0, 10**9))
    found = shared_memory(2, tmp_path)
    assert (found.state, found.text) == ("problem", f"67.1 MB at {tmp_path}")
    assert "--shm-size=8g" in found.cure
    assert shared_memory(1, tmp_path).state == "note"
    found = disk("disk", tmp_path / "runs", cure="--runs")
    assert (found.state, found.cure) == ("problem", "--runs")
    assert found.text.startswith("1 GB free at ")


def test_a_port_that_is_taken(monkeypatch):
    with bind("0.0.0.0", 0) as listener:
        listener.listen()
        number = listener.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(number))
        found = port()
        assert found.state == "problem"
        assert f":{number}" in found.text
        assert "MASTER_PORT" in found.cure
    assert port().text == f"{number} is free"


def test_processes_that_cannot_connect_are_named_with_a_cure():
    pytest.importorskip("torch")
    environ = os.environ | {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "nowhere0"}
    (found,) = collectives(environ, timeout=3.0)
    assert (found.subject, found.state) == ("gloo", "problem")
    assert "rank 0" in found.text
    assert "nowhere0" in found.text
    assert "GLOO_SOCKET_IFNAME" in found.cure


class Node:
    """One node's `laconic doctor --nodes`."""

    def __init__(self, rank, *arguments, size, port, folder, **environ):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC_"))}
        env |= {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(size)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "COLUMNS": "300", **environ}
        command = [sys.executable, "-m", "laconic.launch.cli", "doctor", "--nodes", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=env, cwd=folder, **pipes)

    def result(self):
        out, err = self.process.communicate(timeout=120)
        assert err == ""
        return self.process.returncode, out


@pytest.fixture
def free_port():
    with bind("127.0.0.1", 0) as listener:
        return listener.getsockname()[1]


def test_nodes_that_meet_say_so_once(tmp_path, free_port):
    pytest.importorskip("torch")
    given = {"size": 2, "port": free_port, "folder": tmp_path, "CUDA_VISIBLE_DEVICES": ""}
    (status, first), other = (node.result() for node in [Node(rank, **given) for rank in (0, 1)])
    assert status == 0, first
    assert f"2 processes met at 127.0.0.1:{free_port}" in first
    assert "all_reduce over 2 processes" in first
    assert other == (0, "")
    assert list((tmp_path / "runs").iterdir()) == []


def test_whoever_is_missing_is_named_by_host_to_all(tmp_path, free_port):
    pytest.importorskip("torch")
    arguments = ("--hosts", "node-a,node-b,node-c", "--timeout", "4")
    given = {"size": 3, "port": free_port, "folder": tmp_path}
    for status, out in [node.result() for node in [Node(rank, *arguments, **given) for rank in (0, 2)]]:
        assert status == 1
        assert "1 of 3 did not come within 4 s: node-b (rank 1)" in out
        assert f"reaches 127.0.0.1:{free_port}" in out


def test_a_node_whose_collective_fails_is_named(tmp_path, free_port):
    pytest.importorskip("torch")
    given = {"size": 2, "port": free_port, "folder": tmp_path, "CUDA_VISIBLE_DEVICES": ""}
    first = Node(0, "--timeout", "4", **given)
    other = Node(1, "--timeout", "4", GLOO_SOCKET_IFNAME="nowhere0", **given)
    (status, out), (second, _) = first.result(), other.result()
    assert (status, second) == (1, 1)
    assert "(rank 1): " in out
    assert "nowhere0" in out


ROLL = [
    {"host": "a", "gpus": 8, "versions": dict.fromkeys(COMPARED, "1"), "sees": True, "shared": "/data/runs"},
    {"host": "b", "gpus": 8, "versions": dict.fromkeys(COMPARED, "1"), "sees": True, "shared": "/data/runs"},
]


def test_what_differs_between_nodes():
    assert list(differences(ROLL)) == []
    other = ROLL[1] | {"gpus": 7, "versions": ROLL[1]["versions"] | {"torch": "2", "deepspeed": ""}, "sees": False}
    found = {one.subject: one.text for one in differences([ROLL[0], other])}
    texts = [one.text for one in differences([ROLL[0], other])]
    assert "torch: a has 1, b has 2" in texts
    assert "deepspeed: a has 1, b has none" in texts
    assert found["shared folder"] == "b cannot see what a writes to /data/runs"
    assert found["gpus"] == "not as many on every node: a 8, b 7"
    assert all(one.state == "problem" and one.cure for one in differences([ROLL[0], other]))


def test_the_part_of_a_process_comes_from_torchrun_or_slurm():
    place = {"MASTER_ADDR": "node-a", "MASTER_PORT": "29500"}
    slurm = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}
    assert ranks(place | slurm) == {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}
    assert ranks(place | slurm | torchrun) == torchrun
    with pytest.raises(LaunchError, match="MASTER_ADDR, MASTER_PORT not set") as caught:
        ranks(slurm)
    assert "srun" in caught.value.cure
    with pytest.raises(LaunchError, match="SLURM_NTASKS is '2x'"):
        ranks(place | slurm | {"SLURM_NTASKS": "2x"})
