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

from laconic.launch.problems_argument import HELP as PROBLEMS_HELP
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

MODEL_HELP = "A model folder or hub id, http://host:port/v1#name for a server, or vllm:folder."
ServerOption = Annotated[str, typer.Option("--server", metavar="KIND", help="What kind of server MODEL is.")]
TokenizerOption = Annotated[
    str | None,
    typer.Option("--tokenizer", metavar="NAME", help="Folder or hub id: the tokenizer of a server's model."),
]
RetrieverOption = Annotated[
    str | None,
    typer.Option(
        "--retriever",
        metavar="PLACE",
        help="Where policies search: an index folder, a corpus FILE.jsonl, or http://host:port of a retrieval server.",
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        metavar="N",
        min=1,
        help="Of a completion; by default 1024, or 3/4 of what the model has room for.",
    ),
]
Temperature = Annotated[float, typer.Option("--temperature", metavar="T", min=0.0, help="0 is greedy.")]


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


@app.command()
def ask(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="- for standard input.")],
    policy: Annotated[
        str, typer.Option("--policy", metavar="SPEC", help="name:key=value,...; see `laconic list policies`.")
    ] = "plain",
    max_tokens: MaxTokens = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", min=0.0, help="By default 1; 0 is greedy.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0)] = 0,
    scorer: Annotated[
        str | None, typer.Option("--scorer", metavar="MODULE:FUNCTION", help="For policies that need one.")
    ] = None,
    server: ServerOption = "compatible",
    tokenizer: TokenizerOption = None,
    retriever: RetrieverOption = None,
    engine: Annotated[
        list[str],
        typer.Option("--engine", metavar="NAME=MODEL", help="A further engine, for cascades, routers and drafts."),
    ] = [],  # noqa: B006 - typer copies it
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end, nothing before it.")] = False,
    show_thinking: Annotated[
        bool, typer.Option("--show-thinking/--hide-thinking", help="Print the thinking, or the answer alone.")
    ] = True,
) -> None:
    """Ask one question: the answer as it comes, then the exact account of every token.

    Where the answer goes into a file or a pipe, the account goes to standard error.
    """
    from laconic.launch.ask_command import AskOptions, run_ask
    from laconic.launch.text import console, error_console

    options = AskOptions(
        model=model,
        question=question,
        policy=policy,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        scorer=scorer,
        server=server,
        tokenizer=tokenizer,
        retriever=retriever,
        engines=tuple(engine),
        as_json=as_json,
        show_thinking=show_thinking,
    )
    out = console()
    raise typer.Exit(run_ask(options, out, out if out.is_terminal else error_console()))


