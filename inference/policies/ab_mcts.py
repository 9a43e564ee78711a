"""AB-MCTS-A: go wider or go deeper, by Thompson sampling over whole answers and their refinements."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from laconic.inference.engine import Message
from laconic.inference.policies.bandit_tree import BanditTree, Beta, Gaussian, Trial
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.steps import Path, check, score_paths, settle, together
from laconic.rewards.errors import LaunchError

REFINE = "A verifier gives this answer {score:.2f} of 1. Find what is wrong with it or weak, and answer again in full."


@policy(paper="arXiv:2503.04412", scorer=True, engines=lambda chosen: tuple(chosen.models))
@dataclass(frozen=True)
class AbMcts:
    """Adaptive branching tree search over answers (AB-MCTS-A).

    Rule: every result is a whole completion with a score from 0 to 1; `BanditTree` says whether to draw a new one or to
    refine one that is there. The best scored completion is returned.

    Defaults: the paper's beliefs (Gaussian: m 0, kappa 1, nu 1, tau^2 0.1; Beta: 0.5, 0.5), at most 5 trials at a time.
    Ours: 16 trials in all, and the request that asks for a refinement. The mixed-model variant (AB-MCTS-M) is left out.
    """

    trials: int = 16
    """Completions in all."""
    batch: int = 5
    """Completions at a time; those of a batch do not know of each other."""
    belief: Literal["gaussian", "beta"] = "gaussian"
    models: tuple[str, ...] = ()
    """Names of further engines; they and the question's own compete for each trial."""
    choose: Literal["thompson", "ucb"] = "thompson"
    """How the engine is chosen if there are several."""
    refine: str = REFINE
    """What follows an answer that is to be refined; may hold ``{score}``."""

    def __post_init__(self) -> None:
        check(min(self.trials, self.batch) >= 1, f"trials={self.trials}, batch={self.batch}", "give 1 or more")
        check(self.belief in ("gaussian", "beta"), f"belief={self.belief!r}", "it is gaussian or beta")
        check(self.choose in ("thompson", "ucb"), f"choose={self.choose!r}", "it is thompson or ucb")

    async def run(self, ask: Ask) -> Answer:
        """Ask, generate, score, tell."""
        missing = [name for name in self.models if name not in ask.engines]
        if missing:
            raise LaunchError(f"ab_mcts: no engine named {', '.join(missing)}", cure="pass it in engines=")
        prior = Gaussian() if self.belief == "gaussian" else Beta()
        tree = BanditTree(prior, actions=("", *self.models), choose=self.choose, seed=ask.seed)
        paths: dict[int, Path] = {}
        parents: list[int | None] = []
        while len(paths) < self.trials:
            asked = tree.ask(min(self.batch, self.trials - len(paths)))
            new = await together(ask, [self._generate(ask, trial, paths) for trial in asked])
            await score_paths(ask, new, bounded=True)
            for trial, path in zip(asked, new, strict=True):
                tree.tell(trial.number, path.scores[-1])
                paths[trial.number] = path
                parents.append(trial.parent)
        chosen = max(paths.values(), key=lambda path: (path.finish == "stop", path.scores[-1]))
        notes = {"parents": parents, "scores": [path.scores[-1] for path in paths.values()]}
        return replace(await settle(ask, chosen, paths.values(), notes), confidence=chosen.scores[-1])

    async def _generate(self, ask: Ask, trial: Trial, paths: dict[int, Path]) -> Path:
        if trial.parent is not None:
            ask = replace(ask, prompt=self._refinement(ask, paths[trial.parent]))
        path = Path(ask.open(sample=trial.number, engine=ask.engines.get(trial.action)))
        await path.grow(ask, to_end=True)
        return path

    def _refinement(self, ask: Ask, path: Path) -> list[Message]:
        """The conversation so far, the answer without its thinking, and what is wanted now."""
        asked = [{"role": "user", "content": ask.prompt}] if isinstance(ask.prompt, str) else list(ask.prompt)
        said = path.text.rpartition(ask.think_close)[2].strip()
        wanted = self.refine.replace("{score:.2f}", f"{path.scores[-1]:.2f}").replace("{score}", f"{path.scores[-1]:g}")
        return [*asked, {"role": "assistant", "content": said}, {"role": "user", "content": wanted}]
