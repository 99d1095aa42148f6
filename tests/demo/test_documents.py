import hashlib
import random
import re
import sysconfig

import pytest
from pyarrow import parquet

from distilbert_jax.demo import documents as module
from distilbert_jax.demo.documents import is_held_out, plain_paragraphs, python_documents, write_demo
from distilbert_jax.demo.tasks import order_rows, overlap_rows, topic_rows, write_tasks
from distilbert_jax.text.sources import TextSources
from tests.runs import refused

# Two small packages of the library stand for all of it: parsing everything takes seconds.
FEW = ("json", "logging", "argparse.py", "ast.py", "heapq.py", "random.py", "textwrap.py", "string.py", "statistics.py")


@pytest.fixture(scope="module")
def documents():
    with pytest.MonkeyPatch.context() as patch:
        rglob = module.Path.rglob
        patch.setattr(
            module.Path,
            "rglob",
            lambda path, pattern: [
                f for f in rglob(path, pattern) if f.relative_to(path).parts[0] in (*FEW, "unittest")
            ],
        )
        return list(python_documents())


def test_documents_are_the_prose_of_the_reference_and_the_library(documents):
    names = [name for name, _ in documents]
    assert {"library/json/__init__.py", "library/random.py", "library/math"} <= set(names)
    assert any(name.startswith("reference/assignment/") for name in names)
    assert not any("/test" in name for name in names)
    text = dict(documents)
    assert any("Mersenne Twister" in paragraph for paragraph in text["library/random.py"])
    words = sum(len(paragraph.split()) for paragraphs in text.values() for paragraph in paragraphs)
    assert words > 40_000


def test_every_docstring_paragraph_is_found_where_it_stands(documents):
    """Compared with docstrings that Python itself has attached to an imported module."""
    import heapq

    paragraphs = set(dict(documents)["library/heapq.py"])
    for function in (heapq.merge, heapq.nsmallest):
        first = " ".join(function.__doc__.strip().split("\n\n")[0].split())
        assert first in paragraphs


def test_no_paragraph_occurs_twice_or_runs_over_lines(documents):
    paragraphs = [paragraph for _, paragraphs in documents for paragraph in paragraphs]
    assert len({paragraph.lower() for paragraph in paragraphs}) == len(paragraphs)
    assert not [paragraph for paragraph in paragraphs if re.search(r"[\n\t]|  |>>>|::=", paragraph)]


def test_wrapped_lines_are_joined_and_what_is_no_prose_is_dropped():
    text = """A long heading, which reads like a sentence.
============================================

A paragraph of **prose** that is
wrapped over lines, with a quote-
delimited word and ``code`` in it.

>>> this_is(a_doctest)
'with a result that is dropped.'

    for line in file:
        print("an example of code that is dropped, too.")

* The first item of a list, which is
  wrapped as well.
* The second item of the same list.

name(argument, other=None) -> value

| a table | with columns | that are dropped |

Too short."""
    assert list(plain_paragraphs(text)) == [
        "A paragraph of prose that is wrapped over lines, with a quote-delimited word and code in it.",
        "The first item of a list, which is wrapped as well.",
        "The second item of the same list.",
    ]


def test_held_out_documents_are_decided_by_the_hash_of_their_name():
    names = [f"document {i}" for i in range(4000)]
    assert sum(map(is_held_out, names)) / 4000 == pytest.approx(module.HELD_OUT_SHARE, abs=0.015)
    for name in names[:50]:
        share = int(hashlib.sha256(name.encode()).hexdigest(), 16) / 2**256
        assert is_held_out(name) == (share < module.HELD_OUT_SHARE)


def make_documents(family, count, seed):
    choose = random.Random(f"{family} {seed}")
    word = lambda: "".join(choose.choices("abcdefgh", k=5))
    sentence = lambda: " ".join(word() for _ in range(choose.randint(8, 20))).capitalize() + "."
    return [
        (f"{family}/{n}", [f"{sentence()} {sentence()}" for _ in range(choose.randint(1, 30))]) for n in range(count)
    ]


MADE = make_documents("library", 20, 0) + make_documents("reference", 12, 0)


def test_topic_rows_are_balanced_sentences_of_their_family():
    rows = topic_rows(MADE, 100, random.Random(0))
    assert [sum(row.label == label for row in rows) for label in (0, 1)] == [50, 50]
    assert len({row.sentence for row in rows}) == 100
    for row in rows:
        source = "library/" if row.label else "reference/"
        assert any(name.startswith(source) and row.sentence in paragraph for name, ps in MADE for paragraph in ps)
    assert len({tuple(row.label for row in rows[i : i + 10]) for i in range(0, 100, 10)}) > 5


