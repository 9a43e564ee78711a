"""PATS: how many candidates a step gets follows from how good the last one was."""

from __future__ import annotations

from dataclasses import dataclass

from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.steps import (
    SEPARATOR,
    STEPWISE,
    Path,
    check,
    check_steps,
    discard,
    score_paths,
    settle,
    together,
)


@dataclass(frozen=True)
class Modes:
    """When to switch between modes of thinking, from the slowest, 0, to the fastest."""

    fast: float = 0.85
    """A best score of as much or more: one mode faster."""
    slow: float = 0.75
    """Below it: the slowest mode."""
    reject: float = 0.4
    """Below it: the step is drawn again in the slowest mode."""
    penalties: int = 1
    """How often in a row a step is rejected; then it is taken as it is."""
    fastest: int = 2

    def judge(self, score: float, mode: int, rejected: int) -> tuple[bool, int, int]:
        """Whether the best candidate is taken, the next mode, and the rejections in a row.

        >>> Modes().judge(0.9, 0, 0), Modes().judge(0.3, 2, 0), Modes().judge(0.3, 0, 1)
        ((True, 1, 0), (False, 0, 1), (True, 0, 0))
        """
        if score < self.reject and rejected < self.penalties:
            return False, 0, rejected + 1
        if score >= self.fast:
            return True, min(mode + 1, self.fastest), 0
        return True, 0 if score < self.slow else mode, 0


@policy(paper="arXiv:2505.19250", requires=STEPWISE, scorer=True)
@dataclass(frozen=True)
class Pats:
    """Process-level adaptive thinking mode switching.

    Rule: in mode 0, 1, 2 the next step is the best scored of 8, 4, 2 candidates. A best score of `fast` or more makes
    the mode one faster, one below `slow` makes it the slowest; one below `reject` is refused once and drawn again in
    the slowest mode, then taken. Equal candidates are scored once, steps said before are not taken again.

    Defaults: the paper's: thresholds 0.85, 0.75, 0.4, one rejection, 35 draws, mode 0 at first. The sampling
    temperature is the question's; the authors' is 0.6.

    Deviations: the released program does not start (a pattern lacks a bracket) and counts no tokens; its filter of
    unusual characters is left out. Ours: after the last draw the path runs to its end; there it stays unfinished.
    """

    candidates: tuple[int, ...] = (8, 4, 2)
    """Per step, by mode from the slowest to the fastest."""
    fast: float = 0.85
    """A best score of as much or more: one mode faster."""
    slow: float = 0.75
    """Below it: the slowest mode."""
    reject: float = 0.4
    """Below it: the step is drawn again in the slowest mode."""
    penalties: int = 1
    """How often in a row a step is rejected."""
    first_mode: int = 0
    """0 is the slowest."""
    max_steps: int = 35
    """Draws, the rejected ones included."""
    separator: str = SEPARATOR
    """Ends a step: what the model writes between steps, such as ";" after this project's own teachers."""

    def __post_init__(self) -> None:
        check_steps(max_steps=self.max_steps, separator=self.separator)
        fine = len(self.candidates) > 0 and min(self.candidates) >= 1
        check(fine, f"candidates={self.candidates}", "give every mode at least one candidate")
        fine = 0 <= self.first_mode < len(self.candidates)
        check(fine, f"first_mode={self.first_mode}", "it is the place of one of `candidates`")
        check(self.reject <= self.slow <= self.fast, "reject, slow, fast are not in order", "put them in rising order")

    async def run(self, ask: Ask) -> Answer:
        """Draw, judge, take or reject."""
        modes = Modes(self.fast, self.slow, self.reject, self.penalties, len(self.candidates) - 1)
        path, mode, rejected = Path(ask.open()), self.first_mode, 0
        visited: list[int] = []
        said: set[str] = set()
        while path.finish is None and len(visited) < self.max_steps:
            visited.append(mode)
            best = await self._best(ask, path, said, self.candidates[mode])
            if best is None:
                continue
            taken, mode, rejected = modes.judge(best.scores[-1], mode, rejected)
            await discard([path if taken else best])
            path = best if taken else path
            ask.tell(path.text, path.branch)
            said |= {best.step} if taken else set()
        path.branch = ask.follow(path.branch)
        await path.grow(ask, to_end=True)
        return await settle(ask, path, notes={"modes": visited, "scores": list(path.scores)})

    async def _best(self, ask: Ask, path: Path, said: set[str], count: int) -> Path | None:
        """The best of `count` next steps; the others are closed. None if all were said before."""
        drawn = [await path.fork(ask) for _ in range(count)]
        await together(ask, [one.grow(ask, separator=self.separator) for one in drawn])
        different = {one.step: one for one in reversed(drawn) if one.step not in said}
        new = [one for one in drawn if different.get(one.step) is one]
        await score_paths(ask, new)
        best = max(new, key=lambda one: one.scores[-1], default=None)
        await discard(one for one in drawn if one is not best)
        return best
