"""What a policy is, and what it is given.

A policy is a frozen dataclass whose fields are its parameters and whose ``async def run(self, ask) -> Answer`` is the
paper's rule, written against branches alone. It is entered under its own name by the decorator `policy`::

    @policy(paper="arXiv:2203.11171", requires=())
    @dataclass(frozen=True)
    class SelfConsistency:
        samples: int = 10

        async def run(self, ask: Ask) -> Answer: ...
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import inspect
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, TypeAlias

from laconic.inference.engine import Branch, Capability, Engine, Prompt, Sampling, check_capabilities
from laconic.inference.ledger import Ledger
from laconic.inference.policies.following import Following
from laconic.inference.policies.parameters import check_parameters
from laconic.inference.retrieval.protocol import Retriever
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN
from laconic.inference.vocabulary import Vocabulary
from laconic.rewards.boxed import last_boxed
from laconic.rewards.errors import LaunchError, RecipeError

Finish: TypeAlias = Literal["stop", "length", "policy_stop", "abstained"]
"""How an answer ended: by the model itself, cut by a token limit, cut by the policy's rule, or withheld."""
Scorer: TypeAlias = Callable[[str, Sequence[str]], Awaitable[Sequence[float]]]
"""A verifier, reward model or judge: the prompt and candidate texts in, one number per candidate out."""
Equal: TypeAlias = Callable[[str, str], bool]


@dataclass(frozen=True)
class Answer:
    """What a policy came to."""

    text: str
    """The completion that is returned; forced text is part of it."""
    answer: str | None
    """The answer read from it; None if there is none to read, or if the policy abstains."""
    finish: Finish
    ledger: Ledger
    confidence: float | None = None
    """From 0 to 1 where the policy has one."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the policy looked at: probes, votes, scores; as JSON can hold it."""