def test_order_rows_are_sentences_of_which_every_second_has_two_neighbours_exchanged():
    rows = order_rows(MADE, 100, random.Random(0))
    sentences = {
        sentence.lower() for _, ps in MADE for paragraph in ps for sentence in re.split(r"(?<=[.])\s+", paragraph)
    }
    assert [sum(row.label == label for row in rows) for label in (0, 1)] == [50, 50]
    for row in rows:
        words = row.sentence.split()
        turned = [
            " ".join([*words[:place], words[place + 1], words[place], *words[place + 2 :]])
            for place in range(1, len(words) - 2)
        ]
        assert (row.sentence in sentences) == (row.label == 1)
        assert row.label == 1 or sentences & set(turned)
        assert row.sentence[-1] in ".!?:"


def test_overlap_rows_are_labelled_with_the_share_that_is_left():
    rows = overlap_rows(MADE, 300, random.Random(0))
    for row in rows:
        first, second = row.sentence1.split(), row.sentence2.split()
        # What was not changed stands in the copy in its order: a common subsequence is at least as long.
        longest = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                longest[i + 1][j + 1] = longest[i][j] + 1 if a == b else max(longest[i][j + 1], longest[i + 1][j])
        kept = row.label / 5 * len(first)
        assert kept == pytest.approx(round(kept), abs=0.01)
        assert round(kept) <= longest[-1][-1] <= round(kept) + 1
    labels = [row.label for row in rows]
    assert min(labels) < 0.5
    assert max(labels) > 4.5
    assert sum(labels) / len(labels) == pytest.approx(2.5, abs=0.3)


def test_task_files_have_glue_columns_and_depend_on_the_seed_alone(tmp_path):
    documents = {"train": MADE, "validation": make_documents("library", 5, 1) + make_documents("reference", 5, 1)}
    counts = write_tasks(documents, tmp_path / "a")
    assert write_tasks(documents, tmp_path / "b") == counts
    write_tasks(documents, tmp_path / "c", seed=1)
    for file, rows in counts.items():
        first, second, other = (parquet.read_table(tmp_path / name / file) for name in "abc")
        assert first.equals(second)
        assert not first.equals(other)
        text = ["sentence1", "sentence2"] if "overlap" in file else ["sentence"]
        assert first.column_names == [*text, "label", "idx"]
        assert first["idx"].to_pylist() == list(range(rows))
        assert str(first.schema.field("label").type) == ("double" if "overlap" in file else "int64")


def test_text_and_tasks_are_written_once(documents, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "python_documents", lambda: iter(documents))
    manifest, found = write_demo(tmp_path / "data")
    assert not found
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "data").rglob("*")}
    assert write_demo(tmp_path / "data") == (manifest, True)
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "data").rglob("*")}
    (tmp_path / "data/glue/demo-order/train.parquet").write_bytes(b"")
    (tmp_path / "data/train.txt").write_text("")
    manifest, found = write_demo(tmp_path / "data")
    assert not found
    kept = {
        split: [ps for name, ps in documents if is_held_out(name) == (split == "heldout")]
        for split in ("train", "heldout")
    }
    for split, expected in kept.items():
        assert list(TextSources([tmp_path / f"data/{split}.txt"]).documents(1 << 30)) == expected
        assert manifest.texts[f"{split}.txt"].documents == len(expected)
        assert manifest.texts[f"{split}.txt"].words == len((tmp_path / f"data/{split}.txt").read_text().split())


def test_validation_rows_come_from_held_out_documents(documents, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "python_documents", lambda: iter(documents))
    write_demo(tmp_path)
    heldout, train = ((tmp_path / name).read_text().lower() for name in ("heldout.txt", "train.txt"))
    for split, own, foreign in (("train", train, heldout), ("validation", heldout, train)):
        for task, column in (("demo-topic", "sentence"), ("demo-order", "sentence"), ("demo-overlap", "sentence1")):
            rows = parquet.read_table(tmp_path / f"glue/{task}/{split}.parquet").to_pylist()
            texts = [row[column].lower() for row in rows if task != "demo-order" or row["label"]]
            assert all(text in own for text in texts)
            assert sum(text in foreign for text in texts) < 0.05 * len(texts)


def test_a_python_without_documentation_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "python_documents", lambda: iter([]))
    refused(lambda: write_demo(tmp_path), by="demo.documents.write_demo", path=sysconfig.get_paths()["stdlib"])


def test_a_source_that_does_not_parse_is_passed_over(tmp_path):
    (tmp_path / "two.py").write_text("print 'Python 2'")
    (tmp_path / "binary.py").write_bytes(b"# \xff\n")
    (tmp_path / "good.py").write_text('"""One."""\ndef f():\n    """Two."""\nclass C:\n    """Three \\d."""\n')
    assert [module._docstrings(tmp_path / name) for name in ("two.py", "binary.py")] == [[], []]
    assert module._docstrings(tmp_path / "good.py") == ["One.", "Two.", "Three \\d."]
