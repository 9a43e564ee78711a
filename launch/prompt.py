"""The exact string a model is prompted with, without a tokenizer library: the chat template is rendered as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from laconic.inference.template import render
from laconic.launch.shapes import local_folder
from laconic.recipes.model_spec import ModelSpec


def prompt_string(model: ModelSpec, prompt: str) -> str | None:
    """The prompt string of one user message; None when the tokenizer is not on this machine.

    Args:
        model: The recipe's model; every stage of a chain shares its template.
        prompt: The user message.
    """
    if model.scratch is not None:
        return render(prompt)
    assert model.path is not None
    folder = local_folder(model.path, model.revision)
    config = _tokenizer_config(folder) if folder else {}
    template = _template(folder, config) if folder else None
    return None if template is None else _render(template, prompt, config)


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """The chat template: a file of its own in newer folders, a key of the configuration in older ones."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        return next((item["template"] for item in template if item["name"] == "default"), None)
    return template


def _render(template: str, prompt: str, config: dict[str, Any]) -> str:
    """Render as transformers does: sandboxed, with its whitespace settings and the special tokens by name."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _refuse
    special = {name: _text(token) for name, token in config.items() if name.endswith("_token") and token}
    messages = [{"role": "user", "content": prompt}]
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **special)


def _text(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def _refuse(message: str) -> None:
    raise ValueError(message)
