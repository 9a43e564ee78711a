"""Small models from scratch are ordinary Hugging Face folders that load as what was saved."""

import json

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from laconic.inference.template import render
from laconic.inference.trace import TraceReader, prompt_text, template_opens_thinking
from laconic.recipes.model_spec import ScratchModel
from laconic.rewards.errors import ModelError
from laconic.training import scratch

SYMBOLS = ["3", "45", "-48", "+", "-", "=", ";", "wait"]
TRACE = "<think> 3 - 45 = -42 ; wait 3 + 45 = 48 </think> 48"


def spec(**changes):
    return ScratchModel(**({"hidden_size": 32, "layers": 2, "heads": 2, "max_length": 64} | changes))


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_folder_loads_as_what_was_saved(tmp_path, architecture):
    # AutoTokenizer used to load such a folder as the architecture's own tokenizer, which dropped symbols.
    tokenizer = scratch.symbolic_tokenizer([*SYMBOLS, "-42", "48"])
    count = scratch.build(spec(architecture=architecture), tokenizer, seed=0, folder=tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded.encode(TRACE)
    assert len(ids) == len(TRACE.split())
    assert loaded.unk_token_id not in ids
    assert loaded.decode(ids) == TRACE
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.model_type == architecture
    assert model.num_parameters() == count
    assert model.generation_config.eos_token_id == loaded.eos_token_id


def test_a_tokenizer_that_changes_on_reload_is_refused(tmp_path):
    # transformers reads every qwen2 folder with Qwen2Tokenizer, which knows nothing of whole-word symbols.
    tokenizer = scratch.symbolic_tokenizer(SYMBOLS)
    with pytest.raises(ModelError, match="Qwen2Tokenizer, which encodes differently"):
        scratch.build(unchecked_qwen2(), tokenizer, seed=0, folder=tmp_path)


def unchecked_qwen2() -> ScratchModel:
    """The combination that a recipe is refused for."""
    return spec().model_copy(update={"architecture": "qwen2"})


def test_recipe_with_symbols_on_qwen2_is_refused():
    with pytest.raises(ValidationError, match="symbolic"):
        spec(architecture="qwen2", tokenizer="symbolic")


def test_same_seed_same_weights(tmp_path):
    tokenizer = scratch.symbolic_tokenizer(SYMBOLS)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        scratch.build(spec(), tokenizer, seed=seed, folder=tmp_path / name)
    a, b, c = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2", "llama"])
def test_bpe_round_trips_any_text(tmp_path, architecture):
    corpus = ["How many clips did Natalia sell in April?", "48 / 2 = 24 clips.\nTotal: 72"] * 20
    tokenizer = scratch.bpe_tokenizer(corpus, vocab_size=320)
    scratch.build(spec(architecture=architecture, tokenizer="bpe"), tokenizer, seed=0, folder=tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<think>\nÜnseen text, 1234 + 5 = 1239!\n</think>\n\n1239"
    assert loaded.decode(loaded.encode(text)) == text
    assert len(loaded.encode("</think>")) == 1
    assert loaded.encode("12") == loaded.encode("1") + loaded.encode("2")
    assert loaded.decode(loaded.encode(text), skip_special_tokens=True) == text


def test_one_template_for_all(tmp_path):
    tokenizer = scratch.symbolic_tokenizer(SYMBOLS)
    assert prompt_text(tokenizer, "3 + 45 =") == render("3 + 45 =")
    assert not template_opens_thinking(tokenizer)
    ids = tokenizer.encode(render("3 + 45 ="))
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|user|>", "3", "+", "45", "=", "<|assistant|>"]
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())


def test_trace_reader_counts_parts():
    tokenizer = scratch.symbolic_tokenizer([*SYMBOLS, "-42", "48"])
    reader = TraceReader(tokenizer)
    trace = reader.read([*tokenizer.encode(TRACE), tokenizer.eos_token_id])
    assert (trace.answer_text, trace.think_tokens, trace.answer_tokens) == ("48", 14, 2)
    assert trace.text == TRACE
    cut = reader.read(tokenizer.encode("<think> 3 - 45"))
    assert (cut.answer_text, cut.think_tokens, cut.answer_tokens) == (None, 4, 0)
    direct = reader.read([*tokenizer.encode("48"), tokenizer.eos_token_id])
    assert (direct.answer_text, direct.think_tokens, direct.answer_tokens) == ("48", 0, 2)


def test_trace_reader_finds_a_tag_of_several_tokens():
    class Characters:
        """One token per character, so that </think> is spelled by eight."""

        eos_token_id, pad_token_id = 0, 0

        def encode(self, text, add_special_tokens=False):
            return [ord(character) for character in text]

        def decode(self, ids, skip_special_tokens=False):
            return "".join(map(chr, ids))

    reader = TraceReader(Characters(), opens_thinking=True)
    trace = reader.read([*Characters().encode("a b</think>7"), 0])
    assert (trace.answer_text, trace.think_tokens, trace.answer_tokens) == ("7", 11, 2)


def test_ids_have_no_gaps():
    tokenizer = scratch.symbolic_tokenizer(["3", "<think>", "3", "</think>"])
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
