"""`search:` and `problems: {source: world}`: what is legal, what is refused, and what a stage's hash depends on."""

import pytest

from laconic.data_gen.world.spaced import SPACED
from laconic.inference.episode_protocols import PROTOCOLS
from laconic.recipes.model_spec import ModelSpec
from laconic.recipes.resolve import StageFile, resolve
from laconic.recipes.search_model import SearchSpec
from laconic.recipes.source import load_recipe
from laconic.rewards.errors import DataError, RecipeError

WORLD = """\
name: world
problems: {source: world, size: 40, train: 30, test: 10}
model: {scratch: {hidden_size: 32, layers: 1, max_length: 200}}
search: {protocol: spaced, k: 2}
stages:
  - {kind: generate, name: teach, teacher: {styles: {minimal: 1}, statements: 2}}
  - {kind: sft}
  - {kind: grpo, rewards: [{name: accuracy}], trainer: {num_generations: 4, max_completion_length: 64}}
  - {kind: eval, sampling: {max_tokens: 64}}
"""


@pytest.fixture
def written(tmp_path):
    def write(*changes):
        text = WORLD
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / "r.yaml").write_text(text)
        return tmp_path / "r.yaml"

    return write


def hashes(path, tmp_path, *overrides):
    plan = resolve(load_recipe(path, overrides=overrides), tmp_path / "runs")
    return {stage.name: stage.hash for stage in plan.stages}


def test_a_stage_knows_how_to_search_and_is_the_same_when_read_back(written, tmp_path):
    plan = resolve(load_recipe(written(("train: 30", "train: 30, hops: {1: 0.5, 2: 0.5}"))), tmp_path)
    stage = plan.stage("eval")
    assert stage.search == SearchSpec(protocol="spaced", k=2)
    (tmp_path / "stage.yaml").write_text(stage.to_yaml())
    assert StageFile.from_yaml(tmp_path / "stage.yaml") == stage


def test_settings_are_those_of_an_episode():
    spec = SearchSpec(protocol="ikea", k=5, max_searches=2, turn_tokens=30)
    assert spec.settings() == {
        "protocol": PROTOCOLS["ikea"],
        "k": 5,
        "max_searches": 2,
        "document_tokens": 500,
        "turn_tokens": 30,
        "max_invalid": 2,
        "context_tokens": None,
    }
    scratch = ModelSpec.model_validate({"scratch": {"max_length": 200}})
    assert spec.settings(scratch)["context_tokens"] == 200
    assert SearchSpec(context_tokens=90).settings(scratch)["context_tokens"] == 90


def test_the_prompt_is_the_protocols_unless_models_are_not_instructed():
    assert SearchSpec(protocol="spaced").tags is SPACED
    assert SearchSpec(protocol="spaced").prompt("who ?", searches_enabled=False) == "no search . who ?"
    assert SearchSpec().prompt("who ?") == PROTOCOLS["search_r1"].prompt("who ?")
    assert SearchSpec(instruct=False).prompt("who ?") == "who ?"


def test_what_searches_matter_to_changes_with_them(written, tmp_path):
    path = written()
    before, after = hashes(path, tmp_path), hashes(path, tmp_path, "search.k=3")
    assert before["init"] == after["init"]
    assert all(before[name] != after[name] for name in ("teach", "sft", "grpo", "eval"))
    # Nothing of the world is drawn otherwise, so a limit of the questions' number leaves the names as they are.
    assert before["init"] != hashes(path, tmp_path, "problems.size=50")["init"]


def test_a_changed_corpus_means_new_stages(written, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "1", "contents": "one"}\n')
    path = written(("k: 2", f"k: 2, retriever: {corpus}"))
    before = hashes(path, tmp_path)
    corpus.write_text('{"id": "1", "contents": "two"}\n')
    after = hashes(path, tmp_path)
    assert before["init"] == after["init"]
    assert before["teach"] != after["teach"]
    corpus.unlink()
    with pytest.raises(DataError, match=r"search.retriever: .*no such retriever"):
        hashes(path, tmp_path)


REFUSED = {
    "protocol": (("protocol: spaced", "protocol: search_r2"), "search.protocol: found 'search_r2'; did you mean"),
    "words": (("protocol: spaced", "protocol: search_r1"), "search.protocol: found 'search_r1', whose words"),
    "numbers": (("k: 2", "k: 11"), "search.k: found 11; spaced numbers at most 10"),
    "no search": (
        ("search: {protocol: spaced, k: 2}\n", ""),
        "stages[0].teacher: the teacher of a world writes",
    ),
    "style": (("minimal: 1", "overthink: 1"), "stages[0].teacher.styles.overthink: unknown style for world problems"),
    "redundancy": (("statements: 2", "redundancy: 2"), "stages[0].teacher.redundancy: only for teachers of procedural"),
    "share": (
        ("rewards: [", "search_disabled: 0.3, rewards: ["),
        "stages[2].search_disabled: found 0.3; of 4 rollouts that is no whole number",
    ),
    "hops": (("train: 30", "train: 30, hops: {4: 1}"), "problems.hops[4]: unknown; legal: 0, 1, 2, 3"),
    "weights": (("train: 30", "train: 30, shapes: {union: 0}"), "problems.shapes: give at least one"),
    "paraphrases": (("size: 40", "wordings: 1, paraphrases: 2"), "problems.paraphrases: found 2; there are 1 wordings"),
    "gold": (("styles: {minimal: 1}, statements: 2", "source: gold"), "come without solutions"),
    "closed book": (("statements: 2", "closed_book: 1.2"), "stages[0].teacher.closed_book: found 1.2"),
    "pairs": (
        (
            "stages:\n",
            "stages:\n  - {kind: generate, teacher: {styles: {minimal: 1}, closed_book: 0.2}, keep: web_thinker}\n",
        ),
        "stages[0].teacher.closed_book: keep: web_thinker makes pairs",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(written, case):
    change, message = REFUSED[case]
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(change))
    assert message in str(caught.value)


def test_a_closed_book_prompt_needs_an_instruction(written):
    with pytest.raises(RecipeError, match=r"stages\[0\].teacher.closed_book: without search.instruct there is no"):
        load_recipe(written(("k: 2}", "k: 2, instruct: false}"), ("statements: 2", "closed_book: 0.2")))


def test_a_world_is_needed_for_its_documents(written):
    qa = ("{source: world, size: 40, train: 30, test: 10}", "{source: qa, train: [nq], test: [nq, popqa]}")
    stages = WORLD[WORLD.index("  - {kind: generate") : WORLD.index("  - {kind: grpo")]
    scratch = ("max_length: 200", "max_length: 200, tokenizer: bpe")
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(qa, scratch, (stages, "")))
    assert "search.retriever: only problems: {source: world} bring documents" in str(caught.value)
    assert "search.protocol: spaced is for problems: {source: world}" in str(caught.value)


def test_question_sets_are_known_and_have_the_split(written):
    def refused(problems):
        with pytest.raises(RecipeError) as caught:
            load_recipe(written(("{source: world, size: 40, train: 30, test: 10}", problems)))
        return str(caught.value)

    assert "did you mean hotpotqa" in refused("{source: qa, train: [hotpot], test: [nq]}")
    assert "popqa has no training questions" in refused("{source: qa, train: [popqa], test: [nq]}")
    assert "a data set is named twice" in refused("{source: qa, train: [nq, nq], test: [nq]}")
