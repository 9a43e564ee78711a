"""The generate stage on a world: the teacher's episodes, closed-book rows, a model's episodes, pairs."""

from __future__ import annotations

from collections import Counter

import pytest

from laconic.data_gen.pairs import PAIRINGS, executed_searches
from laconic.data_gen.select import SELECTORS
from laconic.data_gen.sources import load_problems, training_problems, training_text, vocabulary
from laconic.data_gen.stage import main
from laconic.data_gen.world.spaced import SPACED
from laconic.recipes.entry import run_stage
from laconic.recipes.problems_model import WorldProblems
from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe
from laconic.rewards.jsonl import read_jsonl
from laconic.rewards.records import Problem, Rollout, read_problems, read_rollouts
from laconic.training import init

RECIPE = """\
name: world
seed: 5
problems: {source: world, size: 60, facts_per_document: 1, hops: {0: 0.2, 1: 0.8}, known: 0.4, train: 60, test: 10}
model: {scratch: {hidden_size: 32, layers: 1, heads: 2, max_length: 160}}
search: {protocol: spaced, k: 1, max_searches: 2}
stages:
  - {kind: generate, name: made, teacher: {styles: {minimal: 1, needless: 1, premature: 1}}, samples: 3}
"""


@pytest.fixture
def generated(tmp_path):
    """Runs the recipe's stage with its text changed, and gives the stage and its folder."""

    def run(*changes):
        text = RECIPE
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / "world.yaml"
        path.write_text(text)
        argv = [str(path), "--runs", str(tmp_path / "runs")]
        plan = resolve(load_recipe(path), tmp_path / "runs")
        if plan.stage("made").config.teacher is None:
            run_stage("init", init.main, argv)
        run_stage("generate", main, argv)
        return plan.stage("made"), plan.run_dir / plan.stage("made").folder

    return run


def test_the_teacher_gives_masked_rows_and_never_its_guesses(generated):
    _, folder = generated()
    rollouts, rows = list(read_rollouts(folder / "rollouts.jsonl")), list(read_jsonl(folder / "rows.jsonl"))
    guesses = {(r.problem_id, r.text) for r in rollouts if r.meta["guessed"]}
    assert guesses
    assert all((row["problem_id"], row["completion"]) not in guesses for row in rows)
    honest = {(r.problem_id, r.text) for r in rollouts if not r.meta["guessed"]}
    assert {(row["problem_id"], row["completion"]) for row in rows} == honest
    for row in rows:
        assert "".join(piece["text"] for piece in row["pieces"]) == row["completion"]
        retrieved = [piece["text"] for piece in row["pieces"] if piece["kind"] == "retrieved"]
        assert all(text.strip().startswith("<information>") for text in retrieved)
        assert len(retrieved) == row["completion"].count("<search>")


def test_rollouts_count_what_was_generated_and_executed(generated):
    _, folder = generated()
    problems = {problem.id: problem for problem in read_problems(folder / "problems.jsonl")}
    rollouts = list(read_rollouts(folder / "rollouts.jsonl"))
    keys = [(rollout.problem_id, rollout.sample) for rollout in rollouts]
    assert len(set(keys)) == len(keys)
    for rollout in rollouts:
        said = [p["text"] for p in rollout.meta["search"]["pieces"] if p["kind"] == "generated"]
        assert rollout.tokens == sum(len(text.split()) for text in said)
        assert rollout.think_tokens + rollout.answer_tokens == rollout.tokens
        assert executed_searches(rollout) == rollout.text.count("<search>")
        if rollout.source == "minimal":
            assert executed_searches(rollout) == problems[rollout.problem_id].meta["least_searches"]


def test_statements_and_taught_questions_are_added(generated):
    teacher = "teacher: {styles: {minimal: 1}, statements: 3, taught_questions: 1}}"
    before = "teacher: {styles: {minimal: 1, needless: 1, premature: 1}}, samples: 3}"
    stage, folder = generated((before, teacher))
    world = stage.problems.world(stage.problems_seed)
    rows = list(read_jsonl(folder / "rows.jsonl"))
    taught = [fact for fact in world.facts.values() if fact.taught]
    told = [row for row in rows if row["problem_id"].startswith("fact/")]
    assert len(told) == 3 * len(taught)
    assert {row["problem_id"] for row in told} == {f"fact/{fact.subject}/{fact.relation}" for fact in taught}
    asked = {p.id for p in read_problems(folder / "problems.jsonl")}
    assert len(asked) > 60
    assert {p.id for p in training_problems(stage.problems, stage.problems_seed).kept} < asked


