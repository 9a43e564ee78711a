"""Question-answering data sets as problems: NQ, TriviaQA, PopQA, HotpotQA, 2WikiMultihopQA, MuSiQue, Bamboogle.

A problem's task is ``qa``: exact match with the answer or an alias after Search-R1's normalisation
(`laconic.rewards.short_answers.verify_qa`). Rows may have the fields of the data set as released, or those of the
FlashRAG collection (``id``, ``question``, ``golden_answers``, ``metadata``), whose splits Search-R1 and its successors
use. Data are fetched when they are asked for; mind their licences.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from laconic.inference.retrieval.documents import Document
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.jsonl import numbered_rows
from laconic.rewards.records import Problem
from laconic.rewards.search.qa import normalize_answer

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """What a row says."""

    question: str
    answers: tuple[str, ...]
    """Accepted spellings; the first is the gold answer."""
    id: str | None = None
    meta: Mapping[str, Any] | None = None


def _nq(row: Row) -> Read:
    """NQ-open: `question` and a list `answer`."""
    return Read(row["question"], tuple(row["answer"]))


def _triviaqa(row: Row) -> Read:
    """`question`, `question_id`, `answer` with `value` and `aliases`."""
    answer = row["answer"]
    return Read(row["question"], (answer["value"], *answer["aliases"]), row["question_id"])


def _popqa(row: Row) -> Read:
    """`id`, `question`, `possible_answers` as a JSON text, optionally `prop` and the subject's popularity `s_pop`."""
    given = row["possible_answers"]
    answers = json.loads(given) if isinstance(given, str) else given
    return Read(row["question"], tuple(answers), str(row["id"]), _only(row, "prop", "s_pop"))


def _wiki(row: Row) -> Read:
    """HotpotQA and 2WikiMultihopQA: `_id` or `id`, `question`, `answer`, optionally `type` and `supporting_facts`."""
    support = row.get("supporting_facts") or []
    titles = support["title"] if isinstance(support, Mapping) else [title for title, *_ in support]
    meta = _only(row, "type", "level") | ({"gold_titles": list(dict.fromkeys(titles))} if len(titles) else {})
    return Read(row["question"], (row["answer"],), row.get("_id") or row.get("id"), meta)


def _musique(row: Row) -> Read:
    """`id` such as ``2hop__1_2``, `question`, `answer`, `answer_aliases`, `answerable`, optionally `paragraphs`."""
    support = [each["title"] for each in row.get("paragraphs") or () if each.get("is_supporting")]
    meta = _only(row, "answerable") | ({"gold_titles": list(dict.fromkeys(support))} if support else {})
    hops = row["id"][0]
    meta |= {"hops": int(hops)} if hops.isdigit() else {}
    return Read(row["question"], (row["answer"], *row.get("answer_aliases", ())), row["id"], meta)


def _bamboogle(row: Row) -> Read:
    """`Question` and `Answer`."""
    return Read(row["Question"], (row["Answer"],))


def _flashrag(row: Row) -> Read:
    """`id`, `question`, `golden_answers`."""
    return Read(row["question"], tuple(row["golden_answers"]), row.get("id"))


def _only(row: Row, *keys: str) -> dict[str, Any]:
    return {key: row[key] for key in keys if row.get(key) is not None}


@dataclass(frozen=True, slots=True)
class QaSet:
    """Where a data set is on the hub, and how its rows are read."""

    dataset: str
    config: str | None
    splits: Mapping[str, str]
    """The name of each split on the hub, by ours: `train` and `test`, the latter being what papers report on."""
    read: Callable[[Row], Read]


_FLASHRAG = "RUC-NLPIR/FlashRAG_datasets"
QA_SETS: dict[str, QaSet] = {
    "nq": QaSet("google-research-datasets/nq_open", None, {"train": "train", "test": "validation"}, _nq),
    "triviaqa": QaSet("mandarjoshi/trivia_qa", "rc.nocontext", {"train": "train", "test": "validation"}, _triviaqa),
    "popqa": QaSet("akariasai/PopQA", None, {"test": "test"}, _popqa),
    "hotpotqa": QaSet("hotpotqa/hotpot_qa", "distractor", {"train": "train", "test": "validation"}, _wiki),
    "2wikimultihopqa": QaSet(_FLASHRAG, "2wikimultihopqa", {"train": "train", "test": "dev"}, _wiki),
    "musique": QaSet("dgslibisey/MuSiQue", None, {"train": "train", "test": "validation"}, _musique),
    "bamboogle": QaSet(_FLASHRAG, "bamboogle", {"test": "test"}, _bamboogle),
}
"""By name."""


