"""Steering directions: closed forms, states and divergences of a model run by hand, artefacts, and the policy."""

import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from laconic.inference.engine import Capability, Sampling
from laconic.inference.engines.draw import draw, random_numbers
from laconic.inference.engines.loading import encode_prompt
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.plain import Plain
from laconic.inference.policies.steered import Steered
from laconic.inference.steering import Direction, check_fits, kind_of_thought, long_to_short, to_execution
from laconic.inference.steering_extract import TracePair, extract, extract_execution
from laconic.inference.steering_strength import calibrate, draw_traces, kl_terms, mean_kl
from laconic.rewards.errors import DataError, LaunchError, ModelError, RecipeError

PAIRS = [
    TracePair("3 + 4 =", long="3 + 4 = 7 7 7 7", short="7"),
    TracePair("2 * 5 =", long="5 + 5 = 10 ; 10", short="10 ;"),
    TracePair("9 - 1 =", long="9 - 1 = 8 8", short="8"),
]
HELD_OUT = ["1 + 1 =", "2 + 6 =", "8 / 2 =", "5 - 3 ="]


def states(model, ids, layer):
    with torch.no_grad():
        return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0].float().numpy()


def end_of(engine, prompt, text, layer, *, steps=False):
    """The state at the end of prompt and text, by a pass over all of it at once."""
    pieces = text.split("|") if steps else [text]
    ids = list(encode_prompt(engine.tokenizer, prompt))
    for piece in pieces:
        ids += engine.tokenizer(piece, add_special_tokens=False)["input_ids"]
    return states(engine.model, ids, layer)[-1]


@contextmanager
def edited(model, layer, vector, places):
    """By hand: a vector added to the output of a layer (1 is the first block) at these places."""

    def add(module, args, output):
        state = (output[0] if isinstance(output, tuple) else output).clone()
        state[0, places] += torch.as_tensor(vector, dtype=state.dtype)
        return (state, *output[1:]) if isinstance(output, tuple) else state

    hook = model.model.layers[layer - 1].register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def direction(**changes):
    given = {
        "vector": np.ones(32, np.float32),
        "layer": 1,
        "method": "asc",
        "samples": 3,
        "model": "tiny",
        "reference": np.ones(32, np.float32),
    }
    return Direction(**(given | changes))


# --- rules


def test_a_direction_points_from_long_to_short():
    long, short = np.array([[4.0, 1.0], [2.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 5.0]])
    assert long_to_short(long, short).tolist() == [-2.0, 2.0]
    assert long_to_short(short, long).tolist() == [2.0, -2.0]
    unit = long_to_short(long, short, unit=True)
    assert unit.tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])
    with pytest.raises(DataError, match="no direction"):
        long_to_short(long, long)


def test_execution_against_reflection_and_transition_together():
    kinds = ["execution", "reflection", "transition", "execution", "reflection"]
    found = to_execution(np.array([[1.0, 0.0], [0.0, 3.0], [0.0, 6.0], [5.0, 0.0], [0.0, 0.0]]), kinds)
    # The mean over the three others, not the mean of two means.
    assert found.tolist() == [3.0, -3.0]
    for one_sided in (["execution"] * 5, ["reflection"] * 5):
        with pytest.raises(DataError, match="both"):
            to_execution(np.eye(5), one_sided)


def test_kinds_of_thoughts():
    assert kind_of_thought("So 3 + 4 = 7.") == "execution"
    assert kind_of_thought("Hmm. WAIT, that is wrong") == "reflection"
    assert kind_of_thought("Wait. Alternatively, count") == "transition"


def test_kl_terms_over_all_tokens_sum_to_the_divergence():
    numbers = np.random.default_rng(0)
    p, q = numbers.dirichlet(np.ones(6)), numbers.dirichlet(np.ones(6))
    terms = kl_terms(np.log(p), np.log(q))
    assert p @ terms == pytest.approx(q @ np.log(q / p))
    assert (terms >= 0).all()
    assert kl_terms(np.log(p), np.log(p)).tolist() == [0.0] * 6


# --- extraction


