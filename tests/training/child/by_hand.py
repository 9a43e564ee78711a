"""TRL's trainer with losses to compare with: Thinkless' two means written down, and advantages from elsewhere."""

import torch
from trl import GRPOTrainer

WEIGHT = 0.1
"""Of first tokens: enough for them to be seen beside the others."""


class TwoMeans(GRPOTrainer):
    """`WEIGHT` times the mean loss of first tokens and the mean loss of all others, of the whole generation; a
    divergence counts the same for every token."""

    def _generate_and_score_completions(self, inputs):
        found = super()._generate_and_score_completions(inputs)
        lengths = self.accelerator.gather(found["completion_mask"].sum(1))
        self.counts = (lengths > 0).sum(), (lengths - 1).clamp(min=0).sum()
        return found

    def _compute_loss(self, model, inputs):
        mask = inputs["completion_mask"]
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attended = torch.cat([inputs["prompt_mask"], mask], dim=1)
        logps, *_ = self._get_per_token_logps_and_entropies(model, ids, attended, mask.size(1))
        ratio = torch.exp(logps - inputs.get("old_per_token_logps", logps.detach()))
        gains = torch.stack([ratio, ratio.clamp(0.8, 1.2)]) * inputs["advantages"][:, None]
        losses = -gains.amin(0) * mask
        firsts, others = self.counts
        loss = WEIGHT * losses[:, 0].sum() / firsts + losses[:, 1:].sum() / others
        if self.beta:
            apart = inputs["ref_per_token_logps"] - logps
            loss = loss + self.beta * ((torch.exp(apart) - apart - 1) * mask).sum() / (firsts + others)
        return loss * self.accelerator.num_processes  # which takes the mean of gradients


def given(advantages):
    """TRL's trainer with these advantages of one generation, one per rollout or per token."""

    class Given(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            return super()._generate_and_score_completions(inputs) | {"advantages": advantages}

    return Given
