"""Routing: look at the question first, then decide who answers it, and how.

A router is injected: any ``async (Ask) -> float``, `LabelRouter` for one that is itself a language model, or by default
the question's scorer, asked about an empty completion.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laconic.inference.engine import Capability, Engine, Prompt
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.cascade import named_engine
from laconic.inference.policies.plain import answer_of, finish
from laconic.rewards.errors import LaunchError, RecipeError

Router: TypeAlias = Callable[[Ask], Awaitable[float]]
Difficulty: TypeAlias = Literal["easy", "normal", "hard"]
Probe: TypeAlias = Callable[[Ask], Awaitable[Sequence[float]]]
"""The question in; scores of easy, normal and hard out."""

DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)
_EMPTY_THOUGHT = "\n\n"


@dataclass(frozen=True)
class LabelRouter:
    """A router that is a language model: it reads the question and writes a label; its tokens have the role route.

    Args:
        engine: Its name in `Ask.engines`.
        question: What it is asked; ``{prompt}`` is the question to route.
        labels: What each label stands for. The label that comes first in its reply counts, upper case or lower.
        otherwise: What a reply without a label stands for.
        max_tokens: Of the reply.
    """

    engine: str
    question: str
    labels: Mapping[str, Any]
    otherwise: Any
    max_tokens: int = 8

    async def __call__(self, ask: Ask) -> Any:
        """What the label stands for."""
        prompt = self.question.replace("{prompt}", last_message(ask.prompt))
        branch = replace(ask, prompt=prompt).open(engine=named_engine(ask, self.engine))
        reply = (await branch.generate(max_tokens=self.max_tokens, role="route")).text.lower()
        await branch.close("discarded")
        found = [(reply.find(label.lower()), label) for label in self.labels if label.lower() in reply]
        return self.labels[min(found)[1]] if found else self.otherwise


def goes_to_strong(win_rate: float, threshold: float) -> bool:
    """Whether the strong engine answers: its predicted win rate is at least the threshold."""
    return win_rate >= threshold


def calibrate_call_share(win_rates: ArrayLike, strong_share: ArrayLike) -> NDArray[Any]:
    """The threshold at which a share of the questions goes to the strong engine: the ``1 - share`` quantile.

    It calibrates a share of *calls*, not an accuracy: for that use `laconic.inference.calibrate`.

    Args:
        win_rates: (n,) the router's numbers on calibration questions.
        strong_share: One share or many, in 0 to 1.

    >>> calibrate_call_share([0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.25]).tolist()
    [0.3, 0.4]
    """
    return np.quantile(np.asarray(win_rates, dtype=float), 1.0 - np.asarray(strong_share, dtype=float))


@policy(
    paper="arXiv:2404.14618",
    scorer=True,
    instead="router",
    engines=lambda chosen: (chosen.weak, chosen.strong),
)
@dataclass(frozen=True)
class HybridRouter:
    """Send a question to the strong engine if its predicted win rate is at least the threshold, else to the weak one.

    Source: Hybrid LLM; RouteLLM (arXiv:2406.18665), whose code fits the threshold to a share of calls
    (`calibrate_call_share`). Exactly one engine answers.

    Ours: the threshold of 0.5, for a router that was not calibrated.
    """

    weak: str = "weak"
    """Name in `Ask.engines`."""
    strong: str = "strong"
    """Name in `Ask.engines`."""
    threshold: float = 0.5
    """Win rate of the strong engine, in the router's units."""
    router: Router | None = None
    """None: the scorer."""

    async def run(self, ask: Ask) -> Answer:
        """Route, then answer."""
        weak, strong = named_engine(ask, self.weak), named_engine(ask, self.strong)
        win_rate = await _routed(ask, self.router)
        to_strong = goes_to_strong(win_rate, self.threshold)
        notes = {"win_rate": win_rate, "engine": self.strong if to_strong else self.weak}
        return await _answered(ask, notes, engine=strong if to_strong else weak)


@policy(paper="-", requires=(Capability.PREFIX,), scorer=True, instead="router")
@dataclass(frozen=True)
class SemanticSwitch:
    """Think only about questions that a classifier says are worth it; for the others thinking is closed at once.

    Source: semantic-router (vLLM), where the category of a question decides whether reasoning is on; the classifier is
    injected here. Ours: the threshold, and an empty thought of two line breaks as the form of not thinking.
    """

    threshold: float = 0.5
    """Thinking is on if the classifier's number is at least this."""
    router: Router | None = None
    """How much the question is worth thinking about. None: the scorer."""

    async def run(self, ask: Ask) -> Answer:
        """Classify, then answer with or without thinking."""
        worth = await _routed(ask, self.router)
        thinks = worth >= self.threshold
        notes = {"worth": worth, "thinks": thinks}
        opening = "" if ask.opens_thinking else ask.think_open
        return await _answered(ask, notes, forced="" if thinks else f"{opening}{_EMPTY_THOUGHT}{ask.think_close}\n\n")