def test_extraction_equals_a_full_pass_over_each_trace(on_tiny_model):
    async def work(engine):
        ledger = Ledger()
        found = await extract(engine, PAIRS, layer=1, model="tiny", source="by hand", ledger=ledger)
        unit = await extract(engine, PAIRS, layer=1, model="tiny", method="efficiency")
        by_hand = [end_of(engine, p.prompt, p.short, 1) - end_of(engine, p.prompt, p.long, 1) for p in PAIRS]
        return found, unit, np.mean(by_hand, axis=0), ledger

    found, unit, by_hand, ledger = on_tiny_model(work)
    np.testing.assert_allclose(found.vector, by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(unit.vector, by_hand / np.linalg.norm(by_hand), rtol=1e-5, atol=1e-6)
    assert (found.layer, found.samples, found.method, found.model, found.source) == (1, 3, "asc", "tiny", "by hand")
    assert (ledger.generated, ledger.forced) == (0, 8 + 1 + 7 + 2 + 6 + 1)


def test_adding_a_direction_takes_the_long_trace_to_the_short_one(on_tiny_model):
    async def work(engine):
        found = await extract(engine, PAIRS[:1], layer=1, model="tiny")
        ends = []
        for text, steering in ((PAIRS[0].long, found.steering(1.0)), (PAIRS[0].short, None)):
            async with engine.open(PAIRS[0].prompt, ledger=Ledger()) as branch:
                await branch.extend(text)
                branch.steer(steering)
                ends.append((await branch.hidden(1))[-1])
        return ends

    # The layer that is edited is the one that was looked at, and the sign is right.
    steered_long, short = on_tiny_model(work)
    np.testing.assert_allclose(steered_long, short, rtol=1e-4, atol=1e-5)


def test_seal_looks_at_the_boundary_before_each_thought(on_tiny_model):
    text = "So a.\n\nWait, no.\n\nb b.\n\n\n\nAlternatively c.\n\n"

    async def work(engine):
        found = await extract_execution(engine, [("hi", text)], layer=2, model="tiny")
        # Each boundary with what came before it, and by what follows: Wait, b b, (nothing), Alternatively, (nothing).
        ends = ["So a.\n\n", "|Wait, no.\n\n", "|b b.\n\n", "|\n\n"]
        at = [end_of(engine, "hi", "".join(ends[: place + 1]), 2, steps=True) for place in range(4)]
        return found, at[1] - (at[0] + at[3]) / 2

    found, by_hand = on_tiny_model(work, tokens="bpe")
    np.testing.assert_allclose(found.vector, by_hand, rtol=1e-4, atol=1e-5)
    assert (found.samples, found.at_boundaries) == (3, True)


def test_extraction_refuses_what_gives_no_direction(on_tiny_model):
    async def work(engine):
        with pytest.raises(DataError, match="no traces"):
            await extract(engine, [], layer=1, model="tiny")
        with pytest.raises(DataError, match="no step that ends"):
            await extract_execution(engine, [("3 + 4 =", "7")], layer=1, model="tiny")
        with pytest.raises(RecipeError, match="layer=-1"):
            await extract(engine, PAIRS, layer=-1, model="tiny")
        with pytest.raises(RecipeError, match="layers go from 0"):
            await extract(engine, PAIRS, layer=9, model="tiny")

    on_tiny_model(work)


# --- artefacts


def test_what_is_saved_is_loaded(tmp_path):
    known = {"strength": 0.27, "kl": 0.1, "kl_bound": 0.2, "kl_tokens": 99}
    made = direction(**known, separator=" ;", source="50 pairs", reference_prompt="hm?")
    made.save(tmp_path / "deep" / "short.npz")
    found = Direction.load(tmp_path / "deep" / "short.npz")
    for name in Direction.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name), strict=isinstance(found, np.ndarray))
    assert (type(found.layer), type(found.model), found.vector.dtype) == (int, str, np.float32)
    direction().save(tmp_path / "short.npz")
    assert Direction.load(tmp_path / "short.npz").strength is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "short.npz"]


def test_what_is_no_direction_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such direction"):
        Direction.load(tmp_path / "none.npz")
    with pytest.raises(DataError, match="not the name"):
        direction().save(tmp_path / "short.json")
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    (tmp_path / "text.npz").write_text("hello")
    direction().save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:200])
    for name in ("other", "text", "cut"):
        with pytest.raises(DataError, match="not a direction"):
            Direction.load(tmp_path / f"{name}.npz")


def test_a_direction_fits_its_own_model_alone(on_tiny_model):
    async def make(engine):
        found = await extract(engine, PAIRS, layer=1, model="tiny")
        await check_fits(found, engine)
        return found

    made = on_tiny_model(make)

    def check(**model):
        return on_tiny_model(lambda engine: check_fits(made, engine), **model)

    check(layers=2)
    with pytest.raises(ModelError, match="from tiny, whose state"):
        check(seed=5)
    with pytest.raises(ModelError, match=r"width 32 .* width 64"):
        check(hidden=64)


# --- strength


