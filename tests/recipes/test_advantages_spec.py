"""`advantages:` of a grpo stage: what does not go with it is refused by name, with the cure."""

import pytest
from pydantic import ValidationError

from laconic.recipes.explain import explain
from laconic.recipes.grpo_advantages import Dler, Hgpo, Thinkless
from laconic.recipes.stages import GrpoStage


def stage(advantages, *, trainer=None, **keys):
    return GrpoStage(kind="grpo", rewards=[{"name": "accuracy"}], advantages=advantages, trainer=trainer or {}, **keys)


def mistakes(advantages, **keys):
    with pytest.raises(ValidationError) as caught:
        stage(advantages, **keys)
    return {".".join(map(str, one.place)): one.message for one in explain(caught.value, root=GrpoStage)}


def test_parameters_are_the_papers_where_nothing_is_said():
    assert stage({"name": "dler"}).advantages == Dler(name="dler", boost=0.0)
    assert stage({"name": "thinkless"}).advantages == Thinkless(name="thinkless", control_weight=0.001)
    assert stage({"name": "hgpo"}).advantages == Hgpo(name="hgpo", alpha=1.0, delta=0.2)
    assert "advantages" not in GrpoStage(kind="grpo", rewards=[{"name": "accuracy"}]).model_dump()


def test_mistakes_within():
    assert mistakes({"name": "rlo"}) == {"advantages.name": "found 'rlo'; did you mean rloo?"}
    assert mistakes({"name": "dler", "bost": 0.1}) == {"advantages.bost": "unknown key; did you mean boost?"}
    assert mistakes({"name": "rloo", "boost": 0.1}) == {"advantages.boost": "unknown key; legal here: name"}
    too_low = {"advantages.control_weight": "found 0.0; must be more than 0.0"}
    assert mistakes({"name": "thinkless", "control_weight": 0.0}) == too_low


@pytest.mark.parametrize("name", ["rloo", "dler", "dr_saf", "rewards", "thinkless", "hgpo"])
def test_what_trl_would_do_with_rewards_is_refused(name):
    found = mistakes({"name": name}, trainer={"scale_rewards": "none"})
    assert found == {"trainer.scale_rewards": f"advantages: {name} has its own scale; leave it out"}
    found = mistakes({"name": name}, trainer={"multi_objective_aggregation": "normalize_then_sum"})
    assert "weighted sum" in found["trainer.multi_objective_aggregation"]
    assert "set fast: true" in mistakes({"name": name}, fast=False)["advantages"]
    assert stage({"name": name}, trainer={"multi_objective_aggregation": "sum_then_normalize"})


def test_what_would_mix_first_tokens_with_others_is_refused():
    for loss in ("grpo", "dr_grpo", "bnpo", "cispo"):
        assert (
            "set loss_type: dapo" in mistakes({"name": "thinkless"}, trainer={"loss_type": loss})["trainer.loss_type"]
        )
        assert stage({"name": "hgpo"}, trainer={"loss_type": loss})
    assert "vespo" in mistakes({"name": "hgpo"}, trainer={"loss_type": "vespo"})["trainer.loss_type"]
    for name in ("thinkless", "hgpo"):
        found = mistakes({"name": name}, trainer={"importance_sampling_level": "sequence", "top_entropy_quantile": 0.2})
        assert set(found) == {"trainer.importance_sampling_level", "trainer.top_entropy_quantile"}
    assert stage({"name": "rloo"}, trainer={"loss_type": "vespo", "importance_sampling_level": "sequence"})


def test_groups_drawn_again():
    """Not where a group of equal rewards has advantages."""
    for name in ("dler", "hgpo", "rloo"):
        assert stage({"name": name}, dynamic_sampling={"rounds": 1})
    found = mistakes({"name": "rewards"}, dynamic_sampling={"rounds": 1})
    assert "equal rewards teach something too; leave one of the two out" in found["dynamic_sampling"]
