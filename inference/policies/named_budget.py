"""The prompt names how long to think, for models that were trained to keep to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from laconic.inference.engine import Prompt
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.plain import Plain
from laconic.rewards.errors import RecipeError


@policy(paper="arXiv:2503.04697")
@dataclass(frozen=True, kw_only=True)
class NamedBudget:
    """One completion, asked for with a budget of tokens in the prompt (L1).

    Rule: `sentence`, with the budget in it, is put after the prompt, or after the last message of a conversation.
    Nothing is cut at the budget: keeping to it is what the model was trained to do.

    Source: L1. L1-Exact was trained with " Think for N tokens.", and L1-Max with " Think for maximum N tokens." too.

    Args:
        budget: Tokens that the prompt names.
        sentence: How; {budget} stands for the number.
    """

    budget: int
    sentence: str = " Think for {budget} tokens."

    def __post_init__(self) -> None:
        if self.budget < 1 or "{budget}" not in self.sentence:
            raise RecipeError(
                f"named_budget: budget={self.budget}, sentence={self.sentence!r}",
                cure="give 1 token or more, and a sentence that has {budget} in it",
            )

    async def run(self, ask: Ask) -> Answer:
        """Generate to the end, with the other prompt."""
        sentence = self.sentence.replace("{budget}", str(self.budget))
        answer = await Plain().run(replace(ask, prompt=with_sentence(ask.prompt, sentence)))
        return replace(answer, notes={**answer.notes, "budget": self.budget})


def with_sentence(prompt: Prompt, sentence: str) -> Prompt:
    """The prompt, or the last message of a conversation, with the sentence after it.

    >>> with_sentence([{"role": "user", "content": "How many?"}], " Be brief.")
    [{'role': 'user', 'content': 'How many? Be brief.'}]
    """
    if isinstance(prompt, str):
        return prompt + sentence
    return [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + sentence}]
