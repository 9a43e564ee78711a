import json
import os
import subprocess
import sys
from itertools import islice
from random import Random

import pytest
import reasoning_gym
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.data_gen.families import FAMILIES, family
from laconic.rewards.errors import RecipeError
from laconic.rewards.procedural import MOVES, cell_name, cell_place
from laconic.rewards.records import Problem

GYM = sorted(set(FAMILIES) - {"countdown"})


def first(name, seed, count=1, options=None):
    return list(islice(FAMILIES[name].generate(seed, options), count))


def as_gym_writes(problem, entry):
    """Our answer in the format of the reasoning-gym question."""
    match problem.task:
        case "base_conversion":
            return problem.answer.replace(" ", "")
        case "prime_factorization":
            return problem.answer.replace(" ", "").replace("*", " × ")
        case "number_sorting":
            return str([str(float(word)) for word in problem.answer.split()])
        case _:
            return problem.answer


@pytest.mark.parametrize("name", GYM)
def test_answers_score_full_marks_in_reasoning_gym(name):
    config = FAMILIES[name].config(FAMILIES[name].options)
    dataset = reasoning_gym.create_dataset(name, seed=5, size=200, **config)
    kept = 0
    for index in range(200):
        entry = dataset[index]
        draw = FAMILIES[name].read(entry)
        if draw is None:
            assert name == "lcm"
            assert int(entry["answer"]) > 999
            continue
        kept += 1
        problem = Problem("x", draw.prompt, draw.answer, name, meta=draw.meta)
        assert dataset.score_answer(as_gym_writes(problem, entry), entry) == 1.0
    assert kept > 100


def test_countdown_answers_score_full_marks_in_reasoning_gym():
    score = reasoning_gym.get_score_answer_fn("countdown")
    for problem in first("countdown", 3, 40, {"max_numbers": 5}):
        assert score(problem.answer, {"metadata": problem.meta}) == 1.0


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_a_stream_is_a_function_of_its_seed(name, seed):
    problems = first(name, seed, 12)
    assert first(name, seed, 12) == problems
    # reasoning-gym's own streams of neighbouring seeds are one item apart.
    assert len({p.prompt for p in problems} & {p.prompt for p in first(name, seed + 1, 12)}) < 6
    for problem in problems:
        assert problem.difficulty > 0
        assert Problem.from_json(json.loads(json.dumps(problem.to_json()))) == problem


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_name_prompts_and_show_twins(name):
    problems = first(name, 0, 500)
    assert len({p.id for p in problems}) == len({p.prompt for p in problems})
    assert len({p.id.rsplit("-", 1)[0] for p in problems}) == len({FAMILIES[name].canonical(p) for p in problems})


