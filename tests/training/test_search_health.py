"""Alarms: said once, kept, noted in the metrics for as long as they hold, and taken up again after a resume."""

from types import SimpleNamespace

import pytest

from laconic.rewards.jsonl import read_jsonl
from laconic.training.callbacks import MetricsWriter
from laconic.training.search_health import SearchHealth, SearchLimits

CALM = {
    "loss": 0.1,
    "raw/invalid": 0.1,
    "raw/searching": 0.5,
    "raw/at_limit": 0.1,
    "frac_reward_zero_std": 0.2,
    "kl": 0.01,
    "entropy": 1.0,
}


class Run:
    """Rows of logs, as the trainer hands them to its callbacks."""

    def __init__(self, folder, **limits):
        self.folder = folder
        self.health = SearchHealth(folder / "health.jsonl", SearchLimits(**limits))
        self.metrics = MetricsWriter(folder / "metrics.jsonl")
        self.state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=1000, log_history=[])

    def begin(self):
        for callback in (self.health, self.metrics):
            callback.on_train_begin(None, self.state, None)

    def log(self, step, **changes):
        logs = {**CALM, **changes}
        self.state.global_step = step
        self.state.log_history.append({**logs, "step": step})
        for callback in (self.health, self.metrics):
            callback.on_log(None, self.state, None, logs=logs)

    @property
    def kept(self):
        file = self.folder / "health.jsonl"
        return [(row["step"], row["kind"]) for row in read_jsonl(file)] if file.exists() else []

    @property
    def alarms(self):
        return [row.get("alarms") for row in read_jsonl(self.folder / "metrics.jsonl")]


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path)
    made.begin()
    return made


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("searches_gone", {"raw/searching": 0.01}),
        ("searches_always", {"raw/at_limit": 0.95}),
        ("invalid_rising", {"raw/invalid": 0.31}),
        ("kl", {"kl": 1.5}),
        ("entropy", {"entropy": 0.05}),
    ],
)
def test_each_kind_is_said_once_and_noted_while_it_holds(run, capsys, kind, changes):
    run.log(1)
    run.log(2, **changes)
    run.log(3, **changes)
    run.log(4)
    assert run.kept == [(2, kind)]
    assert run.alarms == [None, kind, kind, None]
    assert capsys.readouterr().out.count("alarm: step 2: ") == 1


def test_a_world_in_which_nobody_searched_is_no_collapse(run):
    for step in (1, 2, 3):
        run.log(step, **{"raw/searching": 0.0})
    assert run.kept == []


def test_rewards_without_a_difference_are_counted_in_steps(run):
    run.log(5)
    run.log(10, frac_reward_zero_std=1.0)
    run.log(15, frac_reward_zero_std=0.9)
    for step in (20, 25, 30):
        run.log(step, frac_reward_zero_std=1.0)
    assert run.kept == []
    # Steps 16 to 35.
    run.log(35, frac_reward_zero_std=1.0)
    assert run.kept == [(35, "flat")]


def test_several_at_once(run):
    run.log(1)
    run.log(2, **{"raw/searching": 0.0, "raw/invalid": 0.9})
    assert run.alarms[1] == "searches_gone invalid_rising"


def test_after_a_resume_what_was_seen_is_known(run, tmp_path):
    run.log(1)
    run.log(2, kl=2.0)
    again = Run(tmp_path)
    again.state.log_history = run.state.log_history
    again.state.global_step = 2
    again.begin()
    again.log(3, kl=2.0, **{"raw/searching": 0.0})
    assert again.kept == [(2, "kl"), (3, "searches_gone")]


def test_rows_that_are_no_search_metrics_are_left_alone(run):
    run.state.global_step = 1
    logs = {"train_runtime": 3.0}
    run.health.on_log(None, run.state, None, logs=logs)
    assert logs == {"train_runtime": 3.0}
