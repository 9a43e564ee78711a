"""The pictures of a report. Each function draws one and returns its PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from laconic.eval.cost import accuracy_at_budget
from laconic.eval.samples import Array, Samples
from laconic.eval.theme import MARKERS, NARROW, Theme, figure, legend, png

LONG_TAIL = 8.0
"""Lengths whose 99th percentile is this many times their median are drawn on a logarithmic axis."""


def accuracy_against_tokens(rows: Sequence[Mapping[str, Any]], theme: Theme) -> bytes:
    """Every model as a point with 95 % intervals, and the Pareto line: the best accuracy up to a number of tokens.

    Args:
        rows: Rows of `results.json` of one task.
        theme: Colours.
    """
    drawn, (axis,) = figure(theme, 4.1)
    for place, row in enumerate(rows):
        axis.errorbar(
            row["tokens"],
            100 * row["accuracy"],
            xerr=1.96 * (row["tokens_se"] or 0.0),  # None: not known
            yerr=196 * (row["accuracy_se"] or 0.0),
            fmt=MARKERS[place % len(MARKERS)],
            color=theme.color(place),
            markersize=9,
            elinewidth=1.6,
            capsize=3,
            zorder=3,
        )
        _label(axis, row, theme.color(place))
    axis.margins(x=0.16, y=0.2)
    _pareto_line(axis, [row for row in rows if row["pareto"]], theme)
    axis.set_xlabel("mean tokens per answer")
    axis.set_ylabel("accuracy, %")
    return png(drawn)


def _label(axis: Any, row: Mapping[str, Any], color: str) -> None:
    axis.annotate(
        row["model"],
        (row["tokens"], 100 * row["accuracy"]),
        xytext=(9, 8),
        textcoords="offset points",
        color=color,
        fontweight="bold",
        fontsize=11,
        zorder=4,
    )


def _pareto_line(axis: Any, front: Sequence[Mapping[str, Any]], theme: Theme) -> None:
    """A step line from the cheapest model on the front to the right edge, within the limits the points gave."""
    ranked = sorted(front, key=lambda row: row["tokens"])
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    tokens = [row["tokens"] for row in ranked] + [right]
    best = [100 * row["accuracy"] for row in ranked]
    axis.plot(
        [tokens[0], *tokens],
        [bottom, *best, best[-1]],
        drawstyle="steps-post",
        color=theme.soft,
        linewidth=1.3,
        linestyle=(0, (4, 3)),
        zorder=2,
        label="Pareto line",
    )
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)
    legend(axis, theme, loc="lower right")


def accuracy_at_budgets(models: Mapping[str, Samples], theme: Theme) -> bytes:
    """Accuracy when every answer is cut at a budget, for all budgets."""
    drawn, (axis,) = figure(theme, 4.1)
    low, high, long_tail = _extent(models)
    grid = np.geomspace(max(low, 1), high, 400) if long_tail else np.linspace(0, high, 400)
    for place, (name, samples) in enumerate(models.items()):
        curve = 100 * accuracy_at_budget(samples.correct, samples.tokens, grid)
        axis.plot(grid, curve, color=theme.color(place), linewidth=2.2, label=name)
    axis.set_xscale("log" if long_tail else "linear")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("token budget (longer answers count as wrong)")
    axis.set_ylabel("accuracy, %")
    legend(axis, theme, loc="lower right")
    return png(drawn)


def _extent(models: Mapping[str, Samples]) -> tuple[float, float, bool]:
    """Shortest answer, nearly the longest, and whether lengths spread so far that a log axis is needed."""
    pooled = np.concatenate([samples.tokens.ravel() for samples in models.values()])
    high = float(np.percentile(pooled, 99.5)) * 1.02 + 1
    return float(pooled.min()), high, bool(np.percentile(pooled, 99) > LONG_TAIL * np.median(pooled))


def length_histograms(models: Mapping[str, Samples], theme: Theme) -> bytes:
    """Lengths by model, one panel each on a common axis; wrong answers pale, on top of the right ones."""
    drawn, axes = figure(theme, 0.9 + 1.25 * len(models), rows=len(models), sharex=True, sharey=True)
    low, high, long_tail = _extent(models)
    edges = np.geomspace(max(low, 1), high, 45) if long_tail else np.linspace(0, high, 45)
    for place, (axis, (name, samples)) in enumerate(zip(axes, models.items(), strict=True)):
        _histogram(axis, samples, edges, theme.color(place), theme)
        axis.set_xscale("log" if long_tail else "linear")
        axis.set_title(name, loc="left", color=theme.color(place), fontweight="bold", fontsize=11)
        axis.set_title(f"mean {samples.tokens.mean():.1f}", loc="right", color=theme.soft, fontsize=10)
        axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes[-1].set_xlabel("tokens per answer")
    return png(drawn)


def _histogram(axis: Any, samples: Samples, edges: Array, color: str, theme: Theme) -> None:
    right = np.clip(samples.tokens[samples.correct], None, edges[-1])
    wrong = np.clip(samples.tokens[~samples.correct], None, edges[-1])
    weights = [np.full(part.size, 1 / samples.tokens.size) for part in (right, wrong)]
    _, _, bars = axis.hist([right, wrong], bins=edges, weights=weights, stacked=True, color=[color, color])
    for bar in bars[1]:
        bar.set_alpha(0.35)
    axis.axvline(samples.tokens.mean(), color=theme.ink, linewidth=1.2)


def problem_by_problem(model: str, base: str, models: Mapping[str, Samples], theme: Theme) -> bytes:
    """Mean tokens of every problem under two models; below the diagonal the model is shorter.

    Args:
        model: On the vertical axis.
        base: On the horizontal axis.
        models: Samples by name.
        theme: Colours.
    """
    drawn, (axis,) = figure(theme, 4.1)
    across, up = (models[name].tokens.mean(axis=1) for name in (base, model))
    change = models[model].correct.mean(axis=1) - models[base].correct.mean(axis=1)
    kinds = (
        ("equally often right", change == 0, theme.soft),
        ("more often right", change > 0, theme.cycle[2]),
        ("less often right", change < 0, theme.cycle[5]),
    )
    for label, chosen, color in kinds:
        axis.scatter(across[chosen], up[chosen], s=20, alpha=0.6, linewidths=0, color=color, label=label)
    high = float(np.percentile(np.concatenate([across, up]), 99.5)) * 1.05
    axis.plot([0, high], [0, high], color=theme.soft, linewidth=1.2, linestyle=(0, (4, 3)))
    axis.set_xlim(0, high)
    axis.set_ylim(0, high)
    axis.set_xlabel(f"mean tokens, {base}")
    axis.set_ylabel(f"mean tokens, {model}")
    legend(axis, theme, loc="upper left")
    return png(drawn)


PANELS: dict[str, tuple[tuple[str, ...], ...]] = {
    "sft": (("loss",), ("mean_token_accuracy",)),
    "dpo": (("loss",), ("rewards/accuracies",), ("rewards/margins",)),
    "grpo": (("reward",), ("raw/accuracy",), ("raw/tokens", "completions/mean_length"), ("raw/searches",)),
}
"""What is worth seeing of a training stage: one panel each, drawn from the first of the names that was logged."""
TITLES = {
    "mean_token_accuracy": "token accuracy",
    "rewards/accuracies": "share of pairs ranked right",
    "rewards/margins": "reward margin",
    "raw/accuracy": "accuracy of rollouts",
    "raw/tokens": "tokens per rollout",
    "raw/searches": "searches per rollout that can search",
    "completions/mean_length": "tokens per rollout",
}


def training_curves(kind: str, metrics: Sequence[Mapping[str, Any]], theme: Theme) -> bytes | None:
    """The course of one training stage; None if it logged nothing that could be drawn.

    Args:
        kind: Kind of the stage.
        metrics: Rows of its `metrics.jsonl`.
        theme: Colours.
    """
    found = [(name, _series(metrics, name)) for names in PANELS.get(kind, ()) for name in _logged(metrics, names)]
    if not found:
        return None
    drawn, axes = figure(theme, 0.7 + 1.3 * len(found), rows=len(found), width=NARROW, sharex=True)
    for axis, (name, (steps, values)) in zip(axes, found, strict=True):
        axis.plot(steps, values, color=theme.cycle[2], linewidth=1, alpha=0.35)
        axis.plot(steps, smooth(values), color=theme.cycle[2], linewidth=2)
        axis.set_title(TITLES.get(name, name), loc="left", color=theme.ink, fontsize=11)
    axes[-1].set_xlabel("optimiser step")
    return png(drawn)


def _logged(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    return [name for name in names if len(_series(metrics, name)[0]) > 1][:1]


def _series(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    rows = [(row["step"], row[name]) for row in metrics if row.get(name) is not None]
    return [step for step, _ in rows], [value for _, value in rows]


def smooth(values: Sequence[float], *, share: float = 0.1) -> Array:
    """Centred moving average over a share of the series; near its ends, over what there is of the window."""
    half = max(1, int(len(values) * share / 2))
    total = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (total[last] - total[first]) / (last - first)
