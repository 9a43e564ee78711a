"""What the machine has, and how many threads that makes."""

from __future__ import annotations

import shutil

import pytest

from laconic.launch import threads
from laconic.launch.environment import stage_environment, wandb_mode
from laconic.launch.machine import _cgroup_quota, chosen_gpus, free_bytes, usable_cores
from laconic.launch.profiles import load_profile
from laconic.launch.space import check_space
from laconic.launch.threads import choose_threads, threads_for
from laconic.rewards.errors import LaunchError


@pytest.mark.parametrize(
    ("present", "visible", "left"),
    [
        (4, None, 4),
        (4, "0,2", 2),
        (4, "", 0),
        (4, "-1", 0),
        (4, "1,-1,2", 1),
        (1, "0,1", 1),
        (0, "0", 0),
        (2, "GPU-3f1, GPU-77a", 2),
    ],
)
def test_cuda_visible_devices(present, visible, left):
    assert chosen_gpus(present, visible) == left


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("250000 100000", 2), ("50000 100000", 1)])
def test_container_quota(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert _cgroup_quota(tmp_path / "cpu.max") == cores
    assert _cgroup_quota(tmp_path / "absent") is None


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(free, rel=0.05)


def test_a_full_disk_is_refused_with_folder_and_bytes(tmp_path):
    check_space(tmp_path, 1, stage="sft")
    with pytest.raises(LaunchError, match=r"stage 'grpo' needs about 1,000,000,000,000,000,000") as error:
        check_space(tmp_path / "runs", 10**18, stage="grpo")
    assert str(tmp_path / "runs") in error.value.message
    assert "--runs" in error.value.cure


@pytest.mark.parametrize(
    ("cores", "busy", "ranks", "count"),
    [(2, 0.0, 1, 2), (2, 0.3, 1, 2), (2, 0.9, 1, 1), (2, 5.0, 1, 1), (8, 0.1, 2, 4), (8, 3.0, 2, 2), (2, 0.0, 4, 1)],
)
def test_threads_go_to_idle_cores(cores, busy, ranks, count):
    assert threads_for(cores, busy, ranks) == count


def test_what_is_asked_for_wins(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert choose_threads(1).count == 3
    assert choose_threads(1, requested=5).count == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= choose_threads(1).count <= usable_cores()


def test_proc_stat_counts_work_and_theft_in_seconds(monkeypatch):
    monkeypatch.setattr(threads.os, "sysconf", {"SC_CLK_TCK": 100}.get)
    # user nice system idle iowait irq softirq steal
    assert threads._cpu_seconds("cpu  100 20 30 9999 7 4 6 250 0 0\ncpu0 1 2 3\n") == (1.6, 2.5)


def test_load_that_has_ended_does_not_count_but_theft_does(monkeypatch, tmp_path):
    class Clock:
        def __init__(self, after):
            self.after = after

        def sleep(self, seconds):
            stat.write_text(self.after)

    stat = tmp_path / "stat"
    monkeypatch.setattr(threads, "_STAT", stat)
    monkeypatch.setattr(threads.os, "sysconf", {"SC_CLK_TCK": 100}.get)
    monkeypatch.setattr(threads.os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    for after, busy in (
        ("cpu 110 0 0 0 0 0 0 0", 0.1),
        ("cpu 500 0 0 0 0 0 0 0", 1.5),
        ("cpu 110 0 0 0 0 0 0 40", 0.5),
    ):
        stat.write_text("cpu 100 0 0 0 0 0 0 0")
        monkeypatch.setattr(threads, "time", Clock(after))
        assert threads.busy_cores(1.0) == pytest.approx(busy)


def test_stages_are_quiet_and_offline_unless_told_otherwise(tmp_path):
    env = stage_environment(load_profile("cpu2"), 2, {"HOME": str(tmp_path), "TOKENIZERS_PARALLELISM": "true"})
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["ACCELERATE_USE_CPU"] == "true"
    assert env["TOKENIZERS_PARALLELISM"] == "true"
    assert env["WANDB_MODE"] == "dryrun"
    assert "ACCELERATE_USE_CPU" not in stage_environment(load_profile("zero2"), 2, {"HOME": str(tmp_path)})


def test_wandb_is_online_only_with_a_key(tmp_path):
    home = {"HOME": str(tmp_path)}
    assert wandb_mode(home) == "offline"
    assert wandb_mode(home | {"WANDB_API_KEY": "k"}) == "online"
    assert wandb_mode(home | {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}) == "disabled"
    # Somebody who once logged in has not asked for this run to be sent anywhere.
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password k\n")
    assert wandb_mode(home) == "offline"
