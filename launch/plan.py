"""`laconic plan`: what a run would do, worked out without torch, network or waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

from laconic.launch import counts
from laconic.launch.counts import Training, training
from laconic.launch.duration import device, training_seconds
from laconic.launch.estimate import Memory, checkpoint_bytes, model_shape, training_memory
from laconic.launch.lines import short, stage_line
from laconic.launch.machine import visible_gpus
from laconic.launch.options import Options
from laconic.launch.profiles import Profile, check_machine, load_profile
from laconic.launch.prompt import prompt_string
from laconic.launch.shapes import Shape
from laconic.launch.slurm import parse_request, render_slurm
from laconic.launch.text import number, seconds, size
from laconic.recipes.arithmetic import BatchPlan
from laconic.recipes.folder import STAGE_FILE, StageFolder
from laconic.recipes.problems_model import FileProblems, ProceduralProblems, QaProblems, WorldProblems
from laconic.recipes.resolve import Plan, StageFile
from laconic.recipes.stages import GrpoStage, TrainingStage
from laconic.rewards.errors import LaunchError

State = Literal["complete", "begun", "to do"]
_STATES = {"complete": "complete, reused", "begun": "begun, resumes", "to do": "to do"}


@dataclass(frozen=True, slots=True)
class StageView:
    """What there is to say about one stage before it runs."""

    stage: StageFile
    folder: StageFolder
    state: State
    line: str
    """What starts it by hand."""
    training: Training | None
    """None for a stage that does not train."""


def state_of(folder: StageFolder) -> State:
    """Whether a stage is complete, was begun by an earlier run, or neither."""
    if folder.complete:
        return "complete"
    return "begun" if len(list(folder.work.glob("*"))) > 1 else "to do"


def view_stages(plan: Plan, profile: Profile) -> list[StageView]:
    """Look at every stage.

    Raises:
        RecipeError: a training stage's batches cannot work on the profile's number of processes.
    """
    return [_view(plan, stage, profile) for stage in plan.stages]


def _view(plan: Plan, stage: StageFile, profile: Profile) -> StageView:
    folder = StageFolder(plan.run_dir, stage)
    trains = isinstance(stage.config, TrainingStage)
    return StageView(
        stage=stage,
        folder=folder,
        state=state_of(folder),
        line=stage_line(stage.kind, folder.path / STAGE_FILE, profile),
        training=training(plan, stage, max(1, profile.processes)) if trains else None,
    )


def check_rollouts(view: StageView, profile: Profile) -> None:
    """Refuse a profile under which Laconic's own engine cannot draw a stage's rollouts.

    Raises:
        LaunchError: the profile shards weights as FSDP does, and the stage has rollouts that only the engine can draw.
    """
    config = view.stage.config
    if view.state == "complete" or profile.distributed_type != "FSDP" or not isinstance(config, GrpoStage):
        return
    if config.rollouts is not None:
        what, leave = f"rollouts: {{name: {config.rollouts.name}}}", "leave rollouts out"
    elif view.stage.search is not None and not config.trainer.get("use_vllm"):
        what, leave = "search episodes", "set use_vllm"
    else:
        return
    raise LaunchError(
        f"stage {view.stage.name}: {what} are drawn by Laconic's own engine, which cannot read the weights that "
        f"profile {profile.name} shards (distributed_type FSDP)",
        cure=f"use --profile ddp, zero2 or zero3, or {leave}",
    )


def write_stage_files(views: list[StageView]) -> int:
    """Prepare the folder of every stage that is not complete; returns how many."""
    open_ = [view for view in views if view.state != "complete"]
    for view in open_:
        view.folder.prepare()
    return len(open_)


def print_plan(out: Console, plan: Plan, profile: Profile, views: list[StageView]) -> None:
    """Write the whole plan for a person."""
    shape = model_shape(plan.recipe.model, plan.recipe.problems)
    out.print(f"{plan.recipe.name}: {len(views)} stages in {short(plan.run_dir)}", style="bold", markup=False)
    for label, text in _about(plan, profile, shape):
        out.print(f"  {label:<8} {text}", markup=False)
    for view in views:
        stage = view.stage
        out.print(f"\n{stage.index}. {stage.name} ({stage.kind}): {_STATES[view.state]}", style="bold", markup=False)
        for label, text in _details(plan, view, profile, shape):
            out.print(f"  {label:<8} {text}", markup=False)


def _about(plan: Plan, profile: Profile, shape: Shape | None) -> Iterator[tuple[str, str]]:
    ranks = f"{profile.processes} process{'es' if profile.processes != 1 else ''}" if profile.processes else "every GPU"
    yield "profile", f"{profile.name}: {ranks}, mixed precision {profile.mixed_precision}"
    try:
        check_machine(profile)
    except LaunchError as error:
        yield "", f"not on this machine: {error.message}"
    if profile.distributed_type == "NO" and not profile.on_cpu and visible_gpus() > 1:
        yield "", f"{visible_gpus()} GPUs are visible; --profile ddp, zero2, zero3 or fsdp2 uses them all"
    yield "model", _model_line(plan, shape)
    yield "prompt", _prompt_line(plan)


def _model_line(plan: Plan, shape: Shape | None) -> str:
    model = plan.recipe.model
    origin = f"{model.scratch.architecture} from scratch" if model.scratch else str(model.path)
    if shape is None:
        return f"{origin}, size unknown until its files are local"
    return f"{origin}, {number(shape.parameters)} parameters, vocabulary {number(shape.vocab)}"


def _prompt_line(plan: Plan) -> str:
    problem, origin = example_prompt(plan)
    if plan.recipe.search is not None:
        problem = plan.recipe.search.prompt(problem)
    text = prompt_string(plan.recipe.model, problem)
    if text is None:
        return f"shown once the tokenizer of {plan.recipe.model.path} is local"
    opens = "; it opens <think> itself" if text.rstrip().endswith("<think>") else ""
    return f"{json.dumps(text, ensure_ascii=False)} ({origin}{opens})"


def example_prompt(plan: Plan) -> tuple[str, str]:
    """One problem's prompt and where it is from; with a placeholder for the question when no problem is local."""
    for stage in plan.stages:
        file = plan.run_dir / stage.folder / "problems.jsonl"
        if file.is_file():
            from laconic.rewards.records import read_problems

            first = next(read_problems(file))
            return first.prompt, f"problem {first.id}"
    spec = plan.recipe.problems
    if isinstance(spec, ProceduralProblems):
        from laconic.data_gen.families import FAMILIES

        # Drawing a real problem loads reasoning-gym, which takes longer than a plan may.
        return FAMILIES[spec.families[0]].summary.partition(": ")[2], f"an example of {spec.families[0]}"
    if isinstance(spec, WorldProblems):
        return "what is the capital of kola meru ?", "an example of a world's questions"
    if isinstance(spec, QaProblems):
        return "{prompt}", f"{{prompt}} is a question of {spec.train[0]}"
    template = spec.template or "{prompt}"
    if isinstance(spec, FileProblems):
        return template.replace("{prompt}", _first_in_file(spec)), f"first row of {spec.train}"
    return template, f"{{prompt}} is a question of {spec.dataset}"


