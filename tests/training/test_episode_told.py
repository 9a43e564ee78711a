"""What trainers and rewards are told of an episode, against counts by hand."""

from dataclasses import replace

import pytest

from laconic.data_gen.world.audit import audit
from laconic.data_gen.world.spaced import SPACED
from laconic.inference.episode import Episode, Piece, Search
from laconic.inference.ledger import Ledger
from laconic.inference.trace import TraceReader
from laconic.recipes.stage_parts import Reward
from laconic.rewards.errors import DataError
from laconic.training import scratch
from laconic.training.episode_told import columns_of, drawn_logprobs, tell, trained_ids
from laconic.training.search_columns import check_columns, searched_problem, steps_of

END = 99
TOKENIZER = scratch.symbolic_tokenizer(
    ["a", "b", "<search>", "</search>", "<answer>", "</answer>", "<information>", "</information>", "doc", "hint"]
)


def ids_of(text):
    return tuple(TOKENIZER.encode(text, add_special_tokens=False))


def said(text, *, ended=None, cut=0):
    """A generated piece; the last `cut` of its ids were not drawn."""
    ids = ids_of(text)
    tokens = len(ids) + (ended is not None)
    return Piece("generated", text, tokens, ids, drawn=len(ids) - cut, ended=ended)


def put_in(kind, text):
    return Piece(kind, text, len(ids_of(text)), ids_of(text))


def episode(*pieces, finish="answer", answer="a ; b", searches=(), invalid=0, refused=0):
    text = "".join(piece.text for piece in pieces)
    turns = sum(piece.kind == "generated" for piece in pieces)
    return Episode(text, pieces, tuple(searches), invalid, refused, turns, answer, finish, Ledger())


SEARCH = Search("a b", ("d1", "d2"), 0, (2.0, 1.0), 1)
ASKED = said("<think> a </think> <search> a b </search>")
FOUND = put_in("retrieved", " <information> doc a </information> ")
ANSWERED = said("<think> b </think> b <think> a </think> <answer> a ; b </answer>")


def told(one, **given):
    columns = columns_of(one, SPACED, searches_enabled=True, **given)
    return tell(one, TraceReader(TOKENIZER, opens_thinking=False), limit=4, columns=columns)


def test_an_answer_after_a_search():
    one = episode(ASKED, FOUND, ANSWERED, searches=[SEARCH])
    ids, mask = trained_ids(one, eos_id=END)
    assert ids == [*ids_of(ASKED.text), *ids_of(FOUND.text), *ids_of(ANSWERED.text), END]
    assert mask == [1] * 7 + [0] * 4 + [1] * 12 + [0]
    seen = told(one, passages=[["text 1", "text 2"]])
    assert seen.text == ASKED.text + ANSWERED.text
    assert seen.ids == (*ids_of(ASKED.text), *ids_of(ANSWERED.text))
    # Seven of the first turn, and of the second up to its last </think>.
    assert (seen.think_tokens, seen.answer_tokens, seen.tokens) == (14, 5, 19)
    assert seen.columns == {
        "searches": 1,
        "queries": ["a b"],
        "retrieved": [["d1", "d2"]],
        "tools": ["search"],
        "invalid_actions": 0,
        "search_enabled": True,
        "entities": ["a", "b"],
        "well_formed": True,
        "passages": [["text 1", "text 2"]],
    }
    assert seen.finished
    assert seen.facts["retrieved_tokens"] == 4


def test_what_was_put_in_last_is_left_out():
    one = episode(ASKED, FOUND, finish="length", answer=None, searches=[SEARCH])
    assert trained_ids(one, eos_id=END) == (list(ids_of(ASKED.text)), [1] * 7)
    seen = told(one)
    assert (seen.finished, seen.answer, seen.think_tokens, seen.answer_tokens) == (False, None, 7, 0)
    assert not seen.columns["well_formed"]


def test_a_drawn_end_is_trained_on_and_kept():
    hint = put_in("forced", " hint ")
    one = episode(said("", ended=END - 1), hint, said("a", ended=END - 2), finish="invalid", answer=None, invalid=2)
    assert trained_ids(one, eos_id=END) == ([*ids_of("hint"), *ids_of("a"), END - 2], [0, 1, 1])
    assert told(one).ids == (END - 1, *ids_of("a"), END - 2)
    assert told(one).tokens == 3


