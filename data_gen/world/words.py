"""The words of the world that are no names: those of every sentence, question and search."""

from __future__ import annotations

import re

from laconic.data_gen.world.schema import RELATIONS, SHARES

UNKNOWN = "unknown"
"""The answer to a question whose fact is nowhere."""

QUESTIONS_ONE = ("what is {} ?", "name {} .", "tell me {} .")
QUESTIONS_MANY = ("what are {} ?", "list {} .", "tell me {} .")
"""Around a chain of nouns such as ``the capital of kola meru``."""
GIVEN = "{fact} . {question} ?"
"""A question whose fact is told along with it."""
STATEMENT_PROMPTS = ("recall the {noun} of {s} .", "what do you know about the {noun} of {s} ?")
AND = " and "

RECALL = "i know that {fact} ."
READ = "it says that {fact} ."
TOLD = "i am told that {fact} ."
MISSING = "i do not know the {noun} of {s} . i search ."
MISSING_ANCHOR = "i do not know the {kind} {clues} . i search ."
NOWHERE = "the {noun} of {s} is not written there ."
DOUBT = "i want to be sure of the {noun} of {s} . i search ."
GUESS = "i do not know but i guess ."
GIVE_UP = "i do not know the {noun} of {s} ."
QUERY = "{noun} of {s}"
QUERY_ANCHOR = "{kind} {clues}"

_TEMPLATES = (
    *QUESTIONS_ONE,
    *QUESTIONS_MANY,
    *STATEMENT_PROMPTS,
    *(GIVEN, AND, RECALL, READ, TOLD, MISSING, MISSING_ANCHOR, NOWHERE, DOUBT, GUESS, GIVE_UP, QUERY, QUERY_ANCHOR),
    *(text for r in RELATIONS.values() for text in (r.noun, r.question, r.clue, *r.statements)),
    *SHARES,
    "is a : , . ; ?",
    UNKNOWN,
)

TEMPLATE_WORDS = frozenset(word for text in _TEMPLATES for word in re.sub(r"\{\w*\}", " ", text).split())
"""Every word that is not part of a name."""
