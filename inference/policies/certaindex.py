"""Early stop of Dynasor: several probes in a row agree and none of them doubts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from laconic.inference.policies.base import Ask, Equal, policy
from laconic.inference.policies.consistency import trailing_run
from laconic.inference.policies.probe import Probe
from laconic.inference.policies.probing import NEEDS, Probing

DOUBT = ("wait", "hold", "but", "okay", "no", "hmm")
"""Words that make a probe uncertain, as in the released code."""

EFFORT: dict[str, tuple[int, int]] = {
    "mild": (8, 64),
    "low": (5, 64),
    "mid": (3, 64),
    "high": (2, 64),
    "crazy": (2, 32),
}
"""Dynasor's levels of saving: (`threshold`, `every`)."""


def doubts(text: str, words: Sequence[str] = DOUBT) -> bool:
    """Whether a text has one of the words, as a word of its own and in any case.

    >>> doubts("5} No, wait"), doubts("5} I know another")
    (True, False)
    """
    return bool(set(re.findall(r"\w+", text.lower())) & {word.lower() for word in words})


def certain_run(answers: Sequence[str | None], texts: Sequence[str], equal: Equal, words: Sequence[str] = DOUBT) -> int:
    """How many probes at the end agree pairwise, have an answer, and do not doubt.

    >>> certain_run(["3", "5", "5"], ["3}", "5} no", "5}"], str.__eq__)
    1
    """
    sure = [None if doubts(text, words) else answer for answer, text in zip(answers, texts, strict=True)]
    return trailing_run(sure, equal)


@policy(paper="arXiv:2412.20993", requires=NEEDS)
@dataclass(frozen=True, kw_only=True)
class Certaindex(Probing):
    """Stop when the last `threshold` probes agree, none is empty, and none doubts (Dynasor, certaindex).

    Every `every` tokens a fork is told that the answer came to it; the signal is the length of the run of equal,
    certain answers. With `concurrent`, the probe runs beside the next chunk, as in Dynasor: no waiting, one chunk late.

    Source: Dynasor (arXiv:2412.20993), its levels in `EFFORT` (default here: mid).

    Deviations: words of doubt are matched as whole words, where the released code finds "no" in "know"; its server's
    helper stops at three different answers, which is not followed. A concurrent probe is cancelled when the trace
    ends, where Dynasor lets it run on.

    Args:
        threshold: Equal, certain answers in a row.
        doubt: Words that make a probe uncertain.
    """

    threshold: float = 3
    every: int | None = 64
    suffix: str = "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{"
    closes: bool = False
    probe_temperature: float = 0.6
    probe_top_p: float = 0.95
    doubt: Sequence[str] = DOUBT

    def signal(self, ask: Ask, probes: Sequence[Probe]) -> float | None:
        """The length of the run."""
        guesses = [probe.guess for probe in probes]
        return certain_run(
            [guess.answer for guess in guesses], [guess.text for guess in guesses], ask.equal, self.doubt
        )
