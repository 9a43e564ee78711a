"""The commands that talk to a model: ask, calibrate, serve, compare. Each hands its options to a module of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from laconic.launch.problems_argument import HELP as PROBLEMS_HELP

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
Engines = Annotated[
    list[str],
    typer.Option("--engine", metavar="NAME=MODEL", help="A further engine, for cascades, routers and drafts."),
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
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Seed = Annotated[int, typer.Option("--seed", metavar="S", min=0)]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="The first N problems.")]
Scorer = Annotated[str | None, typer.Option("--scorer", metavar="MODULE:FUNCTION", help="For policies that need one.")]
Bounds = Annotated[str, typer.Option("--bound", metavar="NAME", help="hoeffding_bentkus, clopper_pearson or betting.")]
HeldOut = Annotated[
    str,
    typer.Option(
        "--held-out",
        metavar="SHARE|FILE",
        help="Where the choice is checked: a share of the questions, or problems of its own.",
    ),
]
RequestTokens = Annotated[
    int | None,
    typer.Option("--max-request-tokens", metavar="N", help="Generated for one completion, samples and probes too."),
]
Allow = Annotated[
    str | None,
    typer.Option("--allow", metavar="NAME[,NAME...]", help="Policies that requests may name; by default all."),
]
Policies = Annotated[
    list[str],
    typer.Option("--policy", metavar="SPEC", help="short_mk:k=3,m=1 or 'my label=short_mk:k=3,m=1'; repeat it."),
]
NamedScorer = Annotated[
    str | None,
    typer.Option("--scorer", metavar="NAME", help="For policies that need one: steps, gold or module:function."),
]


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    """A command's options as the fields of the same names; ``--engine`` can be repeated."""
    fields = dict(options)
    if "engine" in fields:
        fields["engines"] = tuple(fields.pop("engine"))
    return fields


def ask(
    model: Model,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="- for standard input.")],
    policy: Annotated[
        str, typer.Option("--policy", metavar="SPEC", help="name:key=value,...; see `laconic list policies`.")
    ] = "plain",
    max_tokens: MaxTokens = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", min=0.0, help="By default 1; 0 is greedy.")
    ] = None,
    seed: Seed = 0,
    scorer: Scorer = None,
    server: ServerOption = "compatible",
    tokenizer: TokenizerOption = None,
    retriever: RetrieverOption = None,
    engine: Engines = [],  # noqa: B006 - typer copies it
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end, nothing before it.")] = False,
    show_thinking: Annotated[
        bool, typer.Option("--show-thinking/--hide-thinking", help="Print the thinking, or the answer alone.")
    ] = True,
) -> None:
    """Ask one question: the answer as it comes, then the exact account of every token.

    Where the answer goes into a file or a pipe, the account goes to standard error.
    """
    given = _fields(locals())
    from laconic.launch.ask_command import AskOptions, run_ask
    from laconic.launch.text import console, error_console

    options = AskOptions(**given)
    out = console()
    raise typer.Exit(run_ask(options, out, out if out.is_terminal else error_console()))


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
    held_out: HeldOut = "0.3",
    limit: Limit = None,
    samples: Annotated[int, typer.Option("--samples", metavar="K", min=1, help="Runs of each problem.")] = 1,
    seed: Seed = 0,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 1.0,
    bound: Bounds = "hoeffding_bentkus",
    server: ServerOption = "compatible",
    tokenizer: TokenizerOption = None,
) -> None:
    """Find the threshold of a stopping policy that saves most and keeps a target, with a guarantee."""
    given = _fields(locals())
    from laconic.launch.calibrate_command import CalibrateOptions, interrupted, run_calibrate
    from laconic.launch.text import console

    options = CalibrateOptions(**given)
    try:
        run_calibrate(options, console())
    except KeyboardInterrupt:
        interrupted(options)
        raise typer.Exit(130) from None


def serve(
    model: Model,
    policy: Annotated[
        str, typer.Option("--policy", metavar="SPEC", help="Of requests that name none: short_mk:k=4,m=1.")
    ] = "plain",
    allow: Allow = None,
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
    max_request_tokens: RequestTokens = None,
    server: ServerOption = "compatible",
    tokenizer: TokenizerOption = None,
    scorer: Scorer = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", metavar="N", help="Branches in a batch.")] = None,
    retriever: RetrieverOption = None,
    engine: Engines = [],  # noqa: B006 - typer copies it
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
            engines=tuple(engine),
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


def compare(
    model: Model,
    problems: Annotated[str, typer.Option("--problems", metavar="FILE|RECIPE", help=PROBLEMS_HELP)],
    policy: Policies,
    limit: Limit = None,
    samples: Annotated[int, typer.Option("--samples", metavar="K", min=1, help="Answers to each problem.")] = 1,
    seed: Seed = 0,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 1.0,
    margin: Annotated[
        float, typer.Option("--margin", min=0.0, max=1.0, help="Loss of accuracy that still counts as none.")
    ] = 0.01,
    scorer: NamedScorer = None,
    server: ServerOption = "compatible",
    tokenizer: TokenizerOption = None,
    retriever: RetrieverOption = None,
    engine: Engines = [],  # noqa: B006 - typer copies it
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
    given = _fields(locals())
    from laconic.launch import compare_command
    from laconic.launch.text import console

    asked = compare_command.CompareOptions(policies=tuple(given.pop("policy")), **given)
    try:
        status = compare_command.compare(asked, console())
    except KeyboardInterrupt:
        print("\ninterrupted; run it again and it goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    raise typer.Exit(status)