def _first_in_file(spec: FileProblems) -> str:
    from laconic.data_gen.layouts import read_row
    from laconic.rewards.jsonl import read_jsonl

    row = next(read_jsonl(spec.train))
    return read_row(row, spec.layout, where=f"{spec.train}: row 1", default_id="train-0", task=spec.task).prompt


def _details(plan: Plan, view: StageView, profile: Profile, shape: Shape | None) -> Iterator[tuple[str, str]]:
    stage = view.stage
    yield "folder", short(view.folder.path if view.state == "complete" else view.folder.work)
    yield "launch", view.line
    if stage.kind == "generate":
        yield "rows", str(counts.rows(plan, stage))
    if view.training is not None:
        yield "batch", batch_line(stage.kind, view.training.batch)
        yield "steps", f"{view.training.steps} ({view.training.data} {'prompts' if stage.kind == 'grpo' else 'rows'})"
    if isinstance(stage.config, GrpoStage) and stage.config.budgets is not None:
        yield "budgets", stage.config.budgets.in_words()
    if view.state == "complete" or stage.kind == "init":
        return
    try:
        check_rollouts(view, profile)
    except LaunchError as error:
        yield "", f"cannot run: {error.message}; {error.cure}"
    if view.training is None:
        yield "tokens", counts.sampled_tokens(stage)
    else:
        yield "tokens", counts.trained_tokens(view.training, stage.model)
        yield from _needs(stage, view.training, profile, shape)


def batch_line(kind: str, batch: BatchPlan) -> str:
    """The batch arithmetic in words."""
    what = "rollouts" if kind == "grpo" else "pairs" if kind == "dpo" else "rows"
    ranks = f"{batch.world_size} process{'es' if batch.world_size != 1 else ''}"
    line = (
        f"{batch.rows_per_step} {what} per step = {batch.per_device} per micro-batch x {batch.accumulation} "
        f"accumulated x {ranks}"
    )
    if kind != "grpo":
        return line
    return (
        f"{line}; {batch.prompts_per_step:g} prompts per step x {batch.num_generations} rollouts each; "
        f"{batch.rollouts_per_generation} rollouts per generation"
    )


def _needs(stage: StageFile, view: Training, profile: Profile, shape: Shape | None) -> Iterator[tuple[str, str]]:
    if shape is None:
        yield "memory", "unknown until the model's config.json is local"
        return
    memory = training_memory(view.config, stage.model, shape, profile, batch=view.batch)
    host = f"; {size(memory.host_optimiser)} of host memory" if memory.host_optimiser else ""
    yield "memory", f"about {size(memory.device)} per process (estimate: {_listed(memory)}){host}"
    on = device(profile)
    if (took := training_seconds(view, stage.model, shape, profile, on)) is not None:
        where = on.name if profile.processes == 1 else f"{max(1, profile.processes)} x {on.name}"
        yield "time", f"about {seconds(took)} on {where} (rough estimate: every row as long as it may be)"
    disk = checkpoint_bytes(view.config, stage.model, shape, profile)
    yield "disk", f"about {size(disk)} for checkpoints and the model (estimate)"


def _listed(memory: Memory) -> str:
    parts = ["weights", "gradients", "optimiser", "reference", "activations", "runtime"]
    if memory.rollouts > memory.activations:
        parts[4] = "rollouts"
    return ", ".join(f"{part} {size(held)}" for part in parts if (held := getattr(memory, part)))


def slurm_script(options: Options, request: str) -> str:
    """A Slurm script that runs the recipe, after the same checks as a plan; `request` is ``nodes=2,gpus=8,...``.

    Raises:
        LaconicError: the recipe, the request, the profile or the batches on so many processes cannot work.
    """
    asked = parse_request(request)
    if options.processes not in (None, asked.processes):
        raise LaunchError(
            f"--processes {options.processes}, but --slurm asks for {asked.processes} (nodes x gpus)",
            cure="leave --processes out",
        )
    profile = load_profile(options.profile, processes=asked.processes)
    plan = options.plan()
    views = view_stages(plan, profile)
    for view in views:
        check_rollouts(view, profile)
    stages = [(view.stage, view.folder.path / STAGE_FILE) for view in views]
    return render_slurm(asked, profile, recipe=plan.recipe.name, options=options.science(), stages=stages)