FINGERPRINT = """
import hashlib, json
from itertools import islice
from random import Random
from laconic.data_gen.families import FAMILIES
from laconic.data_gen.split import draw
from laconic.data_gen.teachers import STYLES, teach
lines = []
for family in FAMILIES.values():
    for split in ("train", "test"):
        for problem in draw(family, split, 10, seed=11):
            traces = [teach(problem, style, rng=Random(problem.id)) for style in STYLES]
            lines.append(json.dumps([problem.to_json(), traces]))
    lines.append(" ".join(sorted(family.symbols())))
print(hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


def test_problems_and_traces_do_not_depend_on_the_hash_seed():
    seen = set()
    for hash_seed in ("0", "1234"):
        command = [sys.executable, "-c", FINGERPRINT]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        seen.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(seen) == 1


def test_importing_families_and_teachers_loads_no_heavy_library():
    script = (
        "import sys, laconic.data_gen.split, laconic.data_gen.teachers;"
        "print({'reasoning_gym', 'sympy', 'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def rewritten(problem, rng):
    """The same question asked in another order or orientation; None where a family has but one way to ask."""
    meta = dict(problem.meta)
    match problem.task:
        case "gcd" | "lcm" | "number_sorting" | "countdown":
            meta["numbers"] = rng.sample(meta["numbers"], len(meta["numbers"]))
        case "chain_sum":
            signed = list(zip(["+", *meta["operators"]], meta["numbers"], strict=True))
            rng.shuffle(signed)
            signed.insert(
                0, signed.pop(next(i for i, (sign, _) in enumerate(signed) if sign == "+"))
            )  # a sum starts so
            meta = {"numbers": [n for _, n in signed], "operators": [sign for sign, _ in signed[1:]]}
        case "base_conversion":
            meta["source"], meta["target"] = meta["target"], meta["source"]
        case "shortest_path":
            meta = turned(meta, rng)
        case _:
            return None
    return Problem("twin", "", problem.answer, problem.task, meta=meta)


def turned(meta, rng):
    """A grid turned by quarter turns, perhaps mirrored, moved, and walked backwards."""
    quarters, mirrored, backwards = rng.randrange(4), rng.random() < 0.5, rng.random() < 0.5

    def move(name):
        place = complex(*cell_place(name)) * 1j**quarters
        place = place.conjugate() if mirrored else place
        return round(place.real), round(place.imag)

    moved = {name: move(name) for name in (meta["start"], meta["goal"], *meta["open"])}
    top, left = (min(place[axis] for place in moved.values()) for axis in (0, 1))
    names = {name: cell_name((row - top, column - left)) for name, (row, column) in moved.items()}
    ends = [names[meta["start"]], names[meta["goal"]]]
    start, goal = reversed(ends) if backwards else ends
    return {"start": start, "goal": goal, "open": rng.sample([names[n] for n in meta["open"]], len(meta["open"]))}


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_twins_have_one_canonical_form(name, seed):
    problem, other = first(name, seed, 2)
    rng = Random(seed)
    twin = rewritten(problem, rng)
    if twin is not None:
        assert FAMILIES[name].canonical(twin) == FAMILIES[name].canonical(problem)
    if name not in ("shortest_path", "countdown") and other.answer != problem.answer:
        assert FAMILIES[name].canonical(other) != FAMILIES[name].canonical(problem)


def test_canonical_forms_keep_different_questions_apart():
    chain = FAMILIES["chain_sum"]
    plus = Problem("a", "", "", "chain_sum", meta={"numbers": [7, 3], "operators": ["+"]})
    minus = Problem("b", "", "", "chain_sum", meta={"numbers": [7, 3], "operators": ["-"]})
    assert chain.canonical(plus) != chain.canonical(minus)
    path = FAMILIES["shortest_path"]
    straight = Problem("c", "", "", "shortest_path", meta={"start": "a1", "goal": "a3", "open": ["a2", "b1"]})
    bent = Problem("d", "", "", "shortest_path", meta={"start": "a1", "goal": "a3", "open": ["a2", "b2"]})
    assert path.canonical(straight) != path.canonical(bent)
    sort = FAMILIES["number_sorting"]
    up, down = (
        Problem("e", "", "", "number_sorting", meta={"numbers": [3, 1], "direction": way}) for way in ("up", "down")
    )
    assert sort.canonical(up) != sort.canonical(down)


WIDE = {
    "chain_sum": {"max_terms": 10, "max_digits": 2},
    "gcd": {"max_numbers": 4, "max_value": 999},
    "lcm": {"max_numbers": 3, "max_value": 99},
    "base_conversion": {"max_base": 36, "max_value": 999},
    "number_sorting": {"min_value": -50, "max_numbers": 9},
    "count_bits": {"max_n": 999_999},
    "prime_factorization": {"max_value": 9999},
    "shortest_path": {"min_rows": 2, "max_rows": 9, "p_blocked": 0.1},
    "countdown": {"max_numbers": 6, "max_value": 99, "max_target": 999},
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("options", ["default", "wide"])
def test_whole_numbers_have_at_most_three_digits(name, options):
    words = FAMILIES[name].symbols(WIDE[name] if options == "wide" else None)
    assert all(len(word.lstrip("-")) <= 3 for word in words if word.lstrip("-").isdigit())


def test_shortest_path_prompt_tells_the_grid():
    problem = first("shortest_path", 1)[0]
    words = problem.prompt.split()
    assert words[:5] == ["path", problem.meta["start"], "to", problem.meta["goal"], "open"]
    assert words[5:-1] == problem.meta["open"]
    assert problem.answer == "infeasible" or set(problem.answer.split()) <= set(MOVES)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("chain_sum", {"max_term": 3}, "max_term: unknown option"),
        ("chain_sum", {"min_terms": 7}, "min_terms: 7 exceeds max_terms (6)"),
        ("chain_sum", {"max_terms": "6"}, "'6' is not int"),
        ("chain_sum", {"max_terms": True}, "True is not int"),
        ("chain_sum", {"max_terms": 4.0}, "4.0 is not int"),
        ("chain_sum", {"max_terms": 11, "max_digits": 2}, "can reach 1089"),
        ("base_conversion", {"min_value": 0}, "min_value: 0 is out of range"),
        ("base_conversion", {"min_base": 8, "max_base": 8}, "max_base: must exceed min_base"),
        ("gcd", {"min_value": 99}, "max_value: must exceed min_value"),
        ("number_sorting", {"min_value": -400, "max_value": 700}, "lies 1100 above"),
        ("shortest_path", {"p_blocked": 1.5}, "p_blocked: 1.5 is out of range"),
        ("countdown", {"min_target": 0}, "min_target: 0 is out of range"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_drawn(name, options, says):
    with pytest.raises(RecipeError) as caught:
        FAMILIES[name].generate(0, options)
    assert f"problems.options.{name}." in caught.value.message
    assert says in caught.value.message


def test_an_unknown_option_is_answered_with_the_legal_ones_and_their_defaults():
    with pytest.raises(RecipeError) as caught:
        FAMILIES["gcd"].resolve({"max": 3})
    assert caught.value.cure == (
        "the options of gcd are min_numbers (default 2), max_numbers (default 2), "
        "min_value (default 1), max_value (default 99)"
    )


def test_targets_out_of_reach_end_the_stream_with_an_error():
    options = {"max_numbers": 3, "min_value": 1, "max_value": 1, "min_target": 50}
    with pytest.raises(RecipeError, match="missed the targets 50 to 99"):
        next(FAMILIES["countdown"].generate(0, options))


def test_an_unknown_family_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean gcd"):
        family("gdc")
