"""Reward-guided speculative decoding: a small model writes the steps, the large one rewrites those that are no good."""

from __future__ import annotations

from dataclasses import dataclass, replace

from laconic.inference.engine import check_capabilities
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.steps import SEPARATOR, STEPWISE, Path, check_steps, discard, score_texts, settle
from laconic.rewards.errors import LaunchError


def accepts(score: float, threshold: float = 0.7) -> bool:
    """Whether a draft step stays: its score is at the threshold or above."""
    return score >= threshold


@policy(paper="arXiv:2501.19324", requires=STEPWISE, scorer=True, engines=lambda _: ("draft",))
@dataclass(frozen=True)
class DraftTarget:
    """Reward-guided speculative decoding (RSD): a draft model's step stays if its score is high enough.

    Rule: the engine named ``draft`` writes a step; the scorer's number for the path with it accepts it at `threshold`
    or above; else the question's engine writes that step instead. Until the end of the sequence, or `max_steps`.

    Defaults: the paper's: 0.7, 100 steps.

    Accounting: accepted draft steps have the role draft and are kept, the target's steps are thinking or answer and
    kept, rejected draft steps are draft and discarded: the triple is in the notes. An accepted step is forced text for
    the target when it next writes, and the target's step for the draft. Only what stays counts against the budget.

    Deviations: the released code stops a single prompt after 5 steps, or by what its neighbours in a batch do, and
    leaves the scorer's reading out. Ours: after the last step the target runs to the end.
    """

    threshold: float = 0.7
    max_steps: int = 100
    """Steps at most."""
    separator: str = SEPARATOR
    """Ends a step: what the model writes between steps, such as ";" after this project's own teachers."""

    def __post_init__(self) -> None:
        check_steps(max_steps=self.max_steps, separator=self.separator)

    async def run(self, ask: Ask) -> Answer:
        """Draft, score, accept or rewrite."""
        engine = ask.engines.get("draft")
        if engine is None:
            raise LaunchError("draft_target needs a second engine", cure="pass engines={'draft': ...}")
        check_capabilities(engine, STEPWISE, who="the draft of policy draft_target")
        draft, target = Path(ask.open(engine=engine)), Path(ask.open())
        counts, writers = [0, 0, 0], []
        while draft.finish is None and len(writers) < self.max_steps:
            trial = await draft.fork(ask)
            await trial.grow(ask, separator=self.separator, role="draft")
            ask.ledger.barrier()
            [score] = await score_texts(ask, [trial.text])
            accepted = accepts(score, self.threshold)
            counts[0 if accepted else 2] += len(trial.tokens)
            writers.append("draft" if accepted else "target")
            await discard([draft if accepted else trial])
            if accepted:
                draft = replace(trial, scores=(*draft.scores, score))
                ask.tell(draft.text, draft.branch)
                continue
            counts[1] += await self._rewrite(ask, draft, target)
            draft.scores = (*draft.scores, score)
        if draft.finish is None:
            counts[1] += await self._rewrite(ask, draft, target, to_end=True)
        await target.branch.close("kept")
        notes = {"tokens": dict(zip(("accepted", "target", "discarded"), counts, strict=True))}
        return await settle(ask, draft, notes={**notes, "writers": writers, "scores": list(draft.scores)})

    async def _rewrite(self, ask: Ask, draft: Path, target: Path, *, to_end: bool = False) -> int:
        """The target goes on from where the draft is, and the draft follows; how many tokens it generated."""
        missing = draft.text[len(target.text) :]
        if missing:
            await target.branch.extend(missing)
        heard = replace(target, branch=ask.follow(target.branch), spent=draft.spent)
        await heard.grow(ask, separator=self.separator, to_end=to_end)
        ask.ledger.barrier()
        if heard.step:
            await draft.branch.extend(heard.step)
        draft.spent, draft.finish = heard.spent, heard.finish
        return len(heard.tokens)
