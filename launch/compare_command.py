"""`laconic compare`: inference policies against no policy, on the same problems with the same random numbers."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from laconic.data_gen.scorers import SCORERS, find_scorer
from laconic.eval.policy_digests import model_digest, module_digest
from laconic.inference.policies.choose import Choice, parse_choice
from laconic.inference.policies.needs import check_needs
from laconic.launch.compare_folder import engine_entry, prepare
from laconic.launch.compare_text import print_results
from laconic.launch.engine_argument import ENGINES, MOST_TOKENS, check_asked, check_model, named_models
from laconic.launch.environment import QUIET
from laconic.launch.lines import short
from laconic.launch.lock import run_lock
from laconic.launch.problems_argument import load_argument
from laconic.launch.process import ERROR, LOG, explain, run_process, start_log
from laconic.launch.threads import choose_threads
from laconic.recipes.policy_entry import file_name
from laconic.rewards.errors import RecipeError
from laconic.rewards.jsonl import dumps
from laconic.rewards.records import Problem

RESULTS = "results.json"
_CONTENTS = ("model_sha256", "scorer_sha256")
"""Digests of a local model's files and of a scorer's module: they can be rewritten in place."""
_IDENTITY = (
    *("model", "server", "tokenizer", "problems_sha256", "sampling", "samples", "seed", "scorer", "retriever"),
    *_CONTENTS,
)
"""What answers depend on besides their policy: answers of one folder share it."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What the command line said."""

    model: str
    policies: tuple[str, ...]
    problems: str
    limit: int | None = None
    samples: int = 1
    seed: int = 0
    max_tokens: int | None = None
    temperature: float = 1.0
    margin: float = 0.01
    scorer: str | None = None
    server: str = "compatible"
    tokenizer: str | None = None
    retriever: str | None = None
    """Where policies search."""
    engines: tuple[str, ...] = ()
    """Further engines for cascades, routers and drafts, each as ``NAME=MODEL``."""
    out: Path | None = None
    as_json: bool = False
    price_in: float | None = None
    price_out: float | None = None
    threads: int | None = None


def compare(options: CompareOptions, out: Console) -> int:
    """Run the comparison in a process of its own and show what came of it; returns the exit code.

    Raises:
        RecipeError: a policy, a parameter or a price is wrong.
        DataError: something is wrong with the problems, or the folder holds another comparison.
        LaunchError: a policy lacks a retriever or an engine.
        ModelError: a model folder lacks a part.
    """
    choices = read_policies(options)
    problems = load_argument(options.problems, limit=options.limit)
    check_model(options.model, server=options.server, tokenizer=options.tokenizer)
    for model in named_models(options.engines).values():
        check_model(model)
    _check_scorer(options.scorer, problems)
    settings = _settings(options, choices, problems)
    folder = options.out or Path("runs") / "compare" / _default_name(settings)
    with run_lock(folder) as lock:
        earlier, before = prepare(folder, settings, problems, identity=_IDENTITY), _version(folder)
        if earlier and not options.as_json:
            out.print(f"besides those compared here before: {', '.join(earlier)}", style="dim", markup=False)
        status = _run(options, folder, lock, out)
    # The process replaces the results as a whole; where it failed before that, they are of an earlier comparison.
    if status not in (0, 2) or _version(folder) == before:
        return status
    if options.as_json:
        print((folder / RESULTS).read_text(encoding="utf-8"), end="")
        return status
    print_results(out, json.loads((folder / RESULTS).read_text(encoding="utf-8")))
    out.print(f"\nreport: {short(folder / 'report.md')}", markup=False)
    return status


def _version(folder: Path) -> tuple[int, int] | None:
    """Tells the results from those that another run of the process wrote; None: there are none."""
    path = folder / RESULTS
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None


def _check_scorer(name: str | None, problems: Sequence[Problem]) -> None:
    """Refuse a scorer that there is not, or that cannot judge one of the problems.

    One's own is looked for where it will run.
    """
    if name is None or (name not in SCORERS and ":" in name):
        return
    make = find_scorer(name)
    for problem in problems:
        make(problem)


