"""How a model asks for a search and gives its answer: the tags and sentences of published search agents.

A protocol is data; `laconic.inference.episode` is the state machine over it. What each paper is known to use is taken
over: tags, the form of an observation, the hint after an invalid action where there is one. Search-R1's instruction and
hint are its own words (Apache-2.0), since models trained with it have seen nothing else. All other instructions, the
notices at the end of the budget, and what is said when nothing was found are ours, and so is every form marked so.

Prompt wording alone moves how often a model searches: use one wording for all that is compared.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Literal

from laconic.inference.trace import THINK_CLOSE, THINK_OPEN
from laconic.rewards.errors import RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeProtocol:
    """Marks and sentences; `dataclasses.replace` makes a variant."""

    name: str
    search_open: str = "<search>"
    search_close: str = "</search>"
    answer_open: str = "<answer>"
    answer_close: str = "</answer>"
    information_open: str = "\n\n<information>"
    """Before the documents, blanks included."""
    information_close: str = "</information>\n\n"
    document: str = 'Doc {number}(Title: "{title}") {text}\n'
    """One document, numbered from 1; only `text` is shortened. Blanks before the first and after the last are cut."""
    untitled: str = "Doc {number} {text}\n"
    """One without a title."""
    instruction: str
    """The prompt, with ``{question}``."""
    closed_book: str
    """The prompt of episodes that cannot search, with ``{question}``."""
    hint: str
    """What answers an invalid action."""
    notice: str = "\n\n<information>The search budget is used up. I must answer now.</information>\n\n"
    """What answers a search after the budget; empty: the episode ends there."""
    disabled: str = "\n\n<information></information>\n\n"
    """What answers a search where searches are disabled: an empty observation, as in SAAS."""
    nothing: str = "Nothing was found."
    """Instead of documents, where there are none."""
    call: Literal["text", "json"] = "text"
    """What stands between the search tags: the query, or a JSON tool call."""
    tool: str = "search"
    """The name of the tool in a JSON call."""
    reserved: tuple[str, ...] = (THINK_OPEN, THINK_CLOSE)
    """Further tags that a document must not say."""
    boxed: bool = False
    r"""The answer is what is boxed last between the answer tags, if anything is."""

    def prompt(self, question: str, *, searches_enabled: bool = True) -> str:
        """The prompt for a question.

        Args:
            question: As the problem has it.
            searches_enabled: Whether the episode may search.
        """
        return (self.instruction if searches_enabled else self.closed_book).replace("{question}", question)

    @property
    def marks(self) -> tuple[str, ...]:
        """Every tag, without blanks around it: what a document must not say."""
        tags = (self.search_open, self.search_close, self.answer_open, self.answer_close, *self.reserved)
        return tuple(tag.strip() for tag in (*tags, self.information_open, self.information_close) if tag.strip())


SEARCH_R1_HINT = (
    "\nMy previous action is invalid. If I want to search, I should put the query between <search> and </search>. "
    "If I want to give the final answer, I should put the answer between <answer> and </answer>. Let me try again.\n"
)
"""218 characters, Search-R1's; IKEA, MASH (switched off by default) and SAAS use the same."""
_EXAMPLE = "For example, <answer> Beijing </answer>. Question: {question}\n"
_SEARCH_R1 = (
    "Answer the given question. You must conduct reasoning inside <think> and </think> first every time you get new "
    "information. After reasoning, if you find you lack some knowledge, you can call a search engine by <search> query "
    "</search> and it will return the top searched results between <information> and </information>. {sparing}If you "
    "find no further external knowledge needed, you can directly provide the answer inside <answer> and </answer>, "
    "without detailed illustrations. " + _EXAMPLE
)
# The misspelling is the authors': models have been trained with it.
_FREELY = "You can search as many times as your want. "
_SPARINGLY = "You need to make every search call count and gain helpful results. "
CLOSED_BOOK = (
    "Answer the given question from your own knowledge; there is no search engine. Reason inside <think> and </think>, "
    "then give the answer inside <answer> and </answer>, without explanations. " + _EXAMPLE
)
"""Ours."""

