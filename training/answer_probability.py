"""How probable the model finds the gold answer after each rollout's thinking, and after none.

The columns `answer_prob` and `direct_answer_prob`, for rewards that value thinking by what it changes
(`rational_metareasoning`). They cost two forward passes per rollout, of the model as it is when the rollout is scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from trl import GRPOTrainer

from laconic.inference.engines.loading import encode_prompt
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN, Trace, template_opens_thinking
from laconic.rewards.records import Problem


class AnswerProbability:
    """Asks the model in training for the probability of gold answers.

    The gold answer's tokens follow the thinking at once: the closing tag, then the answer. Every process makes as many
    forward passes as the others, as sharded models need it.

    Args:
        trainer: Holds the model and the tokenizer.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        self.trainer = trainer
        self.tokenizer = trainer.processing_class
        opened = template_opens_thinking(self.tokenizer)
        self._close = self._encode(THINK_CLOSE)
        self._no_thinking = self._close if opened else self._encode(f"{THINK_OPEN} {THINK_CLOSE}")

    def __call__(
        self, problems: Sequence[Problem], traces: Sequence[Trace], ids: Sequence[Sequence[int]]
    ) -> list[dict[str, float]]:
        """The two columns of each row.

        Args:
            problems: Of each row.
            traces: The completions, read.
            ids: Their token ids.
        """
        thought = [self._thinking(trace, row) for trace, row in zip(traces, ids, strict=True)]
        prompts = [encode_prompt(self.tokenizer, problem.prompt) for problem in problems]
        golds = [self._encode(problem.answer) for problem in problems]
        contexts = [prompt + thinking for prompt, thinking in zip(prompts, thought, strict=True)]
        contexts += [prompt + self._no_thinking for prompt in prompts]
        found = self._probabilities(contexts, [*golds, *golds])
        pairs = zip(found[: len(golds)], found[len(golds) :], strict=True)
        return [{"answer_prob": after, "direct_answer_prob": direct} for after, direct in pairs]

    def _thinking(self, trace: Trace, ids: Sequence[int]) -> list[int]:
        """The thinking of a completion, closed if the token limit cut it."""
        if trace.answer_text is not None:
            return list(ids[: trace.think_tokens])
        return [*ids, *self._close]

    @torch.no_grad()
    def _probabilities(self, contexts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[float]:
        """The probability of each answer after its context: a product over the answer's tokens."""
        trainer, padding = self.trainer, self.tokenizer.pad_token_id
        before, after = max(map(len, contexts)), max(map(len, answers))
        rows, mask = [], []
        for context, answer in zip(contexts, answers, strict=True):
            left, right = before - len(context), after - len(answer)
            rows.append([padding] * left + context + answer + [padding] * right)
            mask.append([0] * left + [1] * (len(context) + len(answer)) + [0] * right)
        device = trainer.accelerator.device
        training = trainer.model.training
        trainer.model.eval()
        logps, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.tensor(rows, device=device),
            torch.tensor(mask, device=device),
            after,
            trainer.args.per_device_train_batch_size,
        )
        trainer.model.train(training)
        known = torch.tensor(mask, device=device)[:, -after:]
        return (logps.float() * known).sum(dim=1).exp().tolist()

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))
