"""metrics.jsonl across a resume, and what the health check says."""

import math

import pytest
from transformers import TrainerState

from laconic.rewards.jsonl import read_jsonl
from laconic.training.callbacks import HealthCheck, MetricsWriter, TrainingDiverged


def state(step: int) -> TrainerState:
    return TrainerState(global_step=step, max_steps=10, is_world_process_zero=True)


def test_each_step_stands_once_after_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsWriter(path)
    first.on_train_begin(None, state(0), None)
    for step in (1, 2, 3):
        first.on_log(None, state(step), None, logs={"loss": 1.0 / step})
    with path.open("a") as out:
        out.write('{"step": 4, "lo')  # killed while writing
    second = MetricsWriter(path)
    second.on_train_begin(None, state(2), None)
    second.on_log(None, state(3), None, logs={"loss": 0.25, "odd": math.nan})
    rows = list(read_jsonl(path))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert (rows[2]["loss"], rows[2]["odd"]) == (0.25, None)


@pytest.mark.parametrize("logs", [{"loss": math.nan}, {"grad_norm": math.inf, "loss": 1.0}])
def test_divergence_stops(tmp_path, logs):
    with pytest.raises(TrainingDiverged, match="step 3"):
        HealthCheck(tmp_path / "health.jsonl").on_log(None, state(3), None, logs=logs)


def test_warnings_are_said_once_and_kept(tmp_path, capsys):
    check = HealthCheck(tmp_path / "health.jsonl")
    healthy = {"completions/mean_length": 100.0, "completions/clipped_ratio": 0.1, "frac_reward_zero_std": 0.2}
    sick = {"completions/mean_length": 12.0, "completions/clipped_ratio": 0.8, "frac_reward_zero_std": 0.95}
    for step, logs in enumerate([healthy, sick, sick], start=1):
        check.on_log(None, state(step), None, logs=logs)
    kinds = [row["kind"] for row in read_jsonl(tmp_path / "health.jsonl")]
    assert sorted(kinds) == ["collapse", "no_signal", "truncated"]
    printed = capsys.readouterr().out
    assert "80% of rollouts hit the token limit" in printed
    assert "fell from 100 to 12 tokens" in printed
    assert printed.count("health:") == 3


def test_a_norm_that_deepspeed_could_not_compute_is_divergence(tmp_path):
    with pytest.raises(TrainingDiverged, match="grad_norm is -1"):
        HealthCheck(tmp_path / "health.jsonl").on_log(None, state(3), None, logs={"loss": 1.0, "grad_norm": -1.0})
