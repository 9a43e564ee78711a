"""What `laconic ask` prints: the answer as it comes, then the account of its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from laconic.inference.ledger import FATES, Ledger
from laconic.inference.policies.base import Answer
from laconic.launch.text import number, seconds, table

FINISHES = {
    "stop": "the model ended by itself",
    "length": "cut at the limit of tokens",
    "policy_stop": "the policy ended it",
    "abstained": "the policy gives no answer",
    "cancelled": "interrupted",
}
# What would move the cursor or ring; line breaks and tabs stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Splitter:
    """Cuts a text that comes in pieces into thinking and answer; what may be half a tag is held back.

    Args:
        think_open: The tag before the thinking.
        think_close: The tag after it.
        thinks: The prompt ends with the opening tag.
    """

    def __init__(self, think_open: str, think_close: str, *, thinks: bool = False) -> None:
        self._tags = [think_close] if thinks else [think_open, think_close]
        self._close = think_close
        self.thinks = thinks
        self._held = ""

    def feed(self, text: str) -> Iterator[tuple[str, bool]]:
        """The pieces that are certain now, each with whether it belongs to the thinking; tags do."""
        self._held += text
        while self._tags:
            before, tag, after = self._held.partition(self._tags[0])
            if not tag:
                break
            yield before, self.thinks
            yield tag, True
            self.thinks, self._held = tag != self._close, after
            self._tags.pop(0)
        sure = len(self._held) - (_overlap(self._held, self._tags[0]) if self._tags else 0)
        yield self._held[:sure], self.thinks
        self._held = self._held[sure:]

    def rest(self) -> tuple[str, bool]:
        """What was held back, once nothing more comes."""
        return self._held, self.thinks


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of a text are a beginning of the tag."""
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:size])), 0)


class Screen:
    """Writes a completion as it comes, thinking dimmed where there is colour.

    Args:
        out: Where to.
        splitter: Tells thinking from answer.
        show_thinking: Write the thinking too.
    """

    def __init__(self, out: Console, splitter: Splitter, *, show_thinking: bool) -> None:
        self.out, self.splitter, self.show_thinking = out, splitter, show_thinking
        self.heard = ""
        """Everything so far, written or not."""
        self.ends_line = True
        """Nothing was written after the last line break."""
        self._began = False

    def hear(self, text: str) -> None:
        """More of the completion."""
        self.heard += text
        for piece, thinks in self.splitter.feed(text):
            self._write(piece, thinks)

    def finish(self, text: str | None) -> None:
        """The completion is there as a whole, or (None) there will be no more of it."""
        if text is not None:
            self.hear(text.removeprefix(self.heard))
        self._write(*self.splitter.rest())
        self.end_line()

    def end_line(self) -> None:
        """Whatever comes next begins a line of its own."""
        if not self.ends_line:
            self.ends_line = True
            self.out.print()

    def _write(self, piece: str, thinks: bool) -> None:
        if thinks and not self.show_thinking:
            return
        # Blanks that stand between the tags and the answer.
        piece = piece if self._began else piece.lstrip()
        if piece:
            self._began, self.ends_line = True, piece.endswith("\n")
            self.out.print(Text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", piece), "dim" if thinks else ""), end="")


def print_account(out: Console, ledger: Ledger, answer: Answer | None) -> None:
    """Where the tokens went, and how the answer ended; None if it was interrupted."""
    out.print()
    out.print(_tokens(ledger))
    out.print()
    for name, value in _facts(ledger, answer):
        out.print(f"{name:<14} {value}", markup=False)


def _tokens(ledger: Ledger) -> Table:
    """By role and fate; roles without tokens are left out."""
    counts = {role: fates for role, fates in ledger.by_role_and_fate().items() if sum(fates.values())}
    rows = [
        [role, *(_count(fates[fate]) for fate in FATES), _count(sum(fates.values()))] for role, fates in counts.items()
    ]
    sums = [_count(ledger.tokens(fate=fate)) for fate in FATES]
    total = f"{'' if ledger.exact else 'at least '}{ledger.generated:,}"
    return table(["tokens", *FATES, "all"], [*rows, ["generated", *sums, total]], right=range(1, 5))


def _count(tokens: int) -> str:
    return f"{tokens:,}" if tokens else "-"


def _facts(ledger: Ledger, answer: Answer | None) -> Iterator[tuple[str, str]]:
    if answer is not None:
        yield "answer", _CONTROL.sub(" ", answer.answer or "-")
        if answer.confidence is not None:
            yield "confidence", f"{answer.confidence:.3f}"
    finish = "cancelled" if answer is None else answer.finish
    yield "finish", f"{finish}: {FINISHES[finish]}"
    if answer is not None:
        yield from _searches(answer)
    if ledger.forced:
        yield "forced", f"{number(ledger.forced)} put in by the policy, not generated"
    about = "" if ledger.prompt_exact else "about "
    yield "prompt", f"{about}{number(ledger.prompt)}, counting every branch's"
    if ledger.cached:
        yield "cached", f"{number(ledger.cached)} not read again: of prompts, and of what forks share with their trace"
    if ledger.scored:
        yield "scored", f"{number(ledger.scored)} read by a scorer"
    yield "critical path", f"{number(ledger.critical_path)} decode steps, one after the other"
    taken = ledger.seconds or 0.0
    speed = f", {ledger.generated / taken:,.0f} tokens/s" if taken > 0 else ""
    yield "time", seconds(taken) + speed


def _searches(answer: Answer) -> Iterator[tuple[str, str]]:
    """What was searched for and shown, where the policy searches."""
    for search in answer.notes.get("searches", ()):
        found = ", ".join(search["ids"][: search["shown"]]) or "nothing"
        yield "search", _CONTROL.sub(" ", f"{search['query']}: {found}")
    if answer.notes.get("citations"):
        yield "documents", _CONTROL.sub(" ", ", ".join(answer.notes["citations"]))
