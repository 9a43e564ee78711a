"""`laconic ask`: one question to a model or server with a policy, streamed, and the account of its tokens."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from laconic.inference.engine import Engine, Sampling
from laconic.inference.opening import Opened, open_named
from laconic.inference.policies.base import Answer, Ask, Scorer, run_policy
from laconic.inference.policies.calibrated import Calibrated
from laconic.inference.policies.choose import Choice, parse_choice
from laconic.inference.policies.needs import OWN_SCORER, check_needs
from laconic.inference.policies.retrieving import within
from laconic.launch.ask_text import Screen, Splitter, print_account
from laconic.launch.engine_argument import ENGINES, check_asked, completion_tokens, named_models, open_model
from laconic.launch.retriever_argument import open_argument
from laconic.rewards.errors import LaconicError, RecipeError
from laconic.rewards.jsonl import dumps
from laconic.rewards.records import Problem

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """What the command line said."""

    model: str
    question: str
    """``-``: standard input."""
    policy: str = "plain"
    max_tokens: int | None = None
    temperature: float | None = None
    """None: 1, or what a calibrated policy was recorded with; so it is with `max_tokens`."""
    seed: int = 0
    scorer: str | None = None
    server: str = "compatible"
    tokenizer: str | None = None
    retriever: str | None = None
    """Where policies search."""
    engines: tuple[str, ...] = ()
    """Further engines for cascades, routers and drafts, each as ``NAME=MODEL``."""
    as_json: bool = False
    show_thinking: bool = True


@dataclass
class _Run:
    """What there is of the answer, whatever ends the run."""

    screen: Screen | None = None
    ask: Ask | None = None
    answer: Answer | None = None


def run_ask(options: AskOptions, out: Console, account: Console | None = None) -> int:
    """Ask, and print the answer as it comes and the account after it.

    Args:
        options: What the command line said.
        out: Where the answer is printed.
        account: Where the account is printed; None: there, too.

    Returns:
        The exit status: 0, or 130 after Ctrl-C; what there is of answer and account is printed then too.

    Raises:
        RecipeError: there is no question, or the policy or the scorer is wrong.
        ModelError: the model cannot be loaded.
        LaunchError: the engine cannot do what the policy needs.
    """
    choice, question, run = parse_choice(options.policy), _question(options.question), _Run()
    scorer, others = _scorer(options.scorer, question), named_models(options.engines)
    check_needs(
        choice,
        scorer=scorer is not None,
        retriever=options.retriever is not None,
        engines=others,
        scorer_cure=OWN_SCORER,
        engines_cure=ENGINES,
    )
    check_asked(others, [choice])
    status = 0
    try:
        opened = open_model(options.model, server=options.server, tokenizer=options.tokenizer)
        further = open_named(others, beside=opened, open_one=open_model)
        engines = {name: other.engine for name, other in further.items()}
        asyncio.run(_answer(opened, choice, question, scorer, engines, options, run, out))
    except KeyboardInterrupt:
        status = INTERRUPTED
    except LaconicError:
        if run.screen is not None:
            run.screen.end_line()
        raise
    if run.ask is None:
        return status
    if options.as_json:
        print(dumps(_as_json(options, choice, question, run)))
        return status
    assert run.screen is not None
    run.screen.finish(run.answer.text if run.answer else None)
    print_account(account or out, run.ask.ledger, run.answer)
    return status


async def _answer(
    opened: Opened,
    choice: Choice,
    question: str,
    scorer: Scorer | None,
    engines: Mapping[str, Engine],
    options: AskOptions,
    run: _Run,
    out: Console,
) -> None:
    policy = within(choice.build(), opened.positions)
    sampling = _sampling(options, policy, opened, question)
    _warn(policy, opened, sampling)
    retriever = open_argument(options.retriever, patience=0.0)
    given = {"scorer": scorer, "retriever": retriever, "engines": engines}
    ask = opened.ask(question, sampling=sampling, seed=options.seed, **given)
    splitter = Splitter(ask.think_open, ask.think_close, thinks=opened.opens_thinking)
    run.screen = Screen(out, splitter, show_thinking=options.show_thinking)
    if not options.as_json:
        ask.listener = run.screen.hear
    run.ask = ask
    try:
        run.answer = await run_policy(policy, ask)
    finally:
        for engine in {opened.engine, *engines.values()}:
            await engine.aclose()
        if retriever is not None:
            await retriever.aclose()


def _sampling(options: AskOptions, policy: Any, opened: Opened, question: str) -> Sampling:
    recorded = policy.calibration.provenance.get("sampling", {}) if isinstance(policy, Calibrated) else {}
    temperature = recorded.get("temperature", 1.0) if options.temperature is None else options.temperature
    asked = recorded.get("max_tokens") if options.max_tokens is None else options.max_tokens
    return Sampling(temperature=temperature, max_tokens=completion_tokens(opened, [question], asked))


def _warn(policy: Any, opened: Opened, sampling: Sampling) -> None:
    """Say where a calibration's guarantee does not reach."""
    if isinstance(policy, Calibrated):
        for differing in policy.misfits(model=opened.name, sampling=sampling):
            print(f"note: the calibration's guarantee is not for this: {differing}", file=sys.stderr)


def _question(text: str) -> str:
    question = (sys.stdin.read() if text == "-" else text).strip()
    if not question:
        raise RecipeError("no question", cure='laconic ask MODEL "3 + 4 =", or - to read it from standard input')
    return question


def _scorer(name: str | None, question: str) -> Scorer | None:
    if name is None:
        return None
    from laconic.data_gen.scorers import SCORERS, find_scorer

    if name in SCORERS:
        lacks = "gold answer" if name == "gold" else "known steps"
        raise RecipeError(f"scorer {name}: a question that is asked has no {lacks}", cure="name module:function")
    return find_scorer(name)(Problem("question", question, "", "exact"))


def _as_json(options: AskOptions, choice: Choice, question: str, run: _Run) -> dict[str, Any]:
    assert run.ask is not None
    answer = run.answer
    return {
        "model": options.model,
        "policy": choice.to_json(),
        "question": question,
        "text": answer.text if answer else None,
        "answer": answer.answer if answer else None,
        "finish": answer.finish if answer else "cancelled",
        "confidence": answer.confidence if answer else None,
        "ledger": run.ask.ledger.to_json(),
        "notes": dict(answer.notes) if answer else {},
    }
