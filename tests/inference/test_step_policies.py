"""phi-decoding, self-evaluation beam, PATS, draft and target, MUR: published vectors and exact ledgers."""

import asyncio
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from laconic.inference.engine import Capability, Sampling, Token
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import POLICIES, Ask, run_policy
from laconic.inference.policies.clusters import kmeans, tfidf
from laconic.inference.policies.draft_target import accepts
from laconic.inference.policies.mur import Momentum
from laconic.inference.policies.pats import Modes
from laconic.inference.policies.phi_decoding import (
    cluster_weights,
    combined_weights,
    final_candidates,
    norm_logprob,
    prune,
    settled,
)
from laconic.inference.policies.self_eval import (
    confidence_share,
    first_of_each,
    length_normalised,
    path_score,
    select,
    step_score,
    temperature_at,
)
from laconic.inference.policies.steps import softmax
from laconic.rewards.errors import LaunchError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())


def solve(name, script, judge=None, *, draft=None, max_tokens=100, seed=0, **parameters):
    async def go():
        engine, engines = ScriptedEngine(script), {} if draft is None else {"draft": ScriptedEngine(draft)}
        ask = Ask(engine, "q", Ledger(), Sampling(max_tokens=max_tokens), seed=seed, scorer=judge, engines=engines)
        answer = await run_policy(POLICIES[name].build(parameters), ask)
        assert answer.ledger.generated == engine.emitted + sum(other.emitted for other in engines.values())
        assert not engine.open_branches
        assert not any(other.open_branches for other in engines.values())
        return answer

    return asyncio.run(go())


def said(text, logprob, count=2, *, end=False):
    """A step: its text, empty tokens, and what ends it."""
    tail = [EOS] if end else [Token("\n\n", logprob=logprob)]
    tail = [Token("", logprob=logprob)] * (count - 2) + tail
    return [Token(text, logprob=logprob), *tail]


# phi-decoding


