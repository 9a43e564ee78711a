"""In-process retrievers: scores by an independent computation, ties by the order, the same from memory and disk."""

import asyncio
import math
import random
import re
import sys
import threading
from collections import Counter

import numpy as np
import pytest

from laconic.inference.retrieval.bm25 import Bm25Retriever, best_numpy
from laconic.inference.retrieval.bm25_loop import best_loop
from laconic.inference.retrieval.dense import DenseRetriever, nearest
from laconic.inference.retrieval.dense_encoder import FAMILIES, TransformersEncoder
from laconic.inference.retrieval.documents import Document
from laconic.inference.retrieval.fts5 import Fts5Retriever
from laconic.inference.retrieval.opening import open_retriever
from laconic.inference.retrieval.words import STOP_WORDS
from laconic.rewards.errors import DataError, LaunchError, RecipeError

PLACES = [
    Document("spree", "Berlin lies on the river Spree.", "Berlin"),
    Document("seine", "Paris lies on the river Seine, which flows to the sea.", "Paris"),
    Document("tower", "The tower of Gustave Eiffel stands in the capital of France.", "Eiffel Tower"),
    Document("single", "Beyoncé sang it in 2003, and the record sold well.", "Crazy in Love"),
    Document("it", "It is a novel by Stephen King.", "It"),
]
QUESTIONS = {
    "Which river flows through Berlin?": "spree",
    "Seine": "seine",
    "who built the EIFFEL tower in France": "tower",
    "beyonce 2003": "single",
    'Stephen "King" AND (novel* NOT col:x) --': "it",
    "it": "it",
}


class Hashing:
    """Vectors of character trigrams, hashed the same way in every process."""

    def __init__(self, name="trigrams"):
        self.settings = {"name": name}

    def encode(self, texts, *, kind):
        vectors = np.zeros((len(texts), 512), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                for at in range(len(word) + 2):
                    vectors[row, hash_of(f"^{word}$"[at : at + 3])] += 1
        return vectors / np.maximum(1e-9, np.linalg.norm(vectors, axis=1, keepdims=True))


def hash_of(text):
    return sum(ord(character) * 31**power for power, character in enumerate(text)) % 512


def synthetic(documents=300, vocabulary=80, seed=0):
    """Passages of few distinct words, so that many scores are equal."""
    rng = random.Random(seed)
    words = [f"w{n}" for n in range(vocabulary)]
    return [Document(f"d{n}", " ".join(rng.choices(words, k=rng.choice((4, 4, 9))))) for n in range(documents)]


def reference(documents, query, k, k1=1.5, b=0.75):
    """Places and scores by the formula, with a dictionary for every document."""
    bags = [Counter(re.findall(r"\w+", f"{each.title or ''} {each.text}".lower())) for each in documents]
    mean = sum(bag.total() for bag in bags) / len(bags)
    words = re.findall(r"\w+", query.lower())
    words = [word for word in words if word not in STOP_WORDS] or words
    scores = {}
    for place, bag in enumerate(bags):
        total = 0.0
        for word in words:
            having = sum(word in other for other in bags)
            idf = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
            total += idf * bag[word] / (bag[word] + k1 * (1 - b + b * bag.total() / mean))
        if total > 0:
            scores[place] = total
    return sorted(scores.items(), key=lambda found: (-round(found[1], 5), found[0]))[:k]


def ids(hits):
    return [hit.document.id for hit in hits]


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4)], ids=["usual", "pyserini"])
def test_bm25_scores_are_those_of_the_formula(k1, b):
    documents = [*synthetic(), *PLACES]
    retriever = Bm25Retriever.from_documents(documents, k1=k1, b=b)
    queries = ["w1 w2 w3", "w5 w5 w9", "the river Seine", "w70 nothing", "w1 " * 3]
    for query, hits in zip(queries, retriever.find(queries, k=7), strict=True):
        expected = reference(documents, query, 7, k1, b)
        assert ids(hits) == [documents[place].id for place, _ in expected], query
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], rel=1e-5)


def test_compiled_and_plain_loops_find_the_same():
    documents = synthetic(seed=1)
    queries = [" ".join(document.text.split()[:3]) for document in documents[:60]] + ["", "w3 unknown", "w1"]
    for k in (1, 3, 299, 1000):
        plain = Bm25Retriever.from_documents(documents, backend="numpy")
        slow = Bm25Retriever.from_documents(documents, backend="numpy")
        assert plain._best is best_numpy
        slow._best = best_loop
        assert slow.find(queries, k=k) == plain.find(queries, k=k)
        # Compiled where numba is installed.
        assert Bm25Retriever.from_documents(documents).find(queries, k=k) == plain.find(queries, k=k)


def test_equal_scores_come_in_the_order_of_the_corpus():
    documents = [Document(str(n), "same words here" if n % 3 else "other words there") for n in range(40)]
    for make in (Bm25Retriever.from_documents, Fts5Retriever.from_documents):
        (hits,) = make(documents).find(["same here"], k=5)
        assert ids(hits) == ["1", "2", "4", "5", "7"], make
        assert len({hit.score for hit in hits}) == 1


