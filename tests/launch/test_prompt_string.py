"""The prompt string, against the one that transformers renders."""

from __future__ import annotations

import json

import pytest

from laconic.launch.prompt import prompt_string
from laconic.recipes.model_spec import ModelSpec, ScratchModel

TEMPLATE = """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {% break %}
    {%- endif %}
    {% if loop.first %}
    <|{{ message['role'] }}|> {{ message['content'] | trim }} {{ {"é": 1} | tojson }}
    {% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|><think>
{% endif %}"""


@pytest.fixture
def folder(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    return tmp_path, tokenizer


def test_rendered_as_transformers_does(folder):
    path, tokenizer = folder
    messages = [{"role": "user", "content": "  What is 3 + 4?\n"}]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert expected.startswith("<s>")
    assert prompt_string(ModelSpec(path=str(path)), messages[0]["content"]) == expected


def test_older_folders_keep_the_template_in_the_configuration(tmp_path):
    config = {"chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "{{ eos_token }}"}]}
    config |= {"eos_token": {"content": "<end>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert prompt_string(ModelSpec(path=str(tmp_path)), "x") == "<end>"


def test_nothing_is_shown_for_what_is_not_local(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert prompt_string(ModelSpec(path="some/model"), "x") is None
    (tmp_path / "bare").mkdir()
    assert prompt_string(ModelSpec(path=str(tmp_path / "bare")), "x") is None


def test_models_from_scratch_have_the_shared_template():
    transformers = pytest.importorskip("transformers")
    from transformers.utils.chat_template_utils import render_jinja_template

    from laconic.inference.template import CHAT_TEMPLATE

    assert transformers
    rendered, _ = render_jinja_template(
        conversations=[[{"role": "user", "content": "1 + 1 ="}]],
        chat_template=CHAT_TEMPLATE,
        add_generation_prompt=True,
    )
    assert prompt_string(ModelSpec(scratch=ScratchModel()), "1 + 1 =") == rendered[0]
