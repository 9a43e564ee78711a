"""An engine as one run sees it: with a limit on the branches it keeps open, so that no request can ask for millions."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from laconic.inference.engine import Branch, Engine, Prompt, Sampling
from laconic.inference.ledger import Fate, Ledger
from laconic.inference.server.refusals import Refused


class CountedEngine:
    """Implements `laconic.inference.engine.Engine` over another one.

    Args:
        engine: The one that decodes.
        most: Branches open at once.
    """

    def __init__(self, engine: Engine, most: int) -> None:
        self.engine, self.most = engine, most
        self.capabilities, self.slots = engine.capabilities, engine.slots
        self.open_branches = 0

    def __getattr__(self, name: str) -> Any:
        """What only some engines have."""
        return getattr(self.engine, name)

    def open(self, prompt: Prompt, *, ledger: Ledger, sampling: Sampling | None = None, seed: int = 0) -> CountedBranch:
        """As the engine's.

        Raises:
            Refused: too many are open.
        """
        self.count()
        return CountedBranch(self, self.engine.open(prompt, ledger=ledger, sampling=sampling, seed=seed))

    async def aclose(self) -> None:
        """Nothing: the engine is everybody's."""

    def count(self) -> None:
        """One branch more."""
        if self.open_branches >= self.most:
            message = f"this policy keeps more than {self.most} branches open, which is this server's limit"
            raise Refused(400, message, param="policy", code="too_many_branches")
        self.open_branches += 1


class CountedBranch:
    """Implements `laconic.inference.engine.Branch` over another one, whose forks are counted."""

    def __init__(self, engine: CountedEngine, branch: Branch) -> None:
        self._engine, self._branch, self._open = engine, branch, True

    def __getattr__(self, name: str) -> Any:
        """Everything else is the branch's own."""
        return getattr(self._branch, name)

    async def fork(self, *, back: int = 0) -> CountedBranch:
        """As `Branch.fork`.

        Raises:
            Refused: too many are open.
        """
        self._engine.count()
        return CountedBranch(self._engine, await (self._branch.fork(back=back) if back else self._branch.fork()))

    async def close(self, fate: Fate) -> None:
        """As `Branch.close`."""
        if self._open:
            self._open = False
            self._engine.open_branches -= 1
        await self._branch.close(fate)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close("discarded")