@pytest.mark.parametrize("kind", [Bm25Retriever, Fts5Retriever, DenseRetriever])
def test_every_retriever_finds_the_right_document(kind, tmp_path):
    extra = () if kind is not DenseRetriever else (Hashing(),)
    # Noise, because SQLite gives words that half of the documents have no weight.
    documents = [*PLACES, *synthetic(40)]
    held = kind.from_documents(documents, *extra)
    found = asyncio.run(held.search(list(QUESTIONS), k=2))
    assert [ids(hits)[0] for hits in found] == list(QUESTIONS.values())
    assert all(first.score >= second.score for first, second in (hits for hits in found if len(hits) == 2))
    kind.build(iter(documents), tmp_path / "index", *extra, **({"half": False} if extra else {}))
    stored = kind.open(tmp_path / "index", **({"encoder": extra[0]} if extra else {}))
    assert asyncio.run(stored.search(list(QUESTIONS), k=2)) == found
    assert stored.corpus == held.corpus
    if not extra:
        opened = open_retriever(str(tmp_path / "index"))
        assert asyncio.run(opened.search(["Seine"], k=1)) == [found[1][:1]]
        asyncio.run(opened.aclose())
    asyncio.run(stored.aclose())


@pytest.mark.parametrize("kind", [Bm25Retriever, Fts5Retriever])
def test_queries_without_a_known_word_find_nothing(kind):
    retriever = kind.from_documents(PLACES)
    queries = ["", "   ", "?!", "zzz", '"', "NEAR(", "a" * 10_000]
    assert retriever.find(queries, k=3) == [[]] * len(queries)
    assert retriever.find([], k=3) == []
    assert len(retriever.find(["river"], k=100)[0]) == 2
    for k in (0, -1):
        with pytest.raises(RecipeError, match=f"k is {k}"):
            asyncio.run(retriever.search(["river"], k=k))


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert Bm25Retriever.from_documents(PLACES)._best is best_numpy
    with pytest.raises(LaunchError, match="numba is not installed"):
        Bm25Retriever.from_documents(PLACES, backend="numba")
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(LaunchError, match=r"BM25 needs bm25s\n.*or use fts5"):
        Bm25Retriever.from_documents(PLACES)


def test_a_large_corpus_is_searched_beside_the_event_loop(monkeypatch):
    retriever, threads = Bm25Retriever.from_documents(PLACES), []
    find = retriever.find
    monkeypatch.setattr(
        retriever, "find", lambda queries, k: threads.append(threading.get_ident()) or find(queries, k=k)
    )
    first = asyncio.run(retriever.search(["Seine"], k=1))
    monkeypatch.setattr("laconic.inference.retrieval.protocol._INLINE", 4)
    assert asyncio.run(retriever.search(["Seine"], k=1)) == first
    assert [thread == threading.get_ident() for thread in threads] == [True, False]


def test_parameters_out_of_range_and_wordless_corpora_are_refused():
    with pytest.raises(RecipeError, match="k1 is -1"):
        Bm25Retriever.from_documents(PLACES, k1=-1)
    with pytest.raises(DataError, match="no document holds a word"):
        Bm25Retriever.from_documents([Document("1", "...")])


def test_nearest_is_exact_and_stable_over_chunks(monkeypatch):
    monkeypatch.setattr("laconic.inference.retrieval.dense._CHUNK", 7)
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, size=(50, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(9, 4)).astype(np.float32)
    for query, found in zip(queries, nearest(vectors.astype(np.float16), queries, 6), strict=True):
        scores = [float(sum(a * b for a, b in zip(vector, query, strict=True))) for vector in vectors]
        assert found == sorted(enumerate(scores), key=lambda each: (-each[1], each[0]))[:6]


def test_vectors_of_another_encoder_are_refused(tmp_path):
    DenseRetriever.build(PLACES, tmp_path / "index", Hashing())
    with pytest.raises(DataError, match="vectors are of"):
        DenseRetriever.open(tmp_path / "index", encoder=Hashing("other"))
    with pytest.raises(RecipeError, match="encoder of its own"):
        DenseRetriever.open(tmp_path / "index")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A random encoder of two layers whose tokens are letters."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789:."
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokens), max_position_embeddings=128, **size)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_prefix_and_pooling_are_those_of_the_family(bert, family):
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["a short one", "a passage that is longer than the other one, so that the short one is padded"]
    encoder = TransformersEncoder(bert, family=family, device="cpu")
    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert).eval()
    for kind in ("query", "passage"):
        found = encoder.encode(texts, kind=kind)
        for text, vector in zip(texts, found, strict=True):
            # One text at a time needs no padding and no mask.
            with torch.inference_mode():
                inputs = tokenizer(FAMILIES[family][kind] + text, return_tensors="pt")
                states = model(**inputs).last_hidden_state[0]
            pooled = states[0] if family == "bge" else states.mean(0)
            assert vector == pytest.approx((pooled / pooled.norm()).numpy(), abs=1e-5)


def test_a_folder_names_its_encoder(bert, tmp_path):
    encoder = TransformersEncoder(bert, family="e5", max_length=64, device="cpu")
    DenseRetriever.build(PLACES, tmp_path / "index", encoder)
    opened = open_retriever(str(tmp_path / "index"))
    held = DenseRetriever.from_documents(PLACES, encoder)
    queries = list(QUESTIONS)
    pairs = zip(opened.find(queries, k=5), held.find(queries, k=5), strict=True)
    for stored, fresh in pairs:
        assert {hit.document.id: hit.score for hit in stored} == pytest.approx(
            {hit.document.id: hit.score for hit in fresh}, abs=2e-3
        )