SEARCH_R1 = EpisodeProtocol(
    name="search_r1",
    instruction=_SEARCH_R1.replace("{sparing}", _FREELY),
    closed_book=CLOSED_BOOK,
    hint=SEARCH_R1_HINT,
)
MASH = EpisodeProtocol(
    name="mash",
    information_open="\n",
    information_close="\n",
    document='<document>\n(Title: "{title}") {text}\n</document>\n',
    untitled="<document>\n{text}\n</document>\n",
    # Search-R1's with OTC's sentence about searching, which MASH adopts.
    instruction=_SEARCH_R1.replace("{sparing}", _SPARINGLY)
    .replace("<information>", "<document>")
    .replace("</information>", "</document>"),
    closed_book=CLOSED_BOOK,
    hint=SEARCH_R1_HINT,
    notice="\n<warning>SEARCH LIMIT REACHED</warning>\n",
    disabled="\n<document>\n</document>\n",
    reserved=(THINK_OPEN, THINK_CLOSE, "<document>", "</document>"),
)
IKEA = EpisodeProtocol(
    name="ikea",
    # The authors' is a page long, with three worked shapes; this says the same rules.
    instruction=(
        "Answer the question as accurately as you can. You may use your own knowledge or a search engine, but search "
        "only where you have a clear knowledge gap or are uncertain: skipping the search is encouraged and preferable. "
        "Proceed in steps of <think> thoughts </think>, <search> query </search> (optional) and <information> results "
        "</information> (given to you after a search). Less search is preferable; each search should be about one "
        "sub-question. At the end give a short answer, such as <answer> Beijing </answer>. Question: {question}\n"
    ),
    closed_book=CLOSED_BOOK,
    hint=SEARCH_R1_HINT,
)
EVINOTE = EpisodeProtocol(
    name="evinote",
    instruction=(
        "Answer the question with the help of a search tool. Write <search> query </search> to search; results come "
        "in <information> and </information>. After each of them write a note between <summary> and </summary>, "
        "with *asterisks* around key facts and -hyphens- around uncertain ones. Search until you have what you need, "
        "then give only the final answer inside <answer> and </answer>. Question: {question}\n"
    ),
    closed_book=CLOSED_BOOK,
    hint=SEARCH_R1_HINT,
)
R1_SEARCHER = EpisodeProtocol(
    name="r1_searcher",
    search_open="<|begin_of_query|>",
    search_close="<|end_of_query|>",
    information_open="\n\n<|begin_of_documents|>\n",
    information_close="\n<|end_of_documents|>\n\n",
    document="({number}){title} {text}\n",
    untitled="({number}){text}\n",
    instruction=(
        "Think about the question first, inside <think> and </think>, then give the final answer inside <answer> and "
        "</answer>. While you think you can search for uncertain knowledge with <|begin_of_query|> keywords "
        "<|end_of_query|>, one fact per query; the results come between <|begin_of_documents|> and "
        "<|end_of_documents|>. " + _EXAMPLE
    ),
    closed_book=CLOSED_BOOK,
    # The authors answer invalid forms by a lower reward alone; the sentence is ours.
    hint=SEARCH_R1_HINT.replace("<search>", "<|begin_of_query|>").replace("</search>", "<|end_of_query|>"),
    notice="\n\n<|begin_of_documents|>\nThe search budget is used up. I must answer now.\n<|end_of_documents|>\n\n",
    disabled="\n\n<|begin_of_documents|>\n<|end_of_documents|>\n\n",
)
RESEARCH = EpisodeProtocol(
    name="research",
    # The tags are the authors', the blanks around them ours.
    information_open="\n\n<result>\n",
    information_close="\n</result>\n\n",
    instruction=(
        "Solve the question step by step with the help of a search tool. Reason inside <think> and </think>; write "
        "<search> query </search> to search, and its results come in <result> and </result>. Give the final answer "
        "inside <answer> and </answer>, boxed: <answer> It is \\boxed{Beijing}. </answer>. Question: {question}\n"
    ),
    closed_book=CLOSED_BOOK.replace("<answer> Beijing </answer>", "<answer> It is \\boxed{Beijing}. </answer>"),
    hint=SEARCH_R1_HINT,
    notice="\n\n<result>\nThe search budget is used up. I must answer now.\n</result>\n\n",
    disabled="\n\n<result>\n</result>\n\n",
    boxed=True,
)
TOOL_CALLS = EpisodeProtocol(
    name="tool_calls",
    search_open="<tool_call>",
    search_close="</tool_call>",
    # Inside the assistant's turn, so that it fits any chat template; Qwen's own puts results into a turn of the user.
    information_open="\n<tool_response>\n",
    information_close="\n</tool_response>\n",
    instruction=(
        "Answer the question. You can call one tool, search(query: string), which returns documents. To call it, write "
        'a JSON object inside <tool_call> and </tool_call>: <tool_call>{"name": "search", "arguments": {"query": '
        '"..."}}</tool_call>. The result comes between <tool_response> and </tool_response>. Call it only where you '
        "lack knowledge. Give the final answer inside <answer> and </answer>. " + _EXAMPLE
    ),
    closed_book=CLOSED_BOOK,
    hint=(
        '\nMy previous action is invalid. To search, I write <tool_call>{"name": "search", "arguments": {"query": '
        '"..."}}</tool_call>. To answer, I write <answer> and </answer> around the answer. Let me try again.\n'
    ),
    notice="\n<tool_response>\nThe search budget is used up. I must answer now.\n</tool_response>\n",
    disabled="\n<tool_response>\n</tool_response>\n",
    call="json",
)

SPACED = replace(
    SEARCH_R1,
    name="spaced",
    information_open="\n\n<information> ",
    information_close=" </information>\n\n",
    document="doc {number} : {title} . {text}\n",
    untitled="doc {number} . {text}\n",
    instruction="{question}",
    closed_book="no search . {question}",
    hint="\n\nthis is no search and no answer .\n\n",
    notice="\n\n<information> no search is left . </information>\n\n",
    disabled="\n\n<information> </information>\n\n",
    nothing="nothing .",
)
"""Search-R1's tags with a blank around every word, for tokenizers with one token per word. The prompt is the question
itself: a small model learns the protocol from episodes, not from an instruction. Ours."""

PROTOCOLS: dict[str, EpisodeProtocol] = {
    protocol.name: protocol for protocol in (SEARCH_R1, MASH, IKEA, EVINOTE, R1_SEARCHER, RESEARCH, TOOL_CALLS, SPACED)
}


def find_protocol(name: str) -> EpisodeProtocol:
    """Look a protocol up.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        cure = f"did you mean {near[0]}?" if near else f"the protocols are {', '.join(PROTOCOLS)}"
        raise RecipeError(f"unknown search protocol {name!r}", cure=cure)
    return PROTOCOLS[name]