def load_qa(
    name: str,
    split: str = "test",
    *,
    path: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    revision: str | None = None,
) -> list[Problem]:
    """Load questions of a data set.

    Args:
        name: A key of `QA_SETS`.
        split: ``train`` or ``test``; of a file it only names the ids of rows without one.
        path: A JSON Lines file with rows of the data set; None reads the hub.
        limit: Use only the first so many questions.
        revision: A commit of the hub's data set.

    Returns:
        Problems with distinct ids. Of a row repeated with the same question and answers the first stays; PopQA asks
        some questions of several people of one name, which are kept.

    Raises:
        RecipeError: the name is not known, or the data set has no such split on the hub.
        DataError: the file or data set is missing, empty or malformed, or an id names two questions.
    """
    if name not in QA_SETS:
        raise RecipeError(f"unknown question-answering data set {name!r}", cure=f"there are {', '.join(QA_SETS)}")
    rows = _hub_rows(name, split, revision) if path is None else _file_rows(path)
    problems = list(islice(_distinct(_problems(name, split, rows)), limit))
    if not problems:
        raise DataError(f"{path or name}, split {split}: holds no questions", cure="name a file or split with rows")
    return problems


def _file_rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, Row]]:
    return ((f"{path}:{number}", row) for number, row in numbered_rows(path))


def _hub_rows(name: str, split: str, revision: str | None) -> Iterator[tuple[str, Row]]:
    place = QA_SETS[name]
    if split not in place.splits:
        raise RecipeError(f"{name} has no {split} split", cure=f"it has {', '.join(place.splits)}")
    import datasets

    try:
        data = datasets.load_dataset(place.dataset, place.config, split=place.splits[split], revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        # datasets reports a missing data set, configuration, split and network each with another class.
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{place.dataset} (config {place.config}, split {place.splits[split]}) cannot be loaded: {reason}",
            cure="check that this machine can reach the hub, or give the rows as a JSON Lines file",
        ) from error
    return ((f"{place.dataset}: row {number}", row) for number, row in enumerate(data, start=1))


def _problems(name: str, split: str, rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Problem]]:
    for number, (where, row) in enumerate(rows):
        read = _read(name, row, where)
        golds = list(dict.fromkeys(read.answers))
        meta = {"golds": golds, "aliases": golds[1:], **(read.meta or {})}
        id = f"{name}-{read.id}" if read.id else f"{name}-{split}-{number}"
        yield where, Problem(id, read.question.strip(), golds[0], "qa", meta=meta)


def _read(name: str, row: Row, where: str) -> Read:
    reader = _flashrag if "golden_answers" in row else QA_SETS[name].read
    try:
        read = reader(row)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        # A missing key, or a value of another kind somewhere in the nest: the row is of another layout.
        raise _unlike(name, row, where, f"{type(error).__name__}: {error}") from error
    texts = (read.question, *read.answers)
    if not read.answers or not all(isinstance(text, str) for text in texts) or not read.question.strip():
        raise _unlike(name, row, where, "question and answers must be texts, and there must be some")
    if not any(map(normalize_answer, read.answers)):
        raise _unlike(name, row, where, f"no answer is left of {read.answers[0]!r} after normalisation")
    return read


def _unlike(name: str, row: Row, where: str, why: str) -> DataError:
    layout = " ".join((QA_SETS[name].read.__doc__ or "").split())
    cure = f"rows of {name} are: {layout} FlashRAG's are read too: `id`, `question`, `golden_answers`."
    return DataError(f"{where}: not a row of {name}: {why}; it has {', '.join(map(repr, row))}", cure=cure)


def _distinct(found: Iterable[tuple[str, Problem]]) -> Iterator[Problem]:
    asked: set[tuple[str, ...]] = set()
    ids: set[str] = set()
    for where, problem in found:
        row = problem.prompt, *problem.meta["golds"]
        if row in asked:
            continue
        if problem.id in ids:
            raise DataError(f"{where}: the id {problem.id!r} names two questions", cure="make the ids distinct")
        asked.add(row)
        ids.add(problem.id)
        yield problem


def passages(rows: Iterable[Row]) -> Iterator[Document]:
    """The paragraphs that rows of HotpotQA, 2WikiMultihopQA or MuSiQue bring along, each once, as a corpus.

    A small corpus with every gold passage and its distractors; the id is the title, with a number where a title has
    several texts.
    """
    numbers: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for title, text in (pair for row in rows for pair in _paragraphs(row)):
        if (title, text) in seen or not text.strip():
            continue
        seen.add((title, text))
        number = numbers[title] = numbers.get(title, 0) + 1
        yield Document(title if number == 1 else f"{title} ({number})", text, title)


def _paragraphs(row: Row) -> Iterator[tuple[str, str]]:
    if "paragraphs" in row:
        return ((each["title"], each["paragraph_text"]) for each in row["paragraphs"])
    context = row.get("context") or []
    pairs = zip(context["title"], context["sentences"], strict=True) if isinstance(context, Mapping) else context
    return ((title, " ".join(sentence.strip() for sentence in sentences)) for title, sentences in pairs)
