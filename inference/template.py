"""The chat template of models built from scratch; one template for every stage of a chain.

The prompt does not pre-fill ``<think>``: a model writes the tag itself, so direct answers and thinking are told apart
by what was generated.
"""

from __future__ import annotations

USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"
PAD = "<|pad|>"
UNKNOWN = "<|unknown|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    f"{{%- if message['role'] == 'user' -%}}{USER}{{{{ message['content'] }}}}{ASSISTANT}"
    f"{{%- elif message['role'] == 'assistant' -%}}{{{{ message['content'] }}}}{END}"
    "{%- else -%}{{ raise_exception('only user and assistant messages') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
)


def render(prompt: str) -> str:
    """The exact prompt string for one user message; what the chat template gives, without a tokenizer at hand."""
    return f"{USER}{prompt}{ASSISTANT}"
