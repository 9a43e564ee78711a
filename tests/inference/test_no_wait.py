"""NoWait: words of doubt are not drawn while a model thinks, and everything else is as it was."""

import asyncio

import pytest
import torch

from laconic.inference.engine import Capability, Sampling
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.opening import Opened
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.boost import EndOfThinkBoost
from laconic.inference.policies.no_wait import KEYWORDS, NoWait
from laconic.inference.vocabulary import Vocabulary, words_among
from laconic.rewards.errors import LaunchError, RecipeError
from laconic.training.scratch import bpe_tokenizer, symbolic_tokenizer


def test_words_are_found_whatever_is_around_them_but_not_in_other_words():
    texts = ["Wait", " wait,", "WAIT", "...wait...", "waiter", "await", "wait wait", "", "«Wait»", "_wait_", "hmm"]
    assert words_among(texts, ["wait"]) == (0, 1, 2, 3, 8, 9)
    assert words_among(texts, ["Hmm", "waiter"]) == (4, 10)
    assert words_among(texts, []) == ()
    assert words_among(["+", " +", "+1", "..."], ["+", "..."]) == (0, 1, 3)


def test_a_vocabulary_says_what_its_tokens_say():
    tokenizer = symbolic_tokenizer(["wait", "again", "so"])
    vocabulary = Vocabulary(tokenizer)
    assert len(vocabulary.texts) == len(tokenizer)
    assert vocabulary.saying(("wait", "again")) == tuple(sorted(tokenizer.convert_tokens_to_ids(["wait", "again"])))
    assert vocabulary.single("</think>") == tokenizer.convert_tokens_to_ids("</think>")
    assert Vocabulary(bpe_tokenizer(["a b"], vocab_size=262)).single("wait") is None


class Recording(ScriptedEngine):
    """Notes the bias of every generation."""

    def __init__(self, *words):
        super().__init__(lambda context: iter(words if not context.text else ["7"]))
        self.biases = []

    def open(self, *args, **options):
        branch, biases = super().open(*args, **options), self.biases
        generate = branch.generate

        async def noted(**wishes):
            biases.append(wishes.get("bias"))
            return await generate(**wishes)

        branch.generate = noted
        return branch


def test_the_answer_is_left_alone():
    engine = Recording("<think>", " so", "</think>")
    ask = Ask(engine, "?", Ledger(), sampling=Sampling(max_tokens=20))
    answer = asyncio.run(run_policy(NoWait(token_ids=[3, 5], bias=-2.0), ask))
    assert engine.biases == [{3: -2.0, 5: -2.0}, None]
    assert (answer.answer, answer.notes, answer.ledger.generated) == ("7", {"suppressed": 2}, 5)


@pytest.mark.parametrize("policy", [NoWait(), EndOfThinkBoost(boost=1.0)], ids=["words", "tag"])
def test_without_a_tokenizer_the_tokens_must_be_named(policy):
    engine = Recording("7")
    with pytest.raises(LaunchError, match="which token"):
        asyncio.run(run_policy(policy, Ask(engine, "?", Ledger())))
    assert engine.emitted == 0


def test_a_model_that_has_none_of_the_words_is_not_run_in_vain():
    ask = Opened(Recording("7"), "m", symbolic_tokenizer("12")).ask("?", sampling=Sampling())
    with pytest.raises(LaunchError, match="no token of this model says wait"):
        asyncio.run(run_policy(NoWait(words=["wait"]), ask))


def test_needs_a_bias():
    engine = ScriptedEngine(lambda context: ["7"], capabilities=[Capability.PREFIX, Capability.STOP])
    with pytest.raises(LaunchError, match="additive bias"):
        asyncio.run(run_policy(NoWait(token_ids=[1]), Ask(engine, "?", Ledger())))


@pytest.mark.parametrize("wrong", [{"words": "wait"}, {"words": [""]}, {"token_ids": [-1]}], ids=str)
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(RecipeError, match="no_wait"):
        NoWait(**wrong)


def test_the_papers_words_are_distinct():
    assert len(set(KEYWORDS)) == len(KEYWORDS) == 17


def test_the_words_are_never_drawn_and_the_bias_is_what_it_says(on_tiny_model):
    words = ["3", "7", "+"]

    async def work(engine):
        model, tokenizer = engine.model, engine.tokenizer
        opened = Opened(engine, "tiny", tokenizer)
        sampling = Sampling(max_tokens=60, temperature=2.0)
        asks = [opened.ask("1 + 2 =", sampling=sampling, seed=seed) for seed in range(6)]
        policy = NoWait(words=words, bias=-1e6)  # logits of this random model are in the hundreds
        said = [(await run_policy(policy, ask)).text.split("</think>")[0].split() for ask in asks]
        assert sum(map(len, said)) > 60
        assert not {word for line in said for word in line} & set(words)
        # The log-probability of a token under a bias, against a plain forward pass.
        async with engine.open("1 + 2 =", ledger=Ledger(), sampling=Sampling(temperature=0)) as branch:
            first = (await branch.generate(max_tokens=1, bias={4: 3.5, 9: -1.25})).tokens[0]
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": "1 + 2 ="}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        logits = model(**ids).logits[0, -1].detach().double()
        logits[4] += 3.5
        logits[9] -= 1.25
        assert first.id == int(logits.argmax())
        assert first.logprob == pytest.approx(float(torch.log_softmax(logits, -1).max()), abs=1e-5)

    on_tiny_model(work)