def test_what_was_encoded_anew_is_not_trained_on():
    one = episode(said("<answer> a </answer>", cut=1))
    assert trained_ids(one, eos_id=END) == ([*ids_of("<answer> a </answer>"), END], [1, 1, 0, 0])


@pytest.mark.parametrize(
    ("pieces", "given", "expected"),
    [
        ([ANSWERED], {}, True),
        ([ANSWERED], {"invalid": 1}, False),
        ([said("<answer> a </answer>")], {}, False),
        ([said("<think> a <answer> a </answer>")], {}, False),
        ([said("<think> a </think> b </think> <answer> a </answer>")], {}, False),
        ([ANSWERED], {"finish": "budget", "answer": None}, False),
    ],
)
def test_well_formed(pieces, given, expected):
    assert told(episode(*pieces, **given)).columns["well_formed"] is expected


def test_a_template_may_open_the_thinking():
    one = episode(said("a </think> <answer> a </answer>"))
    assert told(one, opens_thinking=True).columns["well_formed"] is True
    assert told(one).columns["well_formed"] is False


def test_columns_of_a_world_problem(searching):
    for problem in searching.DRAWN:
        made = searched_problem(problem, tool="search", texts=searching.TEXTS)
        (query,) = made.meta["gold_queries"]
        fact = next(fact for fact in problem.meta["facts"] if fact["needed"])
        assert query[0].endswith(f"of {fact['subject']}")
        assert made.meta["gold_passages"] == [searching.TEXTS[id] for id in made.meta["gold_ids"]]
        assert all(fact["subject"] in text for text in made.meta["gold_passages"])
    assert "gold_ids" not in searched_problem(searching.DRAWN[0], tool="search").meta


def test_a_problem_that_lacks_what_a_reward_needs(searching):
    rewards = [Reward(name="mash"), Reward(name="step_search")]
    check_columns(rewards, searching.PROBLEMS)
    lacking = [*searching.PROBLEMS, searching.DRAWN[0]]
    with pytest.raises(DataError, match="step_search needs 'gold_queries'"):
        check_columns(rewards, lacking)
    check_columns(rewards[:1], lacking)


def test_steps_of_a_world_problem(searching):
    missing = next(problem for problem in searching.DRAWN if problem.meta["least_searches"] == 1)
    taught = next(problem for problem in searching.DRAWN if problem.meta["least_searches"] == 0)
    for problem in (missing, taught):
        found = {"query": "q", "ids": problem.meta["gold_documents"][:1], "shown": 1}
        unread = found | {"shown": 0}
        for searches in ([], [found], [unread], [found, found]):
            steps = steps_of(problem.meta, searches)
            expected = audit(problem.meta, searches, None)
            assert steps["over_searches"] == expected.over_searches <= len(searches)
            assert steps["under_searches"] == expected.under_searches <= steps["reasoning_steps"]
            assert steps["reasoning_steps"] == (0 if found in searches else 1)
    assert steps_of({}, []) == {}


def test_log_probabilities_go_with_the_tokens_that_are_trained():
    def drawn(piece, *values, ended=None):
        return replace(piece, logprobs=values, ended_logprob=ended)

    cut = drawn(said("<search> a </search>", cut=1), -0.1, -0.2)
    ended = drawn(said("a b", ended=END), -0.3, -0.4, ended=-0.5)
    one = episode(cut, FOUND, ended, finish="invalid")
    _, mask = trained_ids(one, eos_id=END)
    assert drawn_logprobs(one, mask) == [-0.1, -0.2, 0.0, *[0.0] * 4, -0.3, -0.4, -0.5]
    # What was put in after the last word is left out, and so is its place; the end that closes it was not drawn.
    open_ended = episode(drawn(said("a b"), -0.3, -0.4), put_in("forced", "hint"), finish="budget")
    ids, mask = trained_ids(open_ended, eos_id=END)
    assert (ids[-1], drawn_logprobs(open_ended, mask)) == (END, [-0.3, -0.4, 0.0])
    long = episode(drawn(said("a b"), -0.3, -0.4), finish="length")
    assert drawn_logprobs(long, trained_ids(long, eos_id=END)[1]) == [-0.3, -0.4]
    # Where vLLM had no number, TRL is told so.
    unknown = episode(said("a b"), finish="length")
    assert drawn_logprobs(unknown, trained_ids(unknown, eos_id=END)[1]) == [None, None]
