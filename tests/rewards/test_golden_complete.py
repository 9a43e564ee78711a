"""Every golden entry is either used by a test, or concerns no registered reward, for a reason that stands here."""

import json
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
GOLDEN_TESTS = [
    *(path.name for path in (TESTS / "rewards").glob("test_golden_*.py") if path.name != Path(__file__).name),
    "test_advantages.py",
    "test_qa_scores.py",
    "test_schedule.py",
]
# Entries that tests go through by the beginning of their names.
FAMILIES = ("r1searcher_", "evinote_")
LOSSES = "a loss, not a reward"
OTHERS = "another repository's version of a reward whose paper is followed"
UNREGISTERED = "a method that is not registered"
UNUSED = {
    "length_rewards": {
        "adaptthink_loss": LOSSES,
        "adar1_gain": "AdaR1 builds preference pairs",
        "adar1_pairs": "AdaR1 builds preference pairs",
        "anytime_brpo_cot_advantage": "advantages of thinking segments, not of rollouts",
        "arora_laser_reimpl": OTHERS,
        "kimi_laser_impl": OTHERS,
        "kimi_shortrl_impl": OTHERS,
        "l1_exact_sigmoid_BUGGY": "pays more the further from the target; listed under the deviations of l1_exact",
        "l1_exact_with_multiplier_DEGENERATE": "always 0; listed under the deviations of l1_exact",
        "length_scaled_demystify": "withdrawn by its authors",
        "o1_pruner_loss": LOSSES,
        "thinkless_degrpo_loss": LOSSES,
    },
    "search_rewards": {
        "deepretrieval_rank_tier": UNREGISTERED,
        "deepretrieval_recall_tier": UNREGISTERED,
        "r_search": UNREGISTERED,
        "recall": UNREGISTERED,
        "rllm_search_reward": UNREGISTERED,
        "s3_gain_beyond_rag": UNREGISTERED,
        "search_r1_rollout": "the rollout protocol, not a reward",
        "stepsearch_token_placement": "where in the text a step's reward stands; ours are per rollout",
        "tool_productivity": "a metric, not a reward",
        "trl_grpo_agent_example": UNREGISTERED,
        "verl_search_r1_like": OTHERS,
    },
}


@pytest.mark.parametrize("name", sorted(UNUSED))
def test_every_golden_entry_is_used_or_explained(name):
    entries = set(json.loads((TESTS / "golden" / f"{name}.json").read_text()))
    code = "\n".join((TESTS / "rewards" / path).read_text() for path in GOLDEN_TESTS)
    used = {entry for entry in entries if f'"{entry}"' in code}
    used |= {entry for entry in entries for family in FAMILIES if entry.startswith(family) and f'"{family}' in code}
    assert used | UNUSED[name].keys() == entries