def test_divergence_of_a_steered_model_by_hand(on_tiny_model):
    async def work(engine):
        made = await extract(engine, PAIRS, layer=1, model="tiny")
        traces = await draw_traces(engine, HELD_OUT, max_tokens=12)
        return [await mean_kl(engine, made, strength, traces) for strength in (0.0, 0.5)], by_hand(engine, made, traces)

    def by_hand(engine, made, traces):
        terms = []
        for prompt, text in traces:
            begun = list(encode_prompt(engine.tokenizer, prompt))
            ids = begun + engine.tokenizer(text, add_special_tokens=False)["input_ids"]
            said = torch.tensor(ids[len(begun) :])[:, None]

            plain = logprobs(engine.model, ids, said)
            # From the prompt's last token on, which the first token of the trace is drawn at.
            with edited(engine.model, 1, 0.5 * made.vector, list(range(len(begun) - 1, len(ids)))):
                terms += kl_terms(plain, logprobs(engine.model, ids, said)).tolist()
        return terms

    def logprobs(model, ids, said):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -len(said) - 1 : -1]
        return logits.log_softmax(-1).gather(-1, said)[:, 0].numpy()

    ((nothing, _), (some, tokens)), terms = on_tiny_model(work)
    assert (nothing, tokens) == (0.0, len(terms))
    assert some == pytest.approx(np.mean(terms), rel=1e-4)
    assert some > 1e-3


def test_the_largest_strength_within_a_bound(on_tiny_model):
    async def work(engine):
        made = await extract(engine, PAIRS, layer=1, model="tiny")
        traces = await draw_traces(engine, HELD_OUT, max_tokens=12)
        found = await calibrate(engine, made, traces, bound=0.02, largest=8.0)
        again = await mean_kl(engine, made, found.strength, traces)
        # The last interval was halved six times: a 64th of the strength further, it was seen to fail.
        beyond = await mean_kl(engine, made, found.strength * (1 + 1 / 32), traces)
        everything = await calibrate(engine, made, traces, bound=1e9, largest=0.3)
        with pytest.raises(DataError, match=r"no strength from 1\.0 on keeps the divergence at or below 1e-09"):
            await calibrate(engine, made, traces, bound=1e-9, smallest=1.0)
        for wrong in ({"bound": 0.0}, {"bound": 0.1, "smallest": 0.0}, {"bound": 0.1, "smallest": 9.0}):
            with pytest.raises(RecipeError):
                await calibrate(engine, made, traces, **wrong)
        with pytest.raises(DataError, match="no traces"):
            await calibrate(engine, made, [("3 + 4 =", "")], bound=0.1)
        return found, again, beyond, everything

    found, again, beyond, everything = on_tiny_model(work)
    assert 0 < found.strength < 8
    assert (found.kl, found.kl_tokens) == again
    assert found.kl <= 0.02 < beyond[0]
    assert everything.strength == 0.3


def test_drawn_traces_are_the_models_own(on_tiny_model):
    async def work(engine):
        return await draw_traces(engine, HELD_OUT[:2], max_tokens=9, seed=4), engine.model, engine.tokenizer

    traces, model, tokenizer = on_tiny_model(work)
    for place, (prompt, text) in enumerate(traces):
        assert prompt == HELD_OUT[place]
        assert text == decoded(tokenizer, sampled(model, tokenizer, prompt, 9, seed=4 + place, vector=None))


# --- the policy


def sampled(model, tokenizer, prompt, count, *, seed, vector, layer=1, at=lambda tokenizer, ids, place: True):
    """What a model says when every token is drawn after a full pass in which chosen generated tokens are edited."""
    ids, numbers = list(encode_prompt(tokenizer, prompt)), random_numbers(seed)
    start = len(ids)
    while len(ids) < start + count and ids[-1] != tokenizer.eos_token_id:
        places = [place for place in range(start, len(ids)) if at(tokenizer, ids, place)]
        with edited(model, layer, np.zeros(32) if vector is None else vector, places), torch.no_grad():
            logits = model(torch.tensor([ids])).logits[:, -1]
        ids.append(draw(logits, torch.tensor([numbers.random()], dtype=torch.float64), Sampling()).item())
    return ids[start:]


def decoded(tokenizer, ids):
    silent = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return tokenizer.decode([i for i in ids if i not in silent])


def ask(engine, *, seed=0, max_tokens=24, opens_thinking=True):
    return Ask(
        engine,
        "3 + 4 =",
        Ledger(),
        sampling=Sampling(max_tokens=max_tokens),
        seed=seed,
        opens_thinking=opens_thinking,
    )


