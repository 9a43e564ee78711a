"""One completion of a request: a policy's run, and what of it is seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from laconic.inference.engine import Engine, Prompt
from laconic.inference.opening import Opened
from laconic.inference.policies.base import Answer, Scorer, run_policy
from laconic.inference.retrieval.protocol import Retriever
from laconic.inference.server.counted import CountedBranch, CountedEngine
from laconic.inference.server.visible import Field, Visible
from laconic.inference.server.wanted import Wanted

ABSTAINED = "The policy withheld its answer: it was not confident enough."


class Run:
    """A run of the wanted policy on one prompt.

    Args:
        opened: The engine.
        wanted: The request.
        index: Which of its completions this is: `n` for the first prompt, then `n` for the next.
        tell: Called whenever there is more to see, with this run, a field and its addition.
        max_branches: Open at once.
        max_generated: Tokens, whatever for.
        scorer: Makes one for a prompt, for policies that need one.
        retriever: For policies that search.
        engines: For policies that ask several; the limits are for all of them together.
    """

    def __init__(
        self,
        opened: Opened,
        wanted: Wanted,
        index: int,
        tell: Callable[[Run, Field, str], None],
        *,
        max_branches: int,
        max_generated: int,
        scorer: Callable[[Prompt], Scorer] | None = None,
        retriever: Retriever | None = None,
        engines: Mapping[str, Engine] | None = None,
    ) -> None:
        self.wanted, self.index, self.tell = wanted, index, tell
        self.seed = wanted.seed + index % wanted.n
        engine = CountedEngine(opened.engine, max_branches=max_branches, max_generated=max_generated)
        counted = replace(opened, engine=engine)
        prompt = wanted.prompts[index // wanted.n]
        given: dict[str, Any] = {"sampling": wanted.sampling, "seed": self.seed}
        given |= {"scorer": scorer and scorer(prompt), "retriever": retriever}
        given["engines"] = {name: engine.beside(other) for name, other in (engines or {}).items()}
        self.ask = counted.ask(prompt, **given, listener=self._hear)
        tags = (self.ask.think_open, self.ask.think_close)
        thinks = self.ask.opens_thinking
        self.visible = Visible(tags, thinks=thinks, stops=wanted.stops, separate=wanted.separate)
        self.answer: Answer | None = None
        """None as long as it runs, and for good where a stop string ended it."""
        self._pieces: dict[Field, list[str]] = {"reasoning_content": [], "content": []}
        self.over = False
        self._heard = 0
        self._task: asyncio.Task[Answer] | None = None

    @property
    def finish(self) -> str:
        """How it ended: as `Answer.finish`, or ``stop_string``."""
        return "stop_string" if self.visible.stopped or self.answer is None else self.answer.finish

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """The same in OpenAI's words, which have none for a policy's rule or an abstention."""
        return "length" if self.finish == "length" else "stop"

    @property
    def refusal(self) -> str | None:
        """What is said instead of an answer that the policy withheld."""
        return ABSTAINED if self.finish == "abstained" else None

    def shown(self, name: Field) -> str:
        """Everything that was seen of a field."""
        return "".join(self._pieces[name])

    async def go(self) -> None:
        """Run the policy. A stop string of the request ends it at once; so does cancelling this.

        Raises:
            LaconicError: as `run_policy`.
        """
        self._task = asyncio.create_task(run_policy(self.wanted.policy, self.ask))
        try:
            self.answer = await self._task
        except asyncio.CancelledError:
            mine = asyncio.current_task()
            if not self.visible.stopped or (mine is not None and mine.cancelling()):
                raise
        if self.answer is not None and self.answer.finish != "abstained":
            assert len(self.answer.text) >= self._heard, "the listener heard more than the answer"
            self._show(self.visible.add(self.answer.text[self._heard :]))
            self._show(self.visible.end())
        self.over = True
        self.tell(self, "content", "")

    def _hear(self, text: str) -> None:
        self._heard += len(text)
        self._show(self.visible.add(text))
        if self.visible.stopped and self._task is not None:
            self._stop(self._task)

    def _stop(self, task: asyncio.Task[Answer]) -> None:
        """A stop string was met: what it was found in was returned, nothing else is wanted."""
        thought = self.ask.opens_thinking or self.ask.think_open in "".join(self.ask.told)
        for branch in self.ask.speakers:
            assert isinstance(branch, CountedBranch)
            branch.keep(thought=thought)
        # Not at once: a policy that has nothing more to wait for ends by itself.
        asyncio.get_running_loop().call_soon(task.cancel)

    def _show(self, parts: list[tuple[Field, str]]) -> None:
        for name, text in parts:
            self._pieces[name].append(text)
            self.tell(self, name, text)