def test_what_is_recalled_is_repeated(generated):
    teacher = "teacher: {styles: {minimal: 1}, taught_questions: 2, recalls: 4}}"
    stage, folder = generated(("teacher: {styles: {minimal: 1, needless: 1, premature: 1}}, samples: 3}", teacher))
    taught = [fact for fact in stage.problems.world(stage.problems_seed).facts.values() if fact.taught]
    rows = list(read_jsonl(folder / "rows.jsonl"))
    times = Counter(row["problem_id"] for row in rows if "<search>" not in row["completion"])
    recalled = {id: n for id, n in times.items() if id.endswith("-recall")}
    assert len(recalled) == len(taught)
    assert set(recalled.values()) == {4}
    assert 2 in {n for id, n in times.items() if id not in recalled}
    assert len(list(read_rollouts(folder / "rollouts.jsonl"))) == len(rows)


def test_a_question_that_is_skipped_is_not_practised_but_its_fact_is_recalled(generated):
    before = "teacher: {styles: {minimal: 1, needless: 1, premature: 1}}, samples: 3}"
    teacher = "teacher: {styles: {minimal: 1}, taught_questions: 2, recalls: 1}"
    recalled, asked = [], []
    for skip in ("", ", skip: 20"):
        stage, folder = generated((before, f"{teacher}{skip}}}"))
        problems = list(read_problems(folder / "problems.jsonl"))
        recalled.append({p.id for p in problems if p.id.endswith("-recall") and not p.meta["least_searches"]})
        asked.append({p.id for p in problems})
    skipped = {p.id for p in training_problems(stage.problems, stage.problems_seed).kept[:20]}
    known = {f"{id}-recall" for id in skipped} & recalled[0]
    assert len(known) > 2
    assert recalled[0] == recalled[1]
    assert {id.removesuffix("-recall") for id in known} < asked[0]
    assert not skipped & asked[1]


def test_a_share_is_answered_from_memory_with_the_closed_book_prompt(generated):
    asked = "{styles: {minimal: 1, needless: 1}, taught_questions: 1, recalls: 2"
    texts, counts = {}, {}
    for share in ("0.0", "0.25"):
        change = ("{styles: {minimal: 1, needless: 1, premature: 1}", f"{asked}, closed_book: {share}")
        _, folder = generated(change)
        problems = {problem.id: problem for problem in read_problems(folder / "problems.jsonl")}
        rows = list(read_jsonl(folder / "rows.jsonl"))
        texts[share] = [(row["problem_id"], row["completion"]) for row in rows]
        closed = [row for row in rows if row["prompt"] == f"no search . {problems[row['problem_id']].prompt}"]
        assert all(row in closed or row["prompt"] == problems[row["problem_id"]].prompt for row in rows)
        for row in closed:
            assert [piece["kind"] for piece in row["pieces"]] == ["generated"]
            assert all(fact["taught"] for fact in problems[row["problem_id"]].meta["facts"])
        known = [row for row in rows if "<information>" not in row["completion"]]
        known = [row for row in known if problems[row["problem_id"]].meta["hops"] > 0]
        counts[share] = len(closed), len(known)
    assert texts["0.0"] == texts["0.25"]
    assert counts["0.0"][0] == 0
    assert counts["0.25"][0] == round(0.25 * counts["0.25"][1]) > 10


def test_guesses_are_what_pairs_reject(generated):
    _, folder = generated(("samples: 3}", "samples: 6, keep: web_thinker}"))
    rollouts = list(read_rollouts(folder / "rollouts.jsonl"))
    guesses = {(r.problem_id, r.text) for r in rollouts if r.meta["guessed"]}
    rows = list(read_jsonl(folder / "rows.jsonl"))
    assert any((row["problem_id"], row["rejected"]) in guesses for row in rows)
    # A guess of `unknown` may come out right with fewer searches than honest work takes.
    assert any(r.correct and r.meta["guessed"] for r in rollouts)
    assert not any((row["problem_id"], row["chosen"]) in guesses for row in rows)
    for row in rows:
        for side in ("chosen", "rejected"):
            assert "".join(piece["text"] for piece in row[f"{side}_pieces"]) == row[side]