def test_phi_step_is_the_published_one():
    case = GOLDEN["phi.process_step"]
    given, expected = case["input"], case["output"]
    candidates = [step for beam in given["first_stage(text,cum_logprob,n_tokens)"] for step in beam]
    means = [logprob / count for _, logprob, count in candidates]
    assert means == pytest.approx(expected["first_stage_norm_logprob"])
    kept = prune(means, given["sigma_rate"])
    assert kept == expected["kept"]
    futures = [given["foresight(text,cum_logprob,n_tokens)"][candidates[place][0]] for place in kept]
    previous = [given["prev_values"][place // given["rollouts_per_beam"]] for place in kept]
    advantages = [logprob / count - before for (_, logprob, count), before in zip(futures, previous, strict=True)]
    assert advantages == pytest.approx(expected["completed_advantages"])
    labels = kmeans(tfidf([text for text, _, _ in futures]), given["cluster_num"], seed=0)
    assert sorted(Counter(labels).values()) == expected["cluster_sizes"]
    assert cluster_weights(labels) == pytest.approx(expected["cluster_weights"], abs=1e-6)
    assert softmax(advantages, given["temperature"]) == pytest.approx(expected["adv_weights"], abs=1e-6)
    assert combined_weights(labels, advantages, given["temperature"]) == pytest.approx(
        expected["combined_weights"], abs=1e-6
    )
    texts = [text for text, _, _ in futures]
    assert settled(texts, labels, 8, share=0.69) == expected["stop_foresight(threshold .69)"]
    assert settled(texts, labels, 8, share=4 / 6)  # at the threshold it stops


def test_phi_drops_what_is_exactly_one_deviation_below_and_stops_no_earlier_than_allowed():
    assert prune([0.0, 0.0, -2.0, -2.0]) == [0, 1]
    assert prune([0.0, 0.0, -2.0, -2.0], sigma=1.01) == [0, 1, 2, 3]
    assert [settled(["a", "a"], [0, 1], step) for step in (3, 4)] == [False, True]
    assert not settled(["a", "b"], [0, 1], 9)
    assert final_candidates([0, 1, 1]) == [1, 2]
    assert final_candidates([0, 1]) == [0]


def test_tfidf_and_kmeans():
    rows = tfidf(["cat dog", "cat cat", "a"])
    idf = {"cat": math.log(4 / 3) + 1, "dog": math.log(4 / 2) + 1}
    length = math.hypot(idf["cat"], idf["dog"])
    assert rows == pytest.approx(np.array([[idf["cat"] / length, idf["dog"] / length], [1, 0], [0, 0]]))
    points = np.array([[0.0], [0.1], [5.0], [5.1], [0.05]])
    for seed in range(5):
        assert kmeans(points, 2, seed) == [0, 0, 1, 1, 0]
    assert kmeans(np.zeros((3, 2)), 3) == [0, 0, 0]


def test_norm_logprob_needs_logprobs():
    assert norm_logprob([Token("a", logprob=-1.0), Token("b", logprob=-2.0)]) == -1.5
    with pytest.raises(LaunchError, match="no log-probabilities"):
        norm_logprob([Token("a")])


class Phi:
    """Two steps of three tokens, then an answer of two. Branch 3's first step is unlikely."""

    def __init__(self):
        self.roles = Counter()

    def __call__(self, context):
        self.roles[context.role] += 1
        level = context.text.count("\n\n")
        sure = -9.0 if context.branch == 3 and level == 0 else -0.5
        steps = [Token(word, logprob=sure) for word in ("go ", "on", "\n\n")] * (2 - level)
        return [*steps, Token("7", logprob=-0.5), EOS]


def test_phi_counts_every_candidate_and_foresight():
    script = Phi()
    answer = solve("phi_decoding", script, beams=2, rollouts=2, max_steps=1, clusters=2)
    # Four candidates of three tokens, one dropped; three foresights of a step and an answer; two ends of the same.
    assert answer.ledger.tokens("probe", "discarded") == 3 * 5
    assert answer.ledger.tokens("answer") == 4 * 3 + 2 * 5
    assert answer.ledger.tokens("answer", "kept") == 3 + 5
    assert answer.ledger.critical_path == 3 + 5 + 5
    assert (answer.text, answer.notes["steps"], answer.notes["settled"]) == ("go on\n\ngo on\n\n7", 1, False)
    assert answer.notes["advantage"] == pytest.approx(0.0)


def test_phi_stops_looking_ahead_when_futures_agree():
    answer = solve("phi_decoding", Phi(), beams=2, rollouts=2, min_steps=2, max_steps=8)
    assert (answer.notes["steps"], answer.notes["settled"], answer.finish) == (2, True, "stop")


# Self-evaluation


def test_confidence_and_probability_are_weighed_as_published():
    case = GOLDEN["selfeval.cp_ratio"]
    got = [[confidence_share(r), step_score(case["input"]["c"], case["input"]["p"], r)] for r in case["input"]["r"]]
    assert np.array(got) == pytest.approx(np.array(case["output"]))


def test_greedy_self_evaluation_is_the_published_one():
    case = GOLDEN["selfeval.beam_greedy"]
    first, second, size = case["input"]["step1"], case["input"]["step2"], case["input"]["size"]
    different = first_of_each(first["texts"])
    scores = [step_score(first["conf"][place], length_normalised(*first["(prob,len)"][place])) for place in different]
    kept = select([path_score([score]) for score in scores], size, 0.0, np.random.default_rng(0))
    assert [[0, different[place]] for place in kept] == case["output"]["step1"]["kept"]
    before = [scores[place] for place in kept]
    assert before == pytest.approx(case["output"]["step1"]["scores"])
    places = [(beam, child) for beam, texts in enumerate(second["children"]) for child in first_of_each(texts)]
    paths = [
        path_score([before[b], step_score(second["conf"][b][c], length_normalised(*second["(prob,len)"][b][c]))])
        for b, c in places
    ]
    kept = select(paths, size, 0.0, np.random.default_rng(0))
    assert [list(places[place]) for place in kept] == case["output"]["step2"]["kept"]
    assert [paths[place] for place in kept] == pytest.approx(case["output"]["step2"]["scores"])


def test_stochastic_selection_draws_by_powers_without_replacement():
    rng = np.random.default_rng(0)
    draws = [select([0.2, 0.6], 1, 0.5, rng)[0] for _ in range(3000)]
    assert sum(draws) / len(draws) == pytest.approx(0.36 / 0.40, abs=0.02)
    assert sorted(select([0.2, 0.6, 0.1], 3, 0.5, rng)) == [0, 1, 2]
    assert [temperature_at(step) for step in range(3)] == [0.5, 0.25, 0.125]
    assert select([0.1, 0.3, 0.2], 2, temperature_at(7), rng) == [1, 2]  # below 0.005 it is greedy


def test_self_eval_beam_merges_equal_steps_and_waits_for_all_that_stay():
    texts = []

    async def judge(prompt, given):
        texts.extend(given)
        return [0.9 if "good" in text else 0.2 for text in given]

    def script(context):
        if context.text:
            return said("7", math.log(0.5), end=True)
        return said(["good", "bad", "good", "ugly"][context.branch], math.log(0.5))

    answer = solve("self_eval_beam", script, judge, beams=2, samples=4, temperature=0.0)
    # The second "good" is merged before it is judged; then two beams draw four equal ends each.
    assert texts[:3] == ["good\n\n", "bad\n\n", "ugly\n\n"]
    assert len(texts) == 3 + 2
    assert (answer.text, answer.finish, answer.notes["steps"]) == ("good\n\n7", "stop", 2)
    assert answer.ledger.by_role_and_fate()["answer"] == {"kept": 4, "voted": 4, "discarded": 4 + 12}
    assert answer.notes["scores"][0] == pytest.approx(math.sqrt(0.9 * 0.5))


# PATS


def test_pats_modes_follow_the_published_run():
    case = GOLDEN["pats.progression"]
    rewards, modes = case["input"]["rewards"], Modes()
    mode, rejected, phases = 0, 0, []
    for call in case["input"]["calls"]:
        phases.append(mode)
        best = max(rewards.get(step.strip(), rewards.get(f"{step}<|eot_id|>", 0)) for step in call)
        _, mode, rejected = modes.judge(best, mode, rejected)
    assert phases == case["output"]["phases"]


def test_pats_limits_are_inclusive_as_published():
    assert Modes().judge(0.85, 1, 0) == (True, 2, 0)
    assert Modes().judge(0.849, 1, 0) == (True, 1, 0)
    assert Modes().judge(0.75, 1, 0) == (True, 1, 0)
    assert Modes().judge(0.749, 1, 0) == (True, 0, 0)
    assert Modes().judge(0.4, 1, 0) == (True, 0, 0)
    assert Modes(penalties=2).judge(0.1, 1, 1) == (False, 0, 2)


def test_pats_runs_as_published_and_counts_what_it_drops():
    case = GOLDEN["pats.progression"]
    calls, expected = case["input"]["calls"], case["output"]
    order = []

    def script(context):
        # Calls come in the order of branches, so many to a phase.
        order.append(context.text)
        call = next(n for n in range(6) if len(order) <= sum(expected["samples_per_call"][: n + 1]))
        steps = calls[call]
        step = steps[len(order) % len(steps)]
        return [step.strip(), "\n\n" if step.endswith("\n\n") else EOS]

    async def judge(prompt, texts):
        newest = [text.rstrip("\n").split("\n\n")[-1] for text in texts]
        return [case["input"]["rewards"][f"{step}<|eot_id|>" if step == "f1" else step] for step in newest]

    answer = solve("pats", script, judge)
    assert answer.text.split("\n\n") == [step.removesuffix("<|eot_id|>") for step in expected["final_steps"]]
    assert answer.notes["modes"] == expected["phases"]
    assert len(order) == sum(expected["samples_per_call"])
    assert answer.ledger.by_role_and_fate()["answer"] == {"kept": 10, "voted": 0, "discarded": 2 * 32 - 10}
    assert answer.ledger.critical_path == 2 * 6


# Draft and target


def steps_of(given):
    """Steps one after the other, of whichever call comes next."""
    left = iter(given)

    def script(context):
        text, end = next(left)
        words = text.split(" ")
        return [*(word + " " for word in words[:-1]), words[-1], end or EOS]

    return script


def test_draft_and_target_are_the_published_run():
    case = GOLDEN["rsd.basic"]
    seen = []

    async def judge(prompt, texts):
        step = texts[0].removesuffix("\n\n").split("\n\n")[-1]
        seen.append(step)
        return [case["input"]["reward_of_last_draft_step"][step]]

    given = case["input"]
    answer = solve(
        "draft_target", steps_of(given["target_steps"]["Q0"][1:]), judge, draft=steps_of(given["draft_steps"]["Q0"])
    )
    [counts] = case["output"]["token_counts(draft_accepted,target,draft_discarded)"]
    assert [answer.text] == case["output"]["outputs"]
    assert list(answer.notes["tokens"].values()) == counts
    assert [answer.notes["scores"]] == case["output"]["rewards"]
    writers = {1: "draft", 2: "target"}
    assert answer.notes["writers"] == [
        writers[who] for _, who in case["output"]["step_info(step,client 1=draft 2=target)"][0]
    ]
    # The ledger says the same: the triple by role and fate.
    ledger = answer.ledger
    assert [
        ledger.tokens("draft", "kept"),
        ledger.tokens("answer", "kept"),
        ledger.tokens("draft", "discarded"),
    ] == counts
    assert ledger.generated == sum(counts)
    assert ledger.critical_path == sum(counts)  # nobody writes while another does
    # Forced: the target reads the accepted step ("d one two"), the draft the target's ("t fixed it now").
    assert ledger.forced == 3 + 4


def test_draft_is_accepted_at_the_threshold():
    assert accepts(0.7)
    assert not accepts(0.6999)


def test_target_finishes_what_steps_are_left():
    async def judge(prompt, texts):
        return [0.0]

    answer = solve(
        "draft_target",
        steps_of([("t one", "\n\n"), ("t two", None)]),
        judge,
        draft=steps_of([("d", "\n\n")]),
        max_steps=1,
    )
    assert (answer.text, answer.finish) == ("t one\n\nt two", "stop")
    assert answer.notes["tokens"] == {"accepted": 0, "target": 6, "discarded": 2}


def test_draft_target_without_a_draft_is_refused():
    async def judge(prompt, texts):
        return [1.0]

    with pytest.raises(LaunchError, match="second engine"):
        solve("draft_target", steps_of([]), judge)


# MUR


def test_momentum_is_the_published_one():
    case = GOLDEN["mur.discriminator"]
    momentum = Momentum(case["input"]["momentum"], case["input"]["scaling_rate"])
    got = [(momentum.stands_out(u), momentum.value) for u in case["input"]["step_uncertainty"]]
    assert [out for out, _ in got] == [out for out, _ in case["output"]]
    assert [value for _, value in got] == pytest.approx([value for _, value in case["output"]])


def test_mur_draws_more_only_where_it_is_unsure():
    def script(context):
        level = context.text.count("\n\n")
        sure = -2.0 if level == 1 else -0.1
        step = [Token(f"s{context.branch}", logprob=sure), Token("\n\n", logprob=sure)]
        return step if level < 2 else [Token("7", logprob=-0.1), EOS]

    async def judge(prompt, texts):
        return [float(text.split("s")[-1]) for text in texts]

    answer = solve("mur", script, judge, candidates=3)
    assert answer.notes["scaled"][:2] == [False, True]
    # Two tokens a step, two more candidates at the second.
    assert answer.ledger.tokens("answer", "discarded") == 2 * 2
    assert answer.text.split("\n\n")[1] == "s4"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("phi_decoding", {"beams": 0}),
        ("phi_decoding", {"temperature": 0.0}),
        ("self_eval_beam", {"samples": 0}),
        ("pats", {"candidates": ()}),
        ("pats", {"slow": 0.9}),
        ("pats", {"first_mode": 3}),
        ("draft_target", {"max_steps": 0}),
        ("mur", {"rate": 0.0}),
        ("mur", {"candidates": 1}),
    ],
)
def test_wrong_parameters_are_refused(name, wrong):
    with pytest.raises(RecipeError):
        POLICIES[name].build(wrong)


def test_what_needs_logprobs_says_so_before_the_first_token():
    async def go():
        engine = ScriptedEngine(Phi(), capabilities=set(Capability) - {Capability.LOGPROBS})
        with pytest.raises(LaunchError, match="log-probabilities"):
            await run_policy(POLICIES["phi_decoding"].build(), Ask(engine, "q", Ledger()))
        assert engine.emitted == 0

    asyncio.run(go())
