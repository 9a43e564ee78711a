"""How many problems, rows, steps and tokens a stage has, as far as that is known before it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from laconic.launch.estimate import row_tokens, setting
from laconic.launch.text import number
from laconic.recipes.arithmetic import BatchPlan, batch_plan
from laconic.recipes.folder import is_complete
from laconic.recipes.model_spec import ModelSpec
from laconic.recipes.problems_model import FileProblems, MadeProblems, Problems
from laconic.recipes.resolve import Plan, StageFile
from laconic.recipes.stages import DpoStage, EvalStage, GenerateStage, GrpoStage, TrainingStage


@dataclass(frozen=True, slots=True)
class Count:
    """A number of things."""

    value: int | None
    """None when only running can tell."""
    exact: bool = False
    """False when it is an upper bound."""

    def __str__(self) -> str:
        if self.value is None:
            return "unknown"
        return number(self.value) if self.exact else f"at most {number(self.value)}"

    def times(self, factor: float) -> Count:
        """So many times as many."""
        return Count(None if self.value is None else math.ceil(self.value * factor), self.exact)


def problems(spec: Problems, split: str, limit: int | None, *, skip: int = 0) -> Count:
    """Problems of one split that a stage uses: the first `limit` of those after the first `skip`."""
    total = _total(spec, split)
    if total.value is None:
        return Count(limit)
    left = max(0, total.value - skip)
    return Count(left if limit is None else min(limit, left), total.exact)


def _total(spec: Problems, split: str) -> Count:
    if isinstance(spec, MadeProblems):
        return Count(getattr(spec, split), exact=True)
    limit = getattr(spec, f"limit_{split}")
    if isinstance(spec, FileProblems):
        # Repeated prompts are dropped, so a line is at most a problem.
        lines = _lines(Path(getattr(spec, split)))
        return Count(lines if limit is None else min(lines, limit))
    return Count(limit)


def rows(plan: Plan, stage: StageFile) -> Count:
    """Training rows that a generate stage yields: counted if it is complete."""
    config = stage.config
    assert isinstance(config, GenerateStage)
    done = plan.run_dir / stage.folder
    if is_complete(done) and (done / "rows.jsonl").is_file():
        return Count(_lines(done / "rows.jsonl"), exact=True)
    most = problems(stage.problems, config.split, config.limit, skip=config.skip)
    return Count(None if most.value is None else most.value * config.samples + _practised(stage))


def _practised(stage: StageFile) -> int:
    """At most so many rows more, of what a world's teacher practises beside the questions."""
    teacher = stage.config.teacher
    repeats = 0 if teacher is None else teacher.statements + teacher.taught_questions + teacher.recalls
    if not repeats:
        return 0
    facts = stage.problems.world(stage.problems_seed).facts.values()
    return repeats * sum(fact.taught for fact in facts)


def training_rows(plan: Plan, stage: StageFile) -> Count:
    """Rows that a training stage learns from (for grpo: prompts)."""
    config = stage.config
    if isinstance(config, GrpoStage):
        return problems(stage.problems, "train", config.limit)
    source = next(other for other in plan.stages if other.folder == stage.inputs["data"])
    return rows(plan, source)


@dataclass(frozen=True, slots=True)
class Training:
    """The batches and steps of a training stage."""

    config: TrainingStage
    data: Count
    """Rows (for grpo: prompts)."""
    batch: BatchPlan
    steps: Count


def training(plan: Plan, stage: StageFile, ranks: int) -> Training:
    """Work out a training stage's batches on so many processes.

    Raises:
        RecipeError: they cannot work.
    """
    config = stage.config
    assert isinstance(config, TrainingStage)
    data = training_rows(plan, stage)
    prompts = data.value if isinstance(config, GrpoStage) else None
    batch = batch_plan(stage.kind, config.batch_size, config.trainer, ranks, prompts=prompts)  # type: ignore[arg-type]
    return Training(config, data, batch, steps(config, data, batch))


def steps(config: TrainingStage, data: Count, batch: BatchPlan) -> Count:
    """Optimiser steps: `max_steps` if it is set, else what the epochs make of the rows."""
    if (fixed := setting(config, "max_steps")) > 0:
        return Count(int(fixed), exact=True)
    if data.value is None:
        return Count(None)
    if isinstance(config, GrpoStage):
        # TRL's sampler leaves an incomplete generation out and repeats a whole one for each of its micro-batches.
        generations = data.value // batch.prompts_per_generation
        batches = generations * batch.steps_per_generation * setting(config, "num_iterations")
    else:
        batches = math.ceil(data.value / (batch.per_device * batch.world_size))
    per_epoch = max(1, math.ceil(batches / batch.accumulation))
    return Count(math.ceil(setting(config, "num_train_epochs") * per_epoch), data.exact)


def sampled_tokens(stage: StageFile) -> str:
    """One line about the tokens of a generate or eval stage: an upper bound, since a model decides when it stops."""
    config = stage.config
    assert isinstance(config, GenerateStage | EvalStage)
    if isinstance(config, GenerateStage) and config.teacher is not None:
        return "none sampled; a teacher writes the traces"
    models = len(config.models or ()) if isinstance(config, EvalStage) else 1
    skip = 0 if isinstance(config, EvalStage) else config.skip
    asked = problems(stage.problems, config.split, config.limit, skip=skip)
    line = _sampled(asked.times(config.samples * models), config.sampling.max_tokens)
    line = line if models == 1 else f"{line} ({models} models)"
    return f"{line}{_policy_tokens(config, asked)}" if isinstance(config, EvalStage) and config.policies else line


def _policy_tokens(config: EvalStage, asked: Count) -> str:
    """How many answers policies give; what one costs is the policy's to decide."""
    every = config.models or ()
    tried = sum(len(policy.models or every) for policy in config.policies)
    answers = asked.times(config.samples * tried)
    return f"; besides {answers} answers of policies, whose tokens are not included"


def trained_tokens(view: Training, model: ModelSpec) -> str:
    """One line about the tokens of a training stage: an upper bound, since few rows are the longest."""
    config, batch = view.config, view.batch
    longest = row_tokens(config, model)
    if isinstance(config, GrpoStage):
        rollouts = view.steps.times(batch.rows_per_step / setting(config, "num_iterations"))
        limit = "stop_early" if config.stop_early else "max_completion_length"
        return f"{_bound(rollouts.times(longest))} sampled: {rollouts} rollouts x {limit} {longest}"
    sides = 2 if isinstance(config, DpoStage) else 1
    seen = view.steps.times(batch.rows_per_step)
    pairs = " x 2 sides" if sides == 2 else ""
    return f"{_bound(seen.times(sides * longest))} trained on: {seen} rows{pairs} x max_length {longest}"


def _sampled(rollouts: Count, max_tokens: int) -> str:
    return f"{_bound(rollouts.times(max_tokens))} sampled: {rollouts} rollouts x max_tokens {max_tokens}"


def _bound(count: Count) -> str:
    return "unknown" if count.value is None else f"at most {number(count.value)}"


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
