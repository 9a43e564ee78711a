"""An engine as one run sees it: with limits on its open branches and on all that it generates, so that no request can
ask for millions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from laconic.inference.engine import Branch, Chunk, Engine, Hook, Prompt, Sampling, Token
from laconic.inference.ledger import Fate, Ledger
from laconic.inference.server.refusals import Refused


@dataclass(eq=False)
class Count:
    """What one run has done."""

    open_branches: int = 0
    generated: int = 0


class CountedEngine:
    """Implements `laconic.inference.engine.Engine` over another one.

    Args:
        engine: The one that decodes.
        max_branches: Open at once.
        max_generated: Tokens of all branches together. They are counted as they come, so that branches which decode
            at once may be beyond it by a token each.
        count: What is counted so far; None: nothing.
    """

    def __init__(self, engine: Engine, *, max_branches: int, max_generated: int, count: Count | None = None) -> None:
        self.engine, self.max_branches, self.max_generated = engine, max_branches, max_generated
        self.capabilities, self.slots = engine.capabilities, engine.slots
        self.count = count or Count()

    @property
    def open_branches(self) -> int:
        """Of this engine and those beside it."""
        return self.count.open_branches

    def beside(self, engine: Engine) -> CountedEngine:
        """A further engine of the same run: the limits are for all of them together."""
        limits = {"max_branches": self.max_branches, "max_generated": self.max_generated}
        return CountedEngine(engine, **limits, count=self.count)

    def __getattr__(self, name: str) -> Any:
        """What only some engines have."""
        return getattr(self.engine, name)

    def open(self, prompt: Prompt, *, ledger: Ledger, sampling: Sampling | None = None, seed: int = 0) -> CountedBranch:
        """As the engine's.

        Raises:
            Refused: too many are open.
        """
        with self.one_more():
            return CountedBranch(self, self.engine.open(prompt, ledger=ledger, sampling=sampling, seed=seed))

    async def aclose(self) -> None:
        """Nothing: the engine is everybody's."""

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """One branch more, if it can be opened; its place is taken meanwhile."""
        if self.count.open_branches >= self.max_branches:
            message = f"this policy keeps more than {self.max_branches} branches open, which is this server's limit"
            raise Refused(400, message, param="policy", code="too_many_branches")
        self.count.open_branches += 1
        try:
            yield
        except BaseException:
            self.count.open_branches -= 1
            raise

    def too_many(self) -> Refused:
        """What ends a run that generates without an end."""
        message = f"this policy generates more than {self.max_generated} tokens, which is this server's limit"
        return Refused(400, message, param="policy", code="too_many_tokens")


class CountedBranch:
    """Implements `laconic.inference.engine.Branch` over another one, whose tokens and forks are counted."""

    def __init__(self, engine: CountedEngine, branch: Branch) -> None:
        self._engine, self._branch, self._open = engine, branch, True
        self._last: _Counter | None = None
        self._returned, self._thought = False, True

    def __getattr__(self, name: str) -> Any:
        """Everything else is the branch's own."""
        return getattr(self._branch, name)

    async def generate(self, *, hook: Hook | None = None, **wishes: Any) -> Chunk:
        """As `Branch.generate`.

        Raises:
            Refused: too many tokens.
        """
        self._last = counter = _Counter(self._engine, hook)
        return counter.checked(await self._branch.generate(hook=counter, **wishes))

    async def stream(self, *, hook: Hook | None = None, **wishes: Any) -> AsyncIterator[Chunk]:
        """As `Branch.stream`.

        Raises:
            Refused: too many tokens.
        """
        self._last = counter = _Counter(self._engine, hook)
        async with aclosing(self._branch.stream(hook=counter, **wishes)) as pieces:
            async for piece in pieces:
                yield counter.checked(piece)

    async def fork(self, *, back: int = 0) -> CountedBranch:
        """As `Branch.fork`.

        Raises:
            Refused: too many are open.
        """
        with self._engine.one_more():
            return CountedBranch(self._engine, await (self._branch.fork(back=back) if back else self._branch.fork()))

    def keep(self, *, thought: bool) -> None:
        """Its text is what was returned, whoever closes it.

        Args:
            thought: Else all of it is an answer, which its policy had not known yet.
        """
        self._returned, self._thought = True, thought

    async def close(self, fate: Fate) -> None:
        """As `Branch.close`."""
        if self._open:
            self._open = False
            self._engine.count.open_branches -= 1
            if not self._thought and self._last is not None and self._last.seen:
                self._branch.relabel("answer")
        await self._branch.close("kept" if self._returned else fate)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close("discarded")


class _Counter:
    """The hook of one generation: counts its tokens, and asks the policy's own hook.

    It ends what is too long; the error is raised where the tokens were wanted, for engines expect none from a hook.
    """

    def __init__(self, engine: CountedEngine, hook: Hook | None) -> None:
        self.engine, self.hook, self.seen, self.over = engine, hook, 0, False
        if engine.count.generated >= engine.max_generated:
            raise engine.too_many()

    def __call__(self, token: Token) -> bool:
        self._add(1)
        return self.over or (self.hook is not None and self.hook(token))

    def checked(self, chunk: Chunk) -> Chunk:
        """Those that no hook saw are counted too, such as the last one."""
        self._add(len(chunk.tokens) - self.seen)
        if self.over:
            raise self.engine.too_many()
        return chunk

    def _add(self, tokens: int) -> None:
        self.seen += tokens
        self.engine.count.generated += tokens
        self.over = self.over or self.engine.count.generated > self.engine.max_generated