def read_policies(options: CompareOptions) -> list[Choice]:
    """The policies that are named, checked.

    Raises:
        RecipeError: none, an unknown one, two of one label, one that needs a scorer and has none, or an engine that
            none asks.
        LaunchError: one that searches, and no retriever; or one that asks an engine that is not given.
    """
    if not options.policies:
        raise RecipeError("no policy is named", cure="--policy short_mk:k=3,m=1; `laconic list policies` has them all")
    choices, engines = [parse_choice(text) for text in options.policies], named_models(options.engines)
    seen = {file_name("none")}
    for choice in choices:
        if file_name(choice.label) in seen:
            cure = "name each once, or give one a label: --policy 'my label=name:key=value'"
            raise RecipeError(f"--policy {choice}: the label {choice.label!r} is taken", cure=cure)
        seen.add(file_name(choice.label))
        given = {"scorer": options.scorer is not None, "retriever": options.retriever is not None}
        check_needs(choice, **given, engines=engines, engines_cure=ENGINES)
    check_asked(engines, choices)
    if (options.price_in is None) != (options.price_out is None):
        raise RecipeError("one price without the other", cure="give --price-in and --price-out, per million tokens")
    return choices


def _settings(options: CompareOptions, choices: list[Choice], problems: list[Problem]) -> dict[str, Any]:
    """What the process reads: `laconic.eval.compare.Comparison`, and a digest of the problems."""
    prices = None if options.price_in is None else {"prompt": options.price_in, "generated": options.price_out}
    text = "".join(dumps(problem.to_json()) for problem in problems)
    engines = named_models(options.engines)
    room = min(_room(model) for model in (options.model, *engines.values()))
    return {
        "model": options.model,
        "name": model_name(options.model),
        "source": options.problems,
        "problems_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "policies": [choice.to_json() for choice in choices],
        "sampling": {"temperature": options.temperature, "max_tokens": options.max_tokens or room},
        "samples": options.samples,
        "seed": options.seed,
        "margin": options.margin,
        "scorer": options.scorer,
        "server": options.server,
        "tokenizer": options.tokenizer,
        "retriever": options.retriever,
        "engines": {name: engine_entry(model) for name, model in sorted(engines.items())},
        "model_sha256": model_digest(options.model),
        "scorer_sha256": module_digest(options.scorer),
        "prices": prices,
    }


def _room(model: str) -> int:
    """Tokens of a completion where nothing is said: 3/4 of a local model's positions, if they are few."""
    file = Path(model) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return min(MOST_TOKENS, config.get("max_position_embeddings", 2 * MOST_TOKENS) * 3 // 4)


def model_name(model: str) -> str:
    """What tables call a model.

    >>> model_name("runs/quickstart/02-sft-076e4201/model"), model_name("http://localhost:8000/v1#Qwen/Qwen3-8B")
    ('02-sft-076e4201', 'Qwen3-8B')
    """
    parts = [part for part in model.removeprefix("vllm:").rpartition("#")[2].split("/") if part not in ("", ".", "..")]
    return parts[-2] if parts[-1:] == ["model"] and len(parts) > 1 else parts[-1] if parts else "model"


def _default_name(settings: dict[str, Any]) -> str:
    """Equal for comparisons that can share answers."""
    # Without these the name stays what it was before there were any.
    later = ("retriever", *_CONTENTS)
    told = {key: settings[key] for key in _IDENTITY if key not in later or settings[key] is not None}
    if settings["engines"]:
        told["engines"] = settings["engines"]
    digest = hashlib.sha256(dumps(told).encode()).hexdigest()[:8]
    return f"{file_name(settings['name'])}-{digest}"


def _run(options: CompareOptions, folder: Path, lock: int, out: Console) -> int:
    """Start the process; its progress goes where it does not mix with JSON."""
    argv = [sys.executable, "-m", "laconic.eval.compare", str(folder)]
    threads = choose_threads(1, requested=options.threads)
    env = {**QUIET, **os.environ, "OMP_NUM_THREADS": str(threads.count)}
    if not options.as_json:
        number = f"{threads.count} thread{'s' if threads.count > 1 else ''}"
        out.print(f"comparing in {short(folder)}, {number}", style="dim", markup=False)
    log_start = start_log(folder, f"python -m laconic.eval.compare {short(folder)}")
    stdout = sys.stderr.fileno() if options.as_json else None
    status = run_process(argv, log=folder / LOG, env=env, stdout=stdout, lock=lock)
    if status:
        failure = explain(folder, status, log_start)
        print(failure.message, file=sys.stderr, flush=True)
        (folder / ERROR).unlink(missing_ok=True)
        return failure.exit_code
    return 0