@dataclass(frozen=True, slots=True)
class Strategy:
    """How questions of one difficulty are answered."""

    suffix: str = ""
    """Put after the question."""
    temperature: float | None = None
    """None: the question's own."""
    budget: float = 1.0
    """Share of the question's `max_tokens`, thinking and answer."""


# DiffAdapt's constants are not published: these are ours, in the spirit of its abstract (little for what is easy).
EASY = Strategy("\nAnswer directly, without long thinking.", 0.5, 0.4)
NORMAL = Strategy()
HARD = Strategy("\nThink step by step, and do not go back to what you have settled.")


def difficulty_of(scores: Sequence[float]) -> Difficulty:
    """The difficulty of highest score; of equal ones the harder.

    >>> difficulty_of([0.2, 0.5, 0.3]), difficulty_of([0.4, 0.2, 0.4])
    ('normal', 'hard')
    """
    assert len(scores) == len(DIFFICULTIES)
    return DIFFICULTIES[max(range(len(scores)), key=lambda place: (scores[place], place))]


@policy(paper="arXiv:2510.19669", scorer=True, instead="probe")
@dataclass(frozen=True)
class DifficultyProbe:
    """A probe says whether a question is easy, normal or hard; that fixes prompt, temperature and token budget.

    Source: DiffAdapt, of which the abstract is known: a small probe on the question's last hidden state, three classes,
    and a prompt, a temperature and a maximum length for each. The probe is injected. Ours: every constant of the three
    strategies, ties going to the harder class, and the scorer as default probe (it scores the words easy, normal,
    hard). A budget that cuts the completion leaves it without an answer, as a lower maximum length does.
    """

    easy: Strategy = EASY
    normal: Strategy = NORMAL
    hard: Strategy = HARD
    probe: Probe | None = field(default=None)
    """None: the scorer."""

    def __post_init__(self) -> None:
        for name in DIFFICULTIES:
            given = getattr(self, name)
            strategy = Strategy(**given) if isinstance(given, Mapping) else given
            object.__setattr__(self, name, strategy)
            if not 0.0 < strategy.budget <= 1.0:
                cure = "it is a share of max_tokens, above 0 and at most 1"
                raise RecipeError(f"difficulty_probe: {name}.budget={strategy.budget}", cure=cure)

    async def run(self, ask: Ask) -> Answer:
        """Probe, then answer by the strategy."""
        scores = await (self.probe(ask) if self.probe else ask.score(DIFFICULTIES))
        if len(scores) != len(DIFFICULTIES):
            raise LaunchError(f"the probe gave {len(scores)} scores", cure=f"give one for each of {DIFFICULTIES}")
        difficulty = difficulty_of(scores)
        strategy: Strategy = getattr(self, difficulty)
        sampling = ask.sampling
        if strategy.temperature is not None:
            sampling = replace(sampling, temperature=strategy.temperature)
        sampling = replace(sampling, max_tokens=max(1, int(strategy.budget * ask.sampling.max_tokens)))
        told = replace(ask, prompt=with_suffix(ask.prompt, strategy.suffix), sampling=sampling)
        notes = {"difficulty": difficulty, "scores": [float(score) for score in scores]}
        return await _answered(told, notes, own_budget=sampling.max_tokens < ask.sampling.max_tokens)


def last_message(prompt: Prompt) -> str:
    """The text of the last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def with_suffix(prompt: Prompt, suffix: str) -> Prompt:
    """The prompt with text after its last message."""
    if isinstance(prompt, str):
        return prompt + suffix
    return [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + suffix}]


async def _routed(ask: Ask, router: Router | None) -> float:
    return float(await router(ask) if router else (await ask.score([""]))[0])


async def _answered(
    ask: Ask, notes: Mapping[str, Any], *, engine: Engine | None = None, forced: str = "", own_budget: bool = False
) -> Answer:
    """One completion of the chosen engine, in the chosen way."""
    branch = ask.open(engine=engine, follow=True)
    if forced:
        await branch.extend(forced)
    finished = await finish(ask, branch, budget=ask.sampling.max_tokens)
    await branch.close("kept")
    ended = "stop" if finished else "policy_stop" if own_budget else "length"
    return Answer(branch.text, answer_of(ask, branch.text), ended, ask.ledger, notes=notes)
