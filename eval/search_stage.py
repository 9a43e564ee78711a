"""The search episodes of an eval stage: every model answers with searches, closed book, and held to few searches.

Episodes are kept beside the other rollouts of the stage; what serves to measure them is in `searches/`, a folder per
model. An episode that made no more searches than it would be held to is not drawn again: it would come out the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.eval.policy_results import Prices
from laconic.eval.results import Settings
from laconic.eval.search_results import Asked, search_results
from laconic.inference.opening import Opened as Opening
from laconic.inference.trace import prompt_text, template_opens_thinking
from laconic.rewards.records import Problem, Rollout

if TYPE_CHECKING:
    from laconic.recipes.entry import Opened
    from laconic.recipes.stages import EvalStage

FOLDER = "searches"
BUDGETS = (0, 1, 2, 3)
"""Searches to which episodes are held, to see what each search is worth."""


def ask_with_searches(opened: Opened, name: str, problems: Sequence[Problem]) -> tuple[Asked, str, str]:
    """Run the episodes of one model; what a killed stage ran is kept.

    Args:
        opened: The stage; it has `search`.
        name: Of the model.
        problems: To ask.

    Returns:
        What it did, its chat template's text for the first problem, and the template.

    Raises:
        LaconicError: the model or the retriever cannot be opened, or failed.
    """
    from laconic.data_gen.episode_rollouts import sample_episodes
    from laconic.data_gen.retrievers import open_for
    from laconic.inference.engines.loading import load_model
    from laconic.inference.engines.transformers import TransformersEngine
    from laconic.inference.retrieval.batching import BatchingRetriever

    stage, config, role = opened.stage, opened.stage.config, f"model:{name}"
    search = stage.search
    assert search is not None
    retriever = BatchingRetriever(open_for(opened))
    given = stage.model.model_dump(include={"dtype", "attn_implementation"})
    model, tokenizer = load_model(opened.model_dir(role), revision=opened.revision(role), **given)
    engine = TransformersEngine(model, tokenizer, signals=False)
    asking = Opening(engine, name, tokenizer, template_opens_thinking(tokenizer), engine.eos_ids)
    with asyncio.Runner() as runner:
        draw = partial(
            sample_episodes,
            asking,
            retriever,
            problems,
            search=search,
            samples=config.samples,
            sampling=config.sampling.build(),
            seed=stage.seed,
            model=stage.model,
            clocked=True,
            runner=runner,
        )
        try:
            asked = _ask(draw, opened.work, name, search.max_searches)
        finally:
            runner.run(engine.aclose())
            runner.run(retriever.aclose())
    example = prompt_text(tokenizer, search.prompt(problems[0].prompt))
    return asked, example, str(tokenizer.chat_template)


def _ask(draw: Any, work: Path, name: str, most: int) -> Asked:
    episodes = draw(path=work / "rollouts" / f"{name}.jsonl", source=name)
    folder = work / FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    closed = draw(path=folder / "closed_book.jsonl", source=f"{name}, closed book", searches_enabled=False)
    budgets = {}
    for budget in BUDGETS:
        beyond = [row for row in episodes if searches_of(row) > budget] if budget < most else []
        keys = [(row.problem_id, row.sample) for row in beyond]
        held = {"keys": keys, "max_searches": budget, "source": f"{name}, {budget} searches"}
        again = draw(path=folder / f"held_to_{budget}.jsonl", **held) if keys else []
        budgets[budget] = _replaced(episodes, again)
    return Asked(episodes=episodes, closed_book=closed, budgets=budgets)


def searches_of(rollout: Rollout) -> int:
    """Executed searches of an episode."""
    return len(rollout.meta["search"]["searches"])


def _replaced(episodes: Sequence[Rollout], again: Sequence[Rollout]) -> list[Rollout]:
    fresh = {(row.problem_id, row.sample): row for row in again}
    return [fresh.get((row.problem_id, row.sample), row) for row in episodes]


def measured_searches(
    opened: Opened, problems: Sequence[Problem], asked: Mapping[str, Asked], settings: Settings
) -> dict[str, Any]:
    """The searches' part of `results.json`."""
    config: EvalStage = opened.stage.config
    search = opened.stage.search
    assert search is not None
    prices = Prices(config.prices.prompt, config.prices.generated) if config.prices else None
    about = search.model_dump(mode="json", exclude_none=True)
    return search_results(problems, asked, settings, most=search.max_searches, prices=prices, about=about)
