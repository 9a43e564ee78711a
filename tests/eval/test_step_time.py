"""Where the seconds of GRPO steps went, against a metrics file made by hand."""

import json

import pytest
import yaml
from matplotlib.image import imread

from laconic.eval import report
from laconic.eval.gather import Stage
from laconic.eval.step_time import markdown, step_seconds, step_times, table
from laconic.eval.theme import LIGHT
from laconic.rewards.jsonl import write_jsonl

SPENT = {"decode": 4.0, "reward": 1.0, "wait": 0.5, "train": 2.0, "optimiser": 0.5}


def row(step, *, scale=1.0, skipped=4.0, padding=0.1, count=3.0):
    """A row of metrics: 10 seconds, of which 2 are no phase's."""
    named = {f"seconds/{name}": scale * value for name, value in SPENT.items()}
    micro_batches = {"micro_batches/count": count, "micro_batches/padding": padding}
    return {"step": step, "step_time": 9.5 * scale, "rollouts/skipped": skipped} | named | micro_batches


METRICS = [
    row(5),
    # An evaluation in between, and one step alone at the end: after five it counts a sixth.
    {"step": 5, "eval_loss": 1.0},
    row(6, scale=7.0, skipped=16.0, padding=0.4, count=9.0),
    {"step": 6, "train_runtime": 99.0},
]
CONFIG = {
    # 32 rollouts in each step, whatever is computed at once.
    "batch_size": 32,
    "trainer": {"per_device_train_batch_size": 4, "num_generations": 8, "max_completion_length": 64},
}


@pytest.fixture
def trained(tmp_path, make):
    """A complete stage with these metrics."""

    def stage(metrics, *, kind="grpo", config=CONFIG):
        folder = make.stage(tmp_path / str(len(list(tmp_path.iterdir()))), f"01-{kind}-aaaa", kind)
        write_jsonl(folder / "metrics.jsonl", metrics)
        if config:
            about = yaml.safe_load((folder / "stage.yaml").read_text())
            (folder / "stage.yaml").write_text(yaml.safe_dump(about | {"config": config}))
            (folder / "manifest.json").write_text(json.dumps({"seconds": 83.2, "world_size": 2}))
        return Stage(folder)

    return stage


def test_means_are_over_steps_and_not_over_rows(trained):
    (time,) = step_times([trained(METRICS)])
    assert time.stage == "grpo"
    # Five steps of one scale and one of seven times it: twice the scale on average.
    assert time.seconds == pytest.approx({name: 2 * value for name, value in SPENT.items()} | {"other": 4.0})
    assert time.total == pytest.approx(20)
    assert time.skipped == pytest.approx((5 * 4 + 16) / 6 / 32)
    assert time.padding == pytest.approx((5 * 0.1 + 0.4) / 6)
    assert time.micro_batches == pytest.approx((5 * 3 + 9) / 6)


def test_table(trained):
    header, cells = table(step_times([trained(METRICS)]))
    shown = dict(zip(header, cells[0], strict=True))
    assert shown == {
        "stage": "grpo",
        "seconds per step": "20.00",
        "sampling": "8.00 [40 %]",
        "rewards": "2.00 [10 %]",
        "waiting": "1.00 [5 %]",
        "training": "4.00 [20 %]",
        "optimiser": "1.00 [5 %]",
        "other": "4.00 [20 %]",
        "rollouts skipped, %": "18.8",
        "padding, %": "15.0",
        "micro-batches per step": "4.0",
    }
    assert "| grpo | 20.00 | 8.00 [40 %] |" in markdown(step_times([trained(METRICS)]))


def test_refills_are_those_of_a_generation(trained):
    # The second row goes on with the first one's generation.
    cost = {"rounds": 1.5, "groups_drawn": 5.0, "groups_used": 4.0, "tokens": 900.0, "seconds": 2.5}
    refilled = [row(1) | {f"refill/{name}": value for name, value in cost.items()}, row(2)]
    header, cells = table(step_times([trained(refilled), trained(METRICS)]))
    assert header[-1] == "groups drawn again per generation"
    assert [line[-1] for line in cells] == ["5.0: 4.0 used, 2.50 s", "–"]


def test_what_was_not_logged_is_not_shown(trained):
    older = [{"step": 5, "loss": 0.1, "step_time": 2.0}, {"step": 6, "train_runtime": 9.0}]
    assert step_times([trained(older)]) == []
    assert step_seconds(older, LIGHT) is None
    assert step_seconds(METRICS[:1], LIGHT) is None
    assert step_times([trained(METRICS, kind="sft")]) == []
    (time,) = step_times([trained(METRICS, config=None)])
    assert time.skipped is None
    assert table([time])[1][0][-3] == "–"


def test_report_shows_table_and_picture(tmp_path, make, monkeypatch):
    # Pictures of the evaluation are tested elsewhere.
    monkeypatch.setattr(report, "_pictures", lambda *_: iter(()))
    run, problems = tmp_path / "demo", make.problems(6)
    grpo = make.stage(run, "01-grpo-aaaa", "grpo")
    write_jsonl(grpo / "metrics.jsonl", METRICS)
    make.eval(run, "02-eval-bbbb", problems, {"sft": make.rollouts(problems)}, {"model:sft": grpo.name}, repetitions=50)
    found = report.write_report(run)
    page, text = ((found / name).read_text() for name in ("report.html", "report.md"))
    assert '8.00<span class="ci">40 %</span>' in page
    assert "| grpo | 20.00 | 8.00 [40 %] |" in text
    assert "![Seconds of a step: grpo](seconds_grpo.png)" in text
    light, dark = (imread(found / f"seconds_grpo{scheme}.png") for scheme in ("", "_dark"))
    assert light.shape == dark.shape

    def height(place):
        """Pixels of a colour in a column through the panel, far from the legend's handles."""
        color = [int(LIGHT.cycle[place][at : at + 2], 16) / 255 for at in (1, 3, 5)]
        return int((abs(light[:, int(0.97 * light.shape[1]), :3] - color).sum(axis=1) < 0.05).sum())

    sampling, training, rewards = height(2), height(1), height(4)
    assert sampling == pytest.approx(2 * training, rel=0.1)
    assert sampling == pytest.approx(4 * rewards, rel=0.1)
