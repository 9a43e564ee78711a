"""The last generation of a branch: what a fork that begins before its end shares of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from laconic.inference.engine import Token
from laconic.rewards.errors import LaunchError, RecipeError


@dataclass(frozen=True)
class LastGeneration:
    """What a branch generated last; a fork has the same, less what it left out."""

    before: str = ""
    """The branch's text before it."""
    tokens: tuple[Token, ...] = ()
    """Everything generated, also what is not in the text: end-of-sequence, a stop string."""
    followed: bool = False
    """Forced text came after it."""

    @property
    def text(self) -> str:
        """The branch's text up to its end, what a stop string cut included."""
        return self.before + "".join(token.text for token in self.tokens)

    def without(self, back: int) -> LastGeneration:
        """The same without its newest tokens.

        Raises:
            RecipeError: it has not as many.
            LaunchError: forced text came after it.
        """
        if not 0 < back <= len(self.tokens):
            raise RecipeError(
                f"fork: back={back}, but the last generation has {len(self.tokens)} tokens",
                cure="leave out no more than that; fork earlier to begin earlier",
            )
        if self.followed:
            raise LaunchError(
                "fork: forced text follows the last generation, so its end cannot be left out",
                cure="fork before extending",
            )
        return replace(self, tokens=self.tokens[:-back])


def refuse_back_while_generating(back: int) -> None:
    """For forks of a branch that generates right now, which are as it was before.

    Raises:
        LaunchError: tokens are to be left out.
    """
    if back:
        raise LaunchError(
            "fork: the branch is generating, so its last generation has no end yet",
            cure="wait until it is done, or fork without back=",
        )
