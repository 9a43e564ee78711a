"""Documents, corpora and index folders: what is read back is what was written, and what is wrong is named."""

import json

import pytest

from laconic.inference.retrieval.bm25 import Bm25Retriever
from laconic.inference.retrieval.documents import Document, digest_of, read_corpus, read_hub, write_corpus
from laconic.inference.retrieval.opening import open_retriever
from laconic.inference.retrieval.stored import MANIFEST, StoredDocuments, read_manifest
from laconic.rewards.errors import DataError

ODD = [
    Document("a", 'Says "this"\nand more.', 'The "Great" One'),
    Document("b", "Ωmega 東京 \u2028 line"),
    Document("0", '"Not a title"\nbut text'),
    Document("7", "plain"),
]


def lines(tmp_path, *rows):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_both_forms_of_a_row_are_the_same_document():
    split = Document.from_json({"id": 7, "title": "Berlin", "text": "It lies on the Spree.", "url": "x"})
    whole = Document.from_json({"id": "7", "contents": '"Berlin"\nIt lies on the Spree.'})
    assert split == whole == Document("7", "It lies on the Spree.", "Berlin")
    assert whole.to_json() == {"id": "7", "contents": '"Berlin"\nIt lies on the Spree.'}


@pytest.mark.parametrize("contents", ["no title", '"open\ntext', 'said "so"\ntext', '""\ntext', '"only a title"'])
def test_contents_without_a_title_line_are_text(contents):
    assert Document.from_contents("1", contents) == Document("1", contents)


def test_a_written_corpus_reads_back_equal(tmp_path):
    write_corpus(ODD, tmp_path / "corpus.jsonl")
    assert list(read_corpus(tmp_path / "corpus.jsonl")) == ODD


def test_a_data_set_gives_the_same_documents_as_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    path = lines(tmp_path / "data", *({"id": str(n), "contents": f'"T{n}"\nText {n}.'} for n in range(5)))
    assert list(read_hub(str(tmp_path / "data"))) == list(read_corpus(path))
    with pytest.raises(DataError, match="cannot be loaded"):
        list(read_hub(str(tmp_path / "data"), split="none_such"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"contents": "x"}, "corpus.jsonl:2: id is None"),
        ({"id": True, "contents": "x"}, "corpus.jsonl:2: id is True"),
        ({"id": "2"}, "corpus.jsonl:2: text is None"),
        ({"id": "2", "contents": "  "}, "corpus.jsonl:2: contents is '  '"),
        ({"id": "2", "title": 3, "text": "x"}, "corpus.jsonl:2: title is 3"),
        ({"id": "1", "contents": "y"}, "corpus.jsonl:2: id '1' is that of .*corpus.jsonl:1 already"),
        ('{"id": "2", "contents": "\\ud800"}', "corpus.jsonl:2: contents holds half a surrogate pair"),
        ("{broken", "corpus.jsonl:2: not JSON"),
        ("[1]", "corpus.jsonl:2: list instead of an object"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        list(read_corpus(lines(tmp_path, {"id": "1", "contents": "x"}, row)))


def test_an_empty_corpus_is_refused(tmp_path):
    path = lines(tmp_path)
    with pytest.raises(DataError, match="holds no documents"):
        list(read_corpus(path))
    with pytest.raises(DataError, match="holds no documents"):
        Bm25Retriever.build([], tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_stored_documents_are_those_that_were_indexed(tmp_path):
    manifest = Bm25Retriever.build(iter(ODD), tmp_path / "index")
    stored = StoredDocuments(tmp_path / "index")
    assert list(stored) == ODD
    assert stored[-1] == ODD[-1]
    assert stored[1:3] == ODD[1:3]
    with pytest.raises(IndexError):
        stored[len(ODD)]
    assert manifest.corpus == digest_of(ODD) == read_manifest(tmp_path / "index").corpus
    assert digest_of(reversed(ODD)) != manifest.corpus
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_folder_in_use_is_not_overwritten(tmp_path):
    (tmp_path / "index").mkdir()
    Bm25Retriever.build(ODD, tmp_path / "index")  # an empty one is as good as none
    with pytest.raises(DataError, match="exists already"):
        Bm25Retriever.build(ODD, tmp_path / "index")
    assert list(StoredDocuments(tmp_path / "index")) == ODD


def truncated(folder):
    data = (folder / "data.csc.index.npy").read_bytes()
    (folder / "data.csc.index.npy").write_bytes(data[:-4])


def changed(key, value):
    def change(folder):
        manifest = json.loads((folder / MANIFEST).read_text()) | {key: value}
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return change


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "holds no index"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), "not a manifest"),
        (lambda folder: (folder / "corpus.jsonl").unlink(), "corpus.jsonl is missing"),
        (truncated, "data.csc.index.npy has .* bytes instead of"),
        (changed("format", 99), "format 99"),
        (changed("kind", "other"), "'other', which is not known"),
    ],
    ids=["no manifest", "no fields", "no corpus", "truncated", "newer", "unknown"],
)
def test_a_broken_index_is_named(tmp_path, harm, message):
    Bm25Retriever.build(ODD, tmp_path / "index")
    harm(tmp_path / "index")
    with pytest.raises(DataError, match=message):
        open_retriever(str(tmp_path / "index"))


def test_an_index_of_another_corpus_is_refused(tmp_path):
    Bm25Retriever.build(ODD, tmp_path / "index")
    write_corpus(ODD[:2], tmp_path / "corpus.jsonl")
    for place in ("index", "corpus.jsonl"):
        with pytest.raises(DataError, match="of another corpus"):
            open_retriever(str(tmp_path / place), corpus=digest_of(ODD[1:]))
    open_retriever(str(tmp_path / "index"), corpus=digest_of(ODD))


def test_a_place_with_nothing_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no retriever at"):
        open_retriever(str(tmp_path / "none"))