def test_a_model_is_asked_with_the_protocol_and_its_episodes_kept(generated):
    before = "teacher: {styles: {minimal: 1, needless: 1, premature: 1}}, samples: 3}"
    sampled = "model: base, keep: all, limit: 6, samples: 2, sampling: {max_tokens: 40}}"
    # A model that knows nothing closes no tag, so that its turns are cut and answered by the hint.
    _, folder = generated((before, sampled), ("max_searches: 2", "max_searches: 2, turn_tokens: 5"))
    rollouts = list(read_rollouts(folder / "rollouts.jsonl"))
    assert len(rollouts) == 12
    rows = list(read_jsonl(folder / "rows.jsonl"))
    assert len(rows) == sum(rollout.finished for rollout in rollouts) > 0
    for row in rows:
        kinds = [piece["kind"] for piece in row["pieces"]]
        assert kinds[0] == "generated"
        assert {p["text"] for p in row["pieces"] if p["kind"] == "forced"} <= {SPACED.hint}
        assert "forced" in kinds


def _episode(sample, *, correct=True, text="a", searches=1, think=10, **meta):
    pieces = [{"kind": "generated", "text": text, "tokens": 1}]
    search = {"searches": [{"query": "q"}] * searches, "pieces": pieces}
    lengths = {"tokens": think + 1, "think_tokens": think, "answer_tokens": 1}
    return Rollout("p", sample, "qa", text, "a", correct, True, **lengths, meta={"search": search, **meta})


def test_web_thinker_counts_the_searches_of_episodes():
    problems = {"p": Problem("p", "who ?", "a", "qa")}
    few, many = _episode(0, text="few", searches=1, think=90), _episode(1, text="many", searches=2, think=5)
    (row,) = PAIRINGS["web_thinker"]([many, few], problems)
    assert (row["chosen"], row["rejected"]) == ("few", "many")
    assert row["chosen_pieces"] == [{"kind": "generated", "text": "few"}]


@pytest.mark.parametrize("name", SELECTORS)
def test_no_selector_takes_a_guess(name):
    problems = {"p": Problem("p", "who ?", "a", "qa")}
    rows = SELECTORS[name]([_episode(0, text="guess", searches=0, guessed=True), _episode(1)], problems)
    assert [row["completion"] for row in rows] == ["a"]


def test_rows_without_episodes_are_what_they_were():
    problems = {"p": Problem("p", "who ?", "a", "qa")}
    plain = Rollout("p", 0, "qa", "text", "a", True, True, 3, 2, 1)
    assert SELECTORS["all"]([plain], problems) == [{"problem_id": "p", "prompt": "who ?", "completion": "text"}]


def world(**options):
    given = {"source": "world", "size": 80, "train": 60, "test": 30, "unanswerable": 0.0, "hops": {1: 1.0}}
    return WorldProblems.model_validate(given | {"shapes": {"basic": 1.0}} | options)


def test_known_questions_come_in_their_share_from_the_first_on():
    problems = load_problems(world(known=0.25), "train", 1)
    known = [problem.meta["least_searches"] == 0 for problem in problems]
    assert len({problem.id for problem in problems}) == 60
    for count in (4, 20, 60):
        assert abs(sum(known[:count]) - 0.25 * count) <= 1
    # Without taught questions left, the others go on.
    few = load_problems(world(known=0.9, train=60, taught_share=0.05), "train", 1)
    assert len(few) == 60
    assert sum(problem.meta["least_searches"] == 0 for problem in few) < 30


def test_train_and_test_share_no_question_and_a_longer_list_begins_with_the_shorter():
    spec = world(known=0.3)
    train, test = (load_problems(spec, side, 1) for side in ("train", "test"))
    assert {p.id for p in train}.isdisjoint(p.id for p in test)
    assert load_problems(world(known=0.3, train=20), "train", 1) == train[:20]


def test_the_vocabulary_is_that_of_the_recipes_seed():
    spec = world()
    words = set(vocabulary(spec, 7))
    said = " ".join(f"{document.title} {document.text}" for document in spec.world(7).documents).split()
    assert set(said) <= words
    assert not set(said) <= set(vocabulary(spec, 8))
    assert "\n".join(training_text(spec, 7)).count(spec.world(7).documents[0].text) == 1


def test_prompts_of_rows_are_those_of_the_protocol(generated):
    _, folder = generated(
        ("protocol: spaced", "protocol: search_r1"), ("max_length: 160", "max_length: 160, tokenizer: bpe")
    )
    problems = {problem.id: problem.prompt for problem in read_problems(folder / "problems.jsonl")}
    for row in read_jsonl(folder / "rows.jsonl"):
        assert row["prompt"].startswith("Answer the given question.")
        assert row["prompt"].endswith(f"Question: {problems[row['problem_id']]}\n")
        assert SPACED.information_open not in row["completion"]