@dataclass
class Ask:
    """One question, and everything a policy may use to answer it."""

    engine: Engine
    prompt: Prompt
    ledger: Ledger
    sampling: Sampling = field(default_factory=Sampling)
    """`max_tokens` is the budget of one whole completion, thinking and answer."""
    seed: int = 0
    think_open: str = THINK_OPEN
    think_close: str = THINK_CLOSE
    opens_thinking: bool = False
    """The chat template already ends the prompt with the opening tag."""
    extract: Callable[[str], str | None] = field(default=lambda text: read_answer(text))
    """Reads the answer from the text after the thinking; None if there is none."""
    equal: Equal = field(default=lambda one, other: one.strip() == other.strip())
    """Whether two answers are the same."""
    scorer: Scorer | None = None
    """For policies that need a verifier, a process reward model or a judge."""
    engines: Mapping[str, Engine] = field(default_factory=dict)
    """Further engines by name, for cascades, routers and drafts."""
    vocabulary: Vocabulary | None = None
    """What the model's tokens say; None where its tokenizer is not known."""
    retriever: Retriever | None = None
    """For policies that search."""
    listener: Callable[[str], None] | None = None
    """Gets the text of the returned completion as it comes, a piece at a time: what it got is always a beginning of
    `Answer.text`. Policies that choose among several completions tell it little or nothing before they have chosen."""
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Closes what a policy leaves open."""
    told: list[str] = field(default_factory=list)
    """What the listener got so far."""
    speakers: list[Branch] = field(default_factory=list)
    """The branches that it got it from, as far as they were named."""

    @property
    def rng(self) -> random.Random:
        """Random numbers of this question: the same sequence whenever it is asked for."""
        return random.Random(self.seed)

    def open(
        self,
        *,
        sample: int = 0,
        engine: Engine | None = None,
        sampling: Sampling | None = None,
        follow: bool = False,
    ) -> Branch:
        """A branch at the end of the prompt, entered into the ledger, closed as discarded if nobody closes it.

        Args:
            sample: Branches of one question differ by it, reproducibly.
            engine: Instead of the question's own.
            sampling: Instead of the question's own.
            follow: As `follow`, from the beginning.
        """
        branch = (engine or self.engine).open(
            self.prompt,
            ledger=self.ledger,
            sampling=sampling or self.sampling,
            seed=sample_seed(self.seed, sample),
        )
        self.stack.push_async_callback(branch.close, "discarded")
        return self.follow(branch) if follow else branch

    def follow(self, branch: Branch) -> Branch:
        """This branch's text will be the answer's: the listener gets what there is of it, and what comes, as it comes.

        Only for a branch whose text is returned whatever happens. Without a listener nothing changes.

        Returns:
            What to use instead of the branch from now on.
        """
        if self.listener is None:
            return branch
        self.tell(branch.text, branch)
        return Following(branch, self._hand_on)

    def tell(self, text: str, branch: Branch | None = None) -> None:
        """The returned completion will begin with this text: the listener gets what is new in it.

        Args:
            text: All of it.
            branch: Holds it. If nobody wants to hear more, this branch is what was returned.
        """
        if self.listener is None:
            return
        if branch is not None and branch not in self.speakers:
            self.speakers.append(branch)
        before = "".join(self.told)
        assert text.startswith(before), "the listener was told something else"
        if len(text) > len(before):
            self._hand_on(text[len(before) :])

    def _hand_on(self, text: str) -> None:
        assert self.listener is not None
        self.told.append(text)
        self.listener(text)

    async def fork(self, branch: Branch, *, back: int = 0) -> Branch:
        """A fork that is closed as discarded if nobody closes it.

        Args:
            branch: Of which.
            back: As in `Branch.fork`.
        """
        fork = await branch.fork(back=back)
        self.stack.push_async_callback(fork.close, "discarded")
        return fork

    async def score(self, texts: Sequence[str]) -> Sequence[float]:
        """The scorer's numbers.

        Raises:
            LaunchError: nobody gave one.
        """
        if self.scorer is None:
            raise LaunchError("this policy needs a scorer", cure="pass scorer=: a verifier, reward model or judge")
        return await self.scorer(str(self.prompt), texts)

    def find(self, answer: str, among: Sequence[str]) -> int | None:
        """The place of the first equal answer."""
        return next((place for place, other in enumerate(among) if self.equal(answer, other)), None)


def sample_seed(seed: int, sample: int) -> int:
    """The seed of one of a question's branches: sample 0 has the question's own, others a 63-bit hash of both.

    So one plain completion says what the engine says with that seed, and neighbouring seeds share no samples.
    """
    if sample == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{sample}".encode(), digest_size=8).digest()) >> 1


class Policy(Protocol):
    """An inference algorithm over branches."""

    async def run(self, ask: Ask) -> Answer:
        """Answer one question."""
        ...


@dataclass(frozen=True)
class Registered:
    """A policy class and what its registration says."""

    name: str
    policy: type[Any]
    paper: str
    requires: frozenset[Capability]
    scorer: bool
    instead: str | None = None
    """The parameter that can stand in for the scorer."""
    engines: Callable[[Any], tuple[str, ...]] | None = None
    """The names in `Ask.engines` that a policy asks; None: it asks the question's own engine alone."""

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.policy) or "").splitlines()[0]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its parameters."""
        return tuple(item.name for item in fields(self.policy))

    def engine_names(self, chosen: Any) -> tuple[str, ...]:
        """The further engines that a policy of this class asks."""
        return () if self.engines is None else self.engines(chosen)

    def lacks_scorer(self, chosen: Any) -> bool:
        """Whether a policy of this class needs `Ask.scorer`: nothing stands in for it."""
        return self.scorer and (self.instead is None or getattr(chosen, self.instead) is None)

    def build(self, parameters: Mapping[str, Any] | None = None) -> Policy:
        """The policy with its parameters.

        Raises:
            RecipeError: a parameter is unknown, missing, or not of its type or range.
        """
        check_parameters(self.name, self.policy, parameters or {})
        return self.policy(**(parameters or {}))


POLICIES: dict[str, Registered] = {}


def policy(
    *,
    paper: str,
    requires: Sequence[Capability] = (),
    scorer: bool = False,
    instead: str | None = None,
    engines: Callable[[Any], tuple[str, ...]] | None = None,
) -> Callable[[type[Any]], type[Any]]:
    """Enter a policy class under the snake-case form of its name.

    Args:
        paper: Where the rule is from; ``-`` for common practice.
        requires: What the engine must be able to do.
        scorer: It needs `Ask.scorer`.
        instead: The parameter that stands in for the scorer where it is given.
        engines: Given the policy, the names in `Ask.engines` that it needs.
    """

    def enter(policy_class: type[Any]) -> type[Any]:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", policy_class.__name__).lower()
        assert name not in POLICIES, f"two policies named {name}"
        POLICIES[name] = Registered(name, policy_class, paper, frozenset(requires), scorer, instead, engines)
        return policy_class

    return enter


def find(name: str) -> Registered:
    """Look a policy up.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, n=1)
        cure = f"did you mean {near[0]}?" if near else f"the policies are {', '.join(sorted(POLICIES))}"
        raise RecipeError(f"unknown policy {name!r}", cure=cure)
    return POLICIES[name]


async def run_policy(chosen: Policy, ask: Ask) -> Answer:
    """Answer one question: capabilities are checked before the first token, and nothing is left open after the last.

    Raises:
        LaunchError: the engine lacks something, or there is no scorer where one is needed.
    """
    registered = next((item for item in POLICIES.values() if item.policy is type(chosen)), None)
    if registered is not None:
        check_capabilities(ask.engine, registered.requires, who=f"policy {registered.name}")
        if registered.lacks_scorer(chosen) and ask.scorer is None:
            raise LaunchError(f"policy {registered.name} needs a scorer", cure="pass a verifier, reward model or judge")
    try:
        return await chosen.run(ask)
    finally:
        # Cancelled or failed, also right here, branches are freed and what they generated is settled.
        closing = asyncio.ensure_future(ask.stack.aclose())
        try:
            await asyncio.shield(closing)
        finally:
            await asyncio.wait([closing])
            ask.ledger.finish()


def read_answer(text: str) -> str | None:
    r"""The answer in a final text: the last ``\boxed{}`` if there is one, else the whole text.

    >>> read_answer(r"so it is \boxed{\frac{1}{2}}."), read_answer(" 7 "), read_answer("  ")
    ('\\frac{1}{2}', '7', None)
    """
    boxed = last_boxed(text)
    return (text if boxed is None else boxed).strip() or None