@pytest.mark.parametrize("seed", [2, 5])
def test_the_policy_steers_from_the_first_token_of_the_thinking(on_tiny_model, tmp_path, seed):
    async def work(engine):
        made = await extract(engine, PAIRS, layer=1, model="tiny")
        made.save(tmp_path / "short.npz")
        answers = {}
        for strength in (0.0, 3.0, -3.0):
            policy = Steered(direction=str(tmp_path / "short.npz"), strength=strength)
            answers[strength] = await run_policy(policy, ask(engine, seed=seed))
        return await run_policy(Plain(), ask(engine, seed=seed)), answers, made, engine.model, engine.tokenizer

    plain, answers, made, model, tokenizer = on_tiny_model(work)
    assert answers[0.0].text == plain.text
    assert len({answer.text for answer in answers.values()}) == 3
    for strength, answer in answers.items():
        ids = sampled(model, tokenizer, "3 + 4 =", 24, seed=seed, vector=strength * made.vector)
        assert answer.text == decoded(tokenizer, ids)
        assert answer.ledger.generated == len(ids)
        assert answer.notes == {"layer": 1, "strength": strength, "begun_after": 1}
        assert answer.ledger.forced == answer.ledger.scored == 0


def test_a_direction_for_boundaries_is_added_there_alone(on_tiny_model, tmp_path):
    async def work(engine):
        made = await extract(engine, PAIRS, layer=1, model="tiny")
        # A separator that a random model says often enough.
        made = replace(made, method="seal", separator="7", strength=6.0)
        made.save(tmp_path / "steps.npz")
        answers = []
        for seed in range(6):
            answers.append(await run_policy(Steered(direction=str(tmp_path / "steps.npz")), ask(engine, seed=seed)))
        return answers, made, engine.model, engine.tokenizer

    answers, made, model, tokenizer = on_tiny_model(work)

    def boundary(tokenizer, ids, place):
        return tokenizer.decode([ids[place]]).endswith("7")

    different = 0
    for seed, answer in enumerate(answers):
        wanted = sampled(model, tokenizer, "3 + 4 =", 24, seed=seed, vector=6 * made.vector, at=boundary)
        assert answer.text == decoded(tokenizer, wanted)
        different += wanted != sampled(model, tokenizer, "3 + 4 =", 24, seed=seed, vector=None)
    assert different > 0


def test_the_opening_tag_is_read_unsteered(on_tiny_model, tmp_path):
    async def work(engine):
        (await extract(engine, PAIRS, layer=1, model="tiny")).save(tmp_path / "short.npz")
        policy = Steered(direction=str(tmp_path / "short.npz"), strength=2.0)
        tagged = ask(engine, seed=5, opens_thinking=False)
        # A random model opens no thinking; what it says first is taken for the opening tag.
        tagged.think_open = (await run_policy(Plain(), tagged)).text[:4]
        return await run_policy(policy, replace(tagged, ledger=Ledger())), tagged.think_open

    answer, tag = on_tiny_model(work)
    # Two tokens are the tag, and the third, the first of the thinking, is the first to be read with the direction.
    assert (tag, answer.text[:4]) == ("28 *", "28 *")
    assert answer.notes["begun_after"] == 3
    assert answer.ledger.tokens("think") == answer.ledger.generated


def test_the_policy_refuses_what_does_not_fit(on_tiny_model, tmp_path):
    path = str(tmp_path / "short.npz")

    async def make(engine):
        (await extract(engine, PAIRS, layer=1, model="tiny")).save(path)

    on_tiny_model(make)
    with pytest.raises(RecipeError, match="no calibrated strength"):
        Steered(direction=path)
    with pytest.raises(RecipeError, match="no direction"):
        Steered()
    with pytest.raises(DataError, match="no such direction"):
        Steered(direction=str(tmp_path / "none.npz"))
    with pytest.raises(ModelError, match="cosine"):
        on_tiny_model(lambda engine: run_policy(Steered(direction=path, strength=1.0), ask(engine)), seed=7)
    with pytest.raises(LaunchError, match=Capability.STEERING.value):
        on_tiny_model(
            lambda _: run_policy(Steered(direction=path, strength=1.0), ask(ScriptedEngine(lambda context: [])))
        )


def test_the_example_of_the_guide_makes_a_direction(on_tiny_model, tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "use-a-policy.md").read_text()
    names = {}
    exec(re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[1], names)
    on_tiny_model(lambda engine: names["make"](engine, PAIRS, HELD_OUT, str(tmp_path / "short.npz")))
    made = Direction.load(tmp_path / "short.npz")
    assert (made.samples, made.layer) == (3, 1)
    assert made.strength > 0
