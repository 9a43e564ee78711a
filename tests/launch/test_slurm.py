"""Slurm scripts: what they ask for, and what they call on which node, run against stand-ins for the cluster."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from laconic.inference.sockets import bind
from laconic.launch.await_server import main as await_server
from laconic.launch.options import Options
from laconic.launch.plan import slurm_script
from laconic.launch.slurm import TEMPLATE
from laconic.launch.vllm_node import server_line, wants_server
from laconic.recipes.folder import MANIFEST, StageFolder
from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe
from laconic.rewards.errors import LaunchError
from laconic.training.vllm_server import VARIABLE, server_address

RECIPE = """
name: planned
problems: {source: reasoning_gym, families: [countdown], train: 400, test: 100}
model: {scratch: {hidden_size: 32, layers: 2, heads: 2, max_length: 128}}
stages:
  - {kind: generate, name: teach, teacher: {styles: {short: 1.0}}}
  - {kind: sft, batch_size: 32, trainer: {max_steps: 4}}
  - {kind: grpo, rewards: [{name: accuracy}], batch_size: 64, trainer: {num_generations: 8, max_completion_length: 64}}
  - {kind: eval, limit: 20, sampling: {max_tokens: 64}}
"""
SERVED = ("grpo.trainer.use_vllm=true", "grpo.trainer.vllm_mode=server")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "planned.yaml"
    path.write_text(RECIPE)
    return path


def script(recipe, request, *, profile, sets=()):
    text = slurm_script(Options(recipe, overrides=tuple(sets), profile=profile), request)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    return text


def stage_of(recipe, *sets):
    return resolve(load_recipe(recipe, overrides=sets), Path("runs")).stage("grpo")


def test_one_node(recipe):
    text = script(recipe, "gpus=4,time=2-00:00:00,partition=big", profile="zero2")
    lines = text.splitlines()
    for directive in ("nodes=1", "gpus-per-node=4", "time=2-00:00:00", "partition=big", "requeue", "open-mode=append"):
        assert f"#SBATCH --{directive}" in lines
    assert lines[-1] == f"laconic run {recipe} --profile zero2 --processes 4"
    assert "srun" not in text


FAKES = {
    "scontrol": "printf '%s\\n' $HOST_NAMES",
    "laconic": '[[ $1 == doctor ]] && echo "laconic $* from $MASTER_ADDR:$MASTER_PORT" >> "$CALLS" && '
    'exit "${DOCTOR_STATUS:-0}"; echo "laconic $*" >> "$CALLS"',
    "srun": "nodes=2; [[ $1 == laconic ]] && nodes=1\n"
    'while [[ $1 == --* ]]; do\n  [[ $1 == --nodes=* ]] && nodes=${1#*=}\n  [[ $1 == --nodelist=* ]] && echo "$1" >> '
    '"$CALLS"\n  shift\ndone\n((nodes == 1)) && SLURM_NODEID=0 exec "$@"\n'
    'for ((node = 0; node < nodes; node++)); do SLURM_NODEID=$node "$@"; done',
    "accelerate": 'echo "accelerate $* by ${LACONIC_VLLM_SERVER:-nobody}" >> "$CALLS"',
    "python": f'exec {shlex.quote(sys.executable)} "$@"',
    "trl": f'echo "trl $*" >> "$CALLS"; [[ -n ${{TRL_STATUS:-}} ]] && exit "$TRL_STATUS"\n'
    f'exec {shlex.quote(sys.executable)} "$SERVER_FAKE" "${{@: -1}}" "$CALLS"',
}
"""Stand-ins for the cluster's commands: they note how the script calls them."""
SERVER = """
import http.server, signal, sys, time
port, calls = int(sys.argv[1]), sys.argv[2]
started = time.monotonic()
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # Loading a model takes time, and a server that loads may answer that it does.
        self.send_response(200 if self.path == "/health" and time.monotonic() > started + 1 else 503)
        self.end_headers()
    def log_message(self, *_): pass
def ended(*_):
    open(calls, "a").write("trl ended\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, ended)
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


class Cluster:
    """Runs scripts with the stand-ins."""

    def __init__(self, folder, hosts):
        self.folder, self.bin, self.calls = folder, folder / "bin", folder / "calls"
        self.bin.mkdir()
        for name, body in FAKES.items():
            (self.bin / name).write_text(f"#!/bin/bash\n{body}\n")
            (self.bin / name).chmod(0o755)
        (folder / "server.py").write_text(SERVER)
        self.env = {"SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_NODELIST": "some", "HOST_NAMES": hosts}
        self.env |= {"PATH": "/usr/bin:/bin", "CALLS": str(self.calls), "SERVER_FAKE": str(folder / "server.py")}

    def run(self, text, *, job="12345", **env):
        self.calls.write_text("")
        text = text.replace(f"export PATH={Path(sys.executable).parent}:", f"export PATH={self.bin}:")
        given = {"env": self.env | {"SLURM_JOB_ID": job} | env, "cwd": "/", "timeout": 60}
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False, **given)
        return done, self.calls.read_text().splitlines()


def test_two_nodes_call_every_stage_on_the_right_nodes(recipe, tmp_path):
    sets = ("description=it's a 'test'",)
    text = script(recipe, "nodes=2,gpus=8", profile="zero3", sets=sets)
    cluster = Cluster(tmp_path, "node-a node-b")
    done, calls = cluster.run(text)
    assert done.returncode == 0, done.stderr
    plan = resolve(load_recipe(recipe, overrides=sets), Path("runs"))
    run = f"laconic run {recipe} --set description=it's a 'test' --profile zero3 --processes 16"
    expected = ["laconic doctor --nodes --runs runs --hosts node-a,node-b from node-a:32345"]
    expected.append(f"{run.replace(' run ', ' plan ', 1)} --write")
    for stage in plan.stages:
        if stage.kind in ("sft", "grpo"):
            expected += [
                f"--num_processes 16 --num_machines 2 --machine_rank {rank} --main_process_ip node-a "
                f"--main_process_port 32345 -m laconic.training.{stage.kind} runs/planned/{stage.folder}/stage.yaml "
                "by nobody"
                for rank in (0, 1)
            ]
        else:
            expected.append(f"{run} --only {stage.name}")
    expected.append(run)
    assert len(calls) == len(expected)
    assert all(call.endswith(end) for call, end in zip(calls, expected, strict=True)), calls
    done, calls = cluster.run(text, DOCTOR_STATUS="1")
    assert (done.returncode, calls) == (1, expected[:1])


def free_job():
    """A job number whose port for the server, and the port itself, are free."""
    first = 30000 + os.getpid() % 5000
    for port in range(first, first + 1000):
        try:
            bind("127.0.0.1", port).close()
        except LaunchError:
            continue
        return str(port - 1 - 20000), port
    raise AssertionError("no port is free")


def test_a_vllm_server_has_a_node_of_its_own_while_its_stage_runs(recipe, tmp_path):
    text = script(recipe, "nodes=2,gpus=8", profile="zero3", sets=SERVED)
    assert "#SBATCH --nodes=3" in text.splitlines()
    cluster = Cluster(tmp_path, "node-a node-b 127.0.0.1")
    job, port = free_job()
    done, calls = cluster.run(text, job=job)
    assert done.returncode == 0, done.stderr
    assert calls[0].endswith("--hosts node-a,node-b,127.0.0.1 from node-a:" + str(port - 1))
    plan = resolve(load_recipe(recipe, overrides=SERVED), Path("runs"))
    at = calls.index("--nodelist=127.0.0.1")
    sft = f"runs/planned/{plan.stage('sft').folder}/model"
    assert calls[at + 1] == f"trl vllm-serve --model {sft} --tensor_parallel_size 2 --port {port}"
    assert calls[at + 2] == "--nodelist=node-a,node-b"
    trained = calls[at + 3 : at + 5]
    assert all(f"--num_processes 16 --num_machines 2 --machine_rank {rank} " in trained[rank] for rank in (0, 1))
    assert all(call.endswith(f"stage.yaml by 127.0.0.1:{port}") for call in trained)
    assert calls[at + 5] == "trl ended"
    assert "--only eval" in calls[at + 6]
    assert [call for call in calls[:at] if call.endswith("by nobody")] != []

    done, calls = cluster.run(text, job=job, TRL_STATUS="3")
    assert done.returncode == 1
    assert "ended before it answered" in done.stderr
    assert calls[-1].startswith("trl ")

    folder = StageFolder(plan.run_dir, plan.stage("grpo"))
    folder.prepare()
    folder.commit(1.0)
    assert (folder.path / MANIFEST).is_file()
    done, calls = cluster.run(text, job=job)
    assert (done.returncode, [call for call in calls if "trl" in call or "laconic.training.grpo" in call]) == (0, [])


def test_one_training_node_and_one_for_the_server(recipe):
    text = script(recipe, "gpus=4", profile="zero2", sets=SERVED)
    assert "#SBATCH --nodes=2" in text.splitlines()
    assert 'srun --nodes=1 --ntasks=1 --nodelist="$TRAINING" --kill-on-bad-exit=1' in text


@pytest.mark.parametrize(
    ("sets", "wanted"),
    [
        ((), False),
        (SERVED[:1], False),
        (SERVED[1:], False),
        (SERVED, True),
        ((*SERVED, "grpo.trainer.vllm_server_base_url=http://other:8000"), False),
        ((*SERVED, "grpo.trainer.vllm_server_host=other"), False),
    ],
)
def test_who_gets_a_server(recipe, sets, wanted):
    assert wants_server(stage_of(recipe, *sets)) is wanted


@pytest.mark.parametrize(
    ("heads", "kv_heads", "gpus", "parts"), [(8, 8, 8, 8), (8, 2, 8, 8), (12, 2, 8, 6), (14, 2, 8, 2), (7, 1, 4, 1)]
)
def test_a_server_takes_as_many_gpus_as_its_heads_allow(recipe, heads, kv_heads, gpus, parts):
    sizes = f"{{hidden_size: {heads * 8}, layers: 2, heads: {heads}, kv_heads: {kv_heads}, max_length: 128}}"
    stage = stage_of(recipe, *SERVED, f"model.scratch={sizes}")
    assert f"--tensor_parallel_size {parts} " in server_line(stage, Path("runs/planned"), gpus=gpus)


def test_what_the_recipe_says_of_the_server_is_passed_on(recipe):
    sets = [*SERVED, "model={path: Qwen/Qwen3-0.6B, revision: abc, dtype: bfloat16}", "grpo.model=base"]
    sets += ["grpo.trainer.vllm_max_model_length=4096", "grpo.trainer.vllm_tensor_parallel_size=2"]
    line = server_line(stage_of(recipe, *sets), Path("runs/planned"), gpus=4)
    words = shlex.split(line)
    assert words[:2] == ["trl", "vllm-serve"]
    assert dict(zip(words[2::2], words[3::2], strict=True)) == {
        "--model": "Qwen/Qwen3-0.6B",
        "--tensor_parallel_size": "2",
        "--revision": "abc",
        "--dtype": "bfloat16",
        "--max_model_len": "4096",
        "--port": "$SERVER_PORT",
    }
    with pytest.raises(LaunchError, match="vllm_tensor_parallel_size is 2, but the server's node has 1"):
        server_line(stage_of(recipe, *sets), Path("runs/planned"), gpus=1)
    with pytest.raises(LaunchError, match="needs GPUs"):
        script(recipe, "nodes=2", profile="cpu2", sets=SERVED)


def test_options_are_those_of_trls_command():
    fields = pytest.importorskip("trl.scripts.vllm_serve").ScriptArguments.__dataclass_fields__
    names = {"model", "tensor_parallel_size", "revision", "dtype", "port"}
    names |= {"gpu_memory_utilization", "max_model_len", "vllm_model_impl"}
    assert names <= set(fields)


def test_training_finds_the_server_where_the_script_says():
    assert f"{VARIABLE}=" in TEMPLATE.read_text()
    trainer = {"use_vllm": True, "vllm_mode": "server"}
    found = server_address(trainer, {VARIABLE: "node-c:20001"})
    assert found == {"vllm_server_host": "node-c", "vllm_server_port": 20001}
    assert server_address(trainer, {}) == {}
    assert server_address({"use_vllm": True}, {VARIABLE: "node-c:20001"}) == {}
    with pytest.raises(LaunchError, match="is 'node-c'"):
        server_address(trainer, {VARIABLE: "node-c"})


def test_waiting_for_a_server_ends_when_time_is_up(capsys):
    with bind("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/health"
        assert await_server([url, "--process", str(os.getpid()), "--timeout", "0.1"]) == 1
    assert "no answer from" in capsys.readouterr().err