@app.command()
def calibrate(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP)] = None,
    policy: Annotated[
        str | None,
        typer.Argument(metavar="[POLICY]", help="A stopping policy: confidence_probe:every=64,suffix=''."),
    ] = None,
    problems: Annotated[str | None, typer.Option("--problems", metavar="FILE|RECIPE", help=PROBLEMS_HELP)] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="TEXT", help='"accuracy drop <= 1 point at 95 %".')
    ] = None,
    thresholds: Annotated[
        str | None,
        typer.Option("--thresholds", metavar="X,Y,...", help="Print what these would have done to the recordings."),
    ] = None,
    from_recordings: Annotated[
        Path | None, typer.Option("--from-recordings", metavar="FILE", help="Decode nothing: use these recordings.")
    ] = None,
    recordings: Annotated[
        Path | None, typer.Option("--recordings", metavar="FILE", help="Where to keep them; by default beside --out.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The artefact.")] = Path("calibration.json"),
    held_out: Annotated[
        str,
        typer.Option(
            "--held-out",
            metavar="SHARE|FILE",
            help="Where the choice is checked: a share of the questions, or problems of its own.",
        ),
    ] = "0.3",
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="The first N problems.")] = None,
    samples: Annotated[int, typer.Option("--samples", metavar="K", min=1, help="Runs of each problem.")] = 1,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0)] = 0,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 1.0,
    bound: Annotated[
        str, typer.Option("--bound", metavar="NAME", help="hoeffding_bentkus, clopper_pearson or betting.")
    ] = "hoeffding_bentkus",
    server: ServerOption = "compatible",
    tokenizer: TokenizerOption = None,
) -> None:
    """Find the threshold of a stopping policy that saves most and keeps a target, with a guarantee."""
    from laconic.launch.calibrate_command import CalibrateOptions, interrupted, run_calibrate
    from laconic.launch.text import console

    options = CalibrateOptions(
        model=model,
        policy=policy,
        problems=problems,
        target=target,
        thresholds=thresholds,
        from_recordings=from_recordings,
        recordings=recordings,
        out=out,
        held_out=held_out,
        limit=limit,
        samples=samples,
        seed=seed,
        max_tokens=max_tokens,
        temperature=temperature,
        bound=bound,
        server=server,
        tokenizer=tokenizer,
    )
    try:
        run_calibrate(options, console())
    except KeyboardInterrupt:
        interrupted(options)
        raise typer.Exit(130) from None


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    policy: Annotated[
        str, typer.Option("--policy", metavar="SPEC", help="Of requests that name none: short_mk:k=4,m=1.")
    ] = "plain",
    allow: Annotated[
        str | None,
        typer.Option("--allow", metavar="NAME[,NAME...]", help="Policies that requests may name; by default all."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen; by default only this machine can connect.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", metavar="NAME", help="The environment variable with clients' key.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The model's name to clients.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", metavar="N", help="Of one completion.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Of requests that name none.")] = None,
    queue: Annotated[int | None, typer.Option("--queue", metavar="N", help="Requests that may wait.")] = None,
    at_once: Annotated[int | None, typer.Option("--at-once", metavar="N", help="Requests that run at once.")] = None,
    max_body: Annotated[int | None, typer.Option("--max-body", metavar="BYTES", help="Of a request.")] = None,
    max_n: Annotated[int | None, typer.Option("--max-n", metavar="N", help="Completions of a request.")] = None,
    max_branches: Annotated[
        int | None, typer.Option("--max-branches", metavar="N", help="Open branches of one completion.")
    ] = None,
    max_request_tokens: Annotated[
        int | None,
        typer.Option("--max-request-tokens", metavar="N", help="Generated for one completion, samples and probes too."),
    ] = None,
    server: ServerOption = "compatible",
    tokenizer: TokenizerOption = None,
    scorer: Annotated[
        str | None, typer.Option("--scorer", metavar="MODULE:FUNCTION", help="For policies that need one.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", metavar="N", help="Branches in a batch.")] = (None),
    retriever: RetrieverOption = None,
) -> None:
    """Serve a model behind the OpenAI protocol, its answers made by a policy."""
    from laconic.launch import serve_command

    serve_command.serve(
        serve_command.ServeOptions(
            model=model,
            policy=policy,
            host=host,
            port=port,
            api_key_env=api_key_env,
            name=name,
            scorer=scorer,
            retriever=retriever,
            allow=allow,
            engine={"server": server, "tokenizer": tokenizer, "batch_size": batch_size},
            limits={
                "max_tokens": max_tokens,
                "temperature": temperature,
                "queue": queue,
                "at_once": at_once,
                "max_body": max_body,
                "max_n": max_n,
                "max_branches": max_branches,
                "max_request_tokens": max_request_tokens,
            },
        )
    )


@app.command()
def compare(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    problems: Annotated[str, typer.Option("--problems", metavar="FILE|RECIPE", help=PROBLEMS_HELP)],
    policy: Annotated[
        list[str],
        typer.Option("--policy", metavar="SPEC", help="short_mk:k=3,m=1 or 'my label=short_mk:k=3,m=1'; repeat it."),
    ],
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="The first N problems.")] = None,
    samples: Annotated[int, typer.Option("--samples", metavar="K", min=1, help="Answers to each problem.")] = 1,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0)] = 0,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 1.0,
    margin: Annotated[
        float, typer.Option("--margin", min=0.0, max=1.0, help="Loss of accuracy that still counts as none.")
    ] = 0.01,
    scorer: Annotated[
        str | None,
        typer.Option("--scorer", metavar="NAME", help="For policies that need one: steps, gold or module:function."),
    ] = None,
    server: ServerOption = "compatible",
    tokenizer: TokenizerOption = None,
    retriever: RetrieverOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write; by default below runs/compare.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of the table.")] = False,
    price_in: Annotated[
        float | None, typer.Option("--price-in", metavar="P", min=0.0, help="Price of a million tokens read.")
    ] = None,
    price_out: Annotated[
        float | None, typer.Option("--price-out", metavar="P", min=0.0, help="Price of a million tokens generated.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Threads; by default idle cores.")
    ] = None,
) -> None:
    """Measure inference policies against no policy: accuracy, tokens, critical path, and what the difference shows."""
    from laconic.launch import compare_command
    from laconic.launch.text import console

    asked = compare_command.CompareOptions(
        model=model,
        policies=tuple(policy),
        problems=problems,
        limit=limit,
        samples=samples,
        seed=seed,
        max_tokens=max_tokens,
        temperature=temperature,
        margin=margin,
        scorer=scorer,
        server=server,
        tokenizer=tokenizer,
        retriever=retriever,
        out=out,
        as_json=as_json,
        price_in=price_in,
        price_out=price_out,
        threads=threads,
    )
    try:
        status = compare_command.compare(asked, console())
    except KeyboardInterrupt:
        print("\ninterrupted; run it again and it goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    raise typer.Exit(status)


@app.command()
def doctor(online: Annotated[bool, typer.Option("--online", help="Also try to reach the hub.")] = False) -> None:
    """Say what this installation and this machine can do."""
    from laconic.launch.doctor import examine
    from laconic.launch.text import console, table

    findings = examine(online=online)
    console().print(
        table(["state", "subject", "found"], [[found.state, found.subject, found.text] for found in findings])
    )
    raise typer.Exit(1 if any(found.state == "problem" for found in findings) else 0)


@app.command()
def schema() -> None:
    """Print the recipe format as JSON Schema, for editors."""
    from laconic.recipes.schema import json_schema

    print(json.dumps(json_schema(), indent=2))


if __name__ == "__main__":
    main()
