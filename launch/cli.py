"""The `laconic` command: plan, run, report, list, score, ask, calibrate, serve, retriever, doctor, schema.

Exit codes: 0 done; 2 something the user can mend (one message, no traceback); 1 a stage or Laconic itself failed; 130
interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from laconic.launch import model_commands
from laconic.launch.retriever_command import app as retriever_app
from laconic.rewards.errors import LaconicError

app = typer.Typer(
    help="Train reasoning models that think no longer than the question needs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(retriever_app, name="retriever")

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe's YAML file.")]
Sets = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override one value: grpo.trainer.learning_rate=1e-6.")
]
Overlays = Annotated[list[str], typer.Option("--overlay", metavar="NAME", help="Apply one of the recipe's overlays.")]
ProfileOption = Annotated[str, typer.Option("--profile", help="How stages are launched; see `laconic list profiles`.")]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="The folder of all runs.")]
Processes = Annotated[
    int | None, typer.Option("--processes", metavar="N", help="Processes of a training stage; overrides the profile.")
]


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="laconic")
    except LaconicError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.command()
def plan(
    recipe: RecipeArgument,
    sets: Sets = [],  # noqa: B006 - typer copies it
    overlay: Overlays = [],  # noqa: B006
    profile: ProfileOption = "auto",
    runs: Runs = Path("runs"),
    processes: Processes = None,
    write: Annotated[bool, typer.Option("--write", help="Prepare the stage folders, to launch lines by hand.")] = False,
    slurm: Annotated[
        str | None,
        typer.Option("--slurm", metavar="K=V,...", help="Print a Slurm script: nodes=2,gpus=8,time=12:00:00."),
    ] = None,
) -> None:
    """Show what a run would do: stages, launch lines, batches, memory, tokens, the prompt."""
    from laconic.launch import plan as planning
    from laconic.launch.options import Options
    from laconic.launch.text import console

    options = Options(recipe, tuple(sets), tuple(overlay), runs, profile, processes)
    if slurm is not None:
        print(planning.slurm_script(options, slurm), end="")
        return
    resolved, launched = options.plan(), options.load_profile()
    views = planning.view_stages(resolved, launched)
    planning.print_plan(console(), resolved, launched, views)
    if write:
        print(f"\nprepared {planning.write_stage_files(views)} stage folder(s)")


@app.command()
def run(
    recipe: RecipeArgument,
    sets: Sets = [],  # noqa: B006
    overlay: Overlays = [],  # noqa: B006
    profile: ProfileOption = "auto",
    runs: Runs = Path("runs"),
    processes: Processes = None,
    only: Annotated[str | None, typer.Option("--only", metavar="STAGE", help="Run this stage alone.")] = None,
    first: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Begin with this stage.")] = None,
    last: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="End with this stage.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Threads per process; by default idle cores.")
    ] = None,
) -> None:
    """Run a recipe: complete stages are reused, a stage that was cut resumes, the report is written at the end."""
    from laconic.launch.options import Options
    from laconic.launch.run import run as run_recipe
    from laconic.launch.text import console

    options = Options(recipe, tuple(sets), tuple(overlay), runs, profile, processes)
    try:
        status = run_recipe(options, console(), only=only, first=first, last=last, threads=threads)
    except KeyboardInterrupt:
        print("\ninterrupted; run it again and it resumes", file=sys.stderr)
        raise typer.Exit(130) from None
    raise typer.Exit(status)


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: runs/<recipe>.")]) -> None:
    """Write the report of a run again and print its headline."""
    from laconic.launch.lines import short
    from laconic.launch.report import build_report, headline_table, read_results
    from laconic.launch.text import console

    path, out = build_report(run_folder), console()
    out.print(headline_table(read_results(run_folder)))
    out.print(f"\nreport: {short(path)}", markup=False)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="recipes, rewards, policies, tasks, profiles or runs.")] = "recipes",
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A reward or policy: all about it.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """List what there is to choose from, or what has been run."""
    from laconic.launch.listing import print_listing
    from laconic.launch.text import console

    print_listing(console(), what, name, runs)


@app.command()
def score(
    names: Annotated[str, typer.Argument(metavar="NAME[,NAME...]", help="Rewards; see `laconic list rewards`.")],
    rollouts: Annotated[
        Path,
        typer.Argument(
            metavar="ROLLOUTS",
            help="JSON Lines, - for standard input: prompt_id, correct, length, what the rewards read; rows with a "
            "step (0, 1, ...) are scored step by step, which gives rewards with history theirs.",
        ),
    ],
    sets: Annotated[
        list[str], typer.Option("--set", metavar="NAME.PARAM=VALUE", help="A parameter: hapo.length_weight=0.5.")
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per rollout, in the file's order.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="The rewards side by side: a table and a PNG.")] = False,
    picture: Annotated[Path | None, typer.Option("--png", metavar="PATH", help="Reward against length.")] = None,
    properties: Annotated[
        Path | None, typer.Option("--properties-json", metavar="PATH", help="The rewards' properties on this file.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show every prompt and rollout.")] = False,
    advantages: Annotated[str, typer.Option("--advantages", metavar="KIND", help="grpo (TRL's) or paper.")] = "grpo",
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="MODULE:FUNCTION", help="Asked by rewards with a judge; may be async."),
    ] = None,
    step: Annotated[
        int,
        typer.Option("--step", metavar="N", min=0, help="Training steps done, for rewards that change on the way."),
    ] = 0,
    total_steps: Annotated[
        int | None, typer.Option("--total-steps", metavar="N", min=1, help="Steps of the whole run, for the same.")
    ] = None,
) -> None:
    """Say what rewards would do to a model: rewards, advantages and what length does, on a file of rollouts."""
    from laconic.launch import score_command
    from laconic.launch.text import console

    asked = score_command.ScoreOptions(
        names, rollouts, tuple(sets), as_json, compare, picture, properties, every, advantages, judge, step, total_steps
    )
    score_command.score(asked, console())


for command in (model_commands.ask, model_commands.calibrate, model_commands.serve, model_commands.compare):
    app.command()(command)


@app.command()
def doctor(
    runs: Runs = Path("runs"),
    online: Annotated[bool, typer.Option("--online", help="Also try to reach the hub.")] = False,
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Meet the other nodes of a job; started once on each by srun or torchrun.")
    ] = False,
    hosts: Annotated[
        str, typer.Option("--hosts", metavar="A,B,...", help="With --nodes: all hosts by rank, to name who is missing.")
    ] = "",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=1.0, help="With --nodes: seconds to wait for others.")
    ] = 60.0,
) -> None:
    """Say what this installation and this machine can do.

    Each line that is not ok ends with what to do about it. With --nodes: whether the nodes of a job reach each other.
    """
    from laconic.launch.collectives import nodes as meet
    from laconic.launch.doctor import examine
    from laconic.launch.text import console, table

    names = [name for name in hosts.split(",") if name]
    findings = meet(hosts=names, shared=runs, timeout=timeout) if nodes else examine(runs=runs, online=online)
    if findings:
        rows = [[found.state, found.subject, found.line] for found in findings]
        console().print(table(["state", "subject", "found"], rows))
    raise typer.Exit(1 if any(found.state == "problem" for found in findings) else 0)


@app.command()
def schema() -> None:
    """Print the recipe format as JSON Schema, for editors."""
    from laconic.recipes.schema import json_schema

    print(json.dumps(json_schema(), indent=2))


if __name__ == "__main__":
    main()
