import logging

import datasets
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from distilbert_jax.finetuning import datasets as module
from distilbert_jax.finetuning.batches import PackedShape, Packing
from distilbert_jax.finetuning.datasets import (
    check,
    check_file,
    fingerprint,
    fingerprint_of_test,
    has_split,
    in_selection_split,
    load_split,
)
from distilbert_jax.finetuning.kinds import kind_of
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.runs import refused, write_split

ROWS = {"sentence": ["a b", "c", "d e f"], "label": [0, 1, 1]}
PAIRS = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "label": [0.0, 2.5, 5.0]}


def encode(rows, task, tokenizer, length):
    return kind_of(task).encode(rows, task, tokenizer, length)


def changed(columns, **changes):
    return {name: values for name, values in {**columns, **changes}.items() if values is not None}


@pytest.mark.parametrize(("task", "columns"), [("sst2", ROWS), ("stsb", PAIRS)])
def test_a_split_is_read_from_a_local_folder(tmp_path, task, columns):
    write_split(tmp_path, task, "train", {**columns, "idx": [0, 1, 2]})
    found = load_split(find_task(task), "train", str(tmp_path))
    assert {name: list(found[name]) for name in columns} == columns


@pytest.mark.parametrize(
    ("task", "columns", "field", "row"),
    [
        ("sst2", changed(ROWS, sentence=None), "sentence", None),
        ("sst2", changed(ROWS, label=None), "label", None),
        ("stsb", ROWS, "sentence1", None),
        ("sst2", {"sentence": [], "label": []}, None, None),
        ("sst2", changed(ROWS, label=[0, 1, 2]), "label", 2),
        ("sst2", changed(ROWS, label=[0, -1, 1]), "label", 1),
        ("sst2", changed(ROWS, label=[0, None, 1]), "label", 1),
        ("sst2", changed(ROWS, label=[True, False, True]), "label", 0),
        ("sst2", changed(ROWS, label=[0.0, 1.0, 1.0]), "label", 0),
        ("sst2", changed(ROWS, label=["0", "1", "1"]), "label", 0),
        ("stsb", changed(PAIRS, label=[0.0, 5.5, 1.0]), "label", 1),
        ("stsb", changed(PAIRS, label=[0.0, 1.0, float("nan")]), "label", 2),
        ("stsb", changed(PAIRS, label=[0.0, 1.0, None]), "label", 2),
        ("stsb", changed(PAIRS, label=[True, False, True]), "label", 0),
        ("sst2", changed(ROWS, sentence=["a", None, "c"]), "sentence", 1),
        ("stsb", changed(PAIRS, sentence2=[1, 2, 3]), "sentence2", 0),
    ],
)
def test_a_split_that_does_not_fit_its_task_is_refused_in_one_line(tmp_path, task, columns, field, row):
    file = write_split(tmp_path, task, "train", columns)
    refused(lambda: load_split(find_task(task), "train", str(tmp_path)), path=str(file), field=field, row=row)


WNLI = find_task("wnli")


def wnli(folder, split, idx):
    """Rows that say their own idx."""
    texts = [f"row {i}" for i in idx]
    columns = {"sentence1": texts, "sentence2": texts, "label": [0] * len(idx), "idx": idx}
    return write_split(folder, "wnli", split, columns)


def test_rows_go_by_their_idx(tmp_path):
    shuffled = np.random.default_rng(0).permutation(146).tolist()
    wnli(tmp_path, "test", shuffled)
    check_file(WNLI, "test", str(tmp_path))
    assert load_split(WNLI, "test", str(tmp_path))["sentence1"][:] == [f"row {i}" for i in range(146)]
    unsorted = fingerprint_of_test(WNLI, "test", str(tmp_path))
    assert unsorted != fingerprint(WNLI, "test", str(tmp_path)), "an earlier version took them in the file's order"
    wnli(tmp_path, "test", sorted(shuffled))
    assert fingerprint_of_test(WNLI, "test", str(tmp_path)) == fingerprint(WNLI, "test", str(tmp_path))
    wnli(tmp_path, "validation", [30, 9, 18])
    assert load_split(WNLI, "validation", str(tmp_path))["sentence1"][:] == ["row 9", "row 18", "row 30"]
    wnli(tmp_path, "validation", [1, 1, 0])  # tells nothing apart
    assert load_split(WNLI, "validation", str(tmp_path))["sentence1"][:] == ["row 1", "row 1", "row 0"]
    wnli(tmp_path, "train", [2, 1, 0])  # whose order is that of training
    assert load_split(WNLI, "train", str(tmp_path))["sentence1"][:] == ["row 2", "row 1", "row 0"]


@pytest.mark.parametrize(
    ("idx", "row"),
    [([*range(145), 144], 145), (list(range(1, 147)), 145), ([*range(145), None], 145), ([-1, *range(1, 146)], 0)],
)
def test_a_test_split_whose_idx_does_not_number_its_rows_is_refused(tmp_path, idx, row):
    file = str(wnli(tmp_path, "test", idx))
    for read in (check_file, load_split):
        refused(lambda read=read: read(WNLI, "test", str(tmp_path)), path=file, field="idx", row=row)
    wnli(tmp_path, "test", [float(i) for i in range(146)])
    refused(lambda: load_split(WNLI, "test", str(tmp_path)), path=file, field="idx", row=0)


def test_labels_that_a_file_names_are_in_the_order_of_the_task(tmp_path):
    names = lambda *labels: datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=list(labels))}
    )
    file = tmp_path / "sst2/train.parquet"
    file.parent.mkdir()
    datasets.Dataset.from_dict(ROWS, features=names("positive", "negative")).to_parquet(file)
    message = refused(
        lambda: load_split(find_task("sst2"), "train", str(tmp_path)),
        by="finetuning.kinds.sentences.check_names",
        path=str(file),
    )
    assert "its labels are positive, negative in this order, those of sst2 negative, positive" in message
    datasets.Dataset.from_dict(ROWS, features=names("sad", "glad")).to_parquet(file)
    refused(lambda: load_split(find_task("sst2"), "train", str(tmp_path)), "glad", path=str(file), field="label")
    for others in (("negative", "positive"), ("Negative", "POSITIVE"), ("0", "1")):
        datasets.Dataset.from_dict(ROWS, features=names(*others)).to_parquet(file)
        assert list(load_split(find_task("sst2"), "train", str(tmp_path))["label"]) == ROWS["label"]


def test_a_test_split_comes_without_labels_and_complete(tmp_path):
    rows = {"sentence1": ["a"] * 146, "sentence2": ["b"] * 146, "label": [-1] * 145 + [1]}
    write_split(tmp_path, "wnli", "test", rows)
    found = load_split(find_task("wnli"), "test", str(tmp_path))
    assert found.column_names == ["sentence1", "sentence2"]
    file = write_split(tmp_path, "wnli", "test", {name: values[1:] for name, values in rows.items()})
    refused(
        lambda: load_split(find_task("wnli"), "test", str(tmp_path)),
        "145",
        "146",
        by="finetuning.datasets._check_rows",
        path=str(file),
    )


def test_the_labels_of_a_test_split_may_be_missing(tmp_path, tokenizer):
    write_split(tmp_path, "wnli", "test", {"sentence1": ["reda"] * 146, "sentence2": ["goes"] * 146})
    found = encode(load_split(find_task("wnli"), "test", str(tmp_path)), find_task("wnli"), tokenizer, 16)
    assert (len(found), set(found.labels)) == (146, {0})


def test_a_folder_is_asked_for_a_split_and_the_hub_is_believed(tmp_path):
    write_split(tmp_path, "sst2", "train", ROWS)
    assert has_split(find_task("sst2"), "train", str(tmp_path))
    assert not has_split(find_task("sst2"), "validation", str(tmp_path))
    assert has_split(find_task("sst2"), "validation", "")


def test_a_tenth_is_held_out_by_the_hash_of_the_first_text():
    texts = [f"premise {i // 3}" for i in range(6000)]
    rows = {"premise": texts, "hypothesis": [str(i) for i in range(6000)]}
    held = in_selection_split(rows, find_task("mnli"))
    assert 0.08 < held.mean() < 0.12
    assert all(len(set(held[i : i + 3])) == 1 for i in range(0, 6000, 3)), "rows of one premise stay together"
    order = np.random.default_rng(0).permutation(6000)
    shuffled = {name: [values[i] for i in order] for name, values in rows.items()}
    np.testing.assert_array_equal(in_selection_split(shuffled, find_task("mnli")), held[order])


def test_a_missing_folder_is_named(tmp_path):
    refused(
        lambda: load_split(find_task("rte"), "train", str(tmp_path)),
        "--data",
        by="finetuning.datasets._file",
        path=str(tmp_path / "rte/train.parquet"),
    )


@pytest.mark.parametrize("size", [0, 3, 100, 0.5, 0.9, 0.999])
def test_a_truncated_parquet_is_refused_in_one_line(tmp_path, size):
    file = write_split(tmp_path, "sst2", "train", {"sentence": ["word"] * 3000, "label": [0, 1, 0] * 1000})
    data = file.read_bytes()
    file.write_bytes(data[: size if isinstance(size, int) else int(size * len(data))])
    refused(
        lambda: load_split(find_task("sst2"), "train", str(tmp_path)),
        by="finetuning.datasets.load_split",
        path=str(file),
    )


def test_a_damaged_page_is_refused_in_one_line(tmp_path):
    file = write_split(tmp_path, "sst2", "train", {"sentence": ["word"] * 3000, "label": [0, 1, 0] * 1000})
    data = bytearray(file.read_bytes())
    data[4:60] = b"\xff" * 56
    file.write_bytes(data)
    refused(
        lambda: load_split(find_task("sst2"), "train", str(tmp_path)),
        by="finetuning.datasets.load_split",
        path=str(file),
    )


def test_generated_tasks_are_not_sought_on_the_hub():
    refused(lambda: load_split(find_task("demo-topic"), "train"), "--data", by="finetuning.datasets.load_split")


def test_a_hub_that_is_out_of_reach_is_one_line(monkeypatch):
    def offline(*arguments, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    client = logging.getLogger("huggingface_hub")
    before = client.level
    refused(
        lambda: load_split(find_task("cola"), "train"), "--data", by="finetuning.datasets.load_split", path="cola train"
    )
    assert client.level == before, "the client may speak again"


def test_a_split_on_the_hub_is_told_apart_by_what_is_in_it(monkeypatch):
    task = find_task("cola")
    there = {"sentence": ["red", "blue"], "label": [0, 1], "idx": [0, 1]}
    rows_of, digests = datasets.Dataset.from_dict, []
    for changed in ({}, {"sentence": ["red", "green"]}, {"label": [1, 1]}, {}):
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, rows=there | changed, **__: rows_of(rows))
        module._fingerprint_on_hub.cache_clear()
        digests.append(fingerprint(task, "validation", ""))
    module._fingerprint_on_hub.cache_clear()
    assert digests[0] == digests[3]
    assert len(set(digests)) == 3


@pytest.fixture
def tokenizer(world):
    return load_tokenizer(world.tokenizer)


def test_texts_and_pairs_are_tokenised_as_bert_reads_them(tokenizer):
    rows = datasets.Dataset.from_dict(
        {"sentence1": ["reda redb", "goes"], "sentence2": ["bluea", "to to to"], "label": [1.5, 2]}
    )
    found = encode(rows, find_task("stsb"), tokenizer, 16)
    tokens = [[tokenizer.id_to_token(i) for i in ids] for ids, _ in found.rows]
    assert tokens == [
        ["[CLS]", "reda", "redb", "[SEP]", "bluea", "[SEP]"],
        ["[CLS]", "goes", "[SEP]", "to", "to", "to", "[SEP]"],
    ]
    assert [list(types) for _, types in found.rows] == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1]]
    assert list(found.lengths) == [6, 7]
    assert (found.labels.dtype, found.cut) == (np.float64, 0), "as the file has them; float32 is learned"


def test_the_longer_part_is_cut_first_and_counted(tokenizer):
    long = " ".join(["reda"] * 30)
    rows = datasets.Dataset.from_dict(
        {"sentence1": [long, "redb"], "sentence2": ["bluea blueb", "goes"], "label": [1.0, 2.0]}
    )
    found = encode(rows, find_task("stsb"), tokenizer, 12)
    tokens = [tokenizer.id_to_token(i) for i in found.rows[0].ids]
    assert tokens == ["[CLS]", *["reda"] * 7, "[SEP]", "bluea", "blueb", "[SEP]"]
    assert found.cut == 1
    assert tokenizer.truncation is None


def test_a_batch_is_packed_and_its_empty_places_weigh_nothing(tokenizer):
    rows = datasets.Dataset.from_dict({"sentence": ["reda", "redb redc", "goes"], "label": [0, 1, 1]})
    packing = Packing(*map(np.array, ([1, 2], [0, 0], [0, 4], [1, 2])))
    found = encode(rows, find_task("sst2"), tokenizer, 16).packed(packing, PackedShape(2, 8, 3), pad_id=9)
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    redb, redc, goes = (tokenizer.token_to_id(token) for token in ("redb", "redc", "goes"))
    np.testing.assert_array_equal(found["input_ids"], [[cls, redb, redc, sep, cls, goes, sep, 9], [9] * 8])
    np.testing.assert_array_equal(found["segment_ids"], [[1, 1, 1, 1, 2, 2, 2, 0], [0] * 8])
    np.testing.assert_array_equal(found["position_ids"], [[0, 1, 2, 3, 0, 1, 2, 0], [0] * 8])
    np.testing.assert_array_equal(found["first"], [[0, 4, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found["labels"], [[1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found["weights"], [[1, 1, 0], [0, 0, 0]])


REAL = {
    "cola": (8551, 1043),
    "sst2": (67349, 872),
    "mrpc": (3668, 408),
    "stsb": (5749, 1500),
    "qqp": (25683, 7600),
    "mnli": (16356, 9815, 9832),
    "rte": (2490, 277),
    "wnli": (635, 71),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_tasks_pass_every_check(glue_dir, name):
    task = find_task(name)
    found = [load_split(task, split, str(glue_dir)) for split in ("train", *task.dev)]
    assert tuple(map(len, found)) == REAL[name]
    for rows in found:
        check(rows, task, name)


def test_a_real_task_that_is_not_there_is_one_line(glue_dir):
    refused(
        lambda: load_split(find_task("qnli"), "train", str(glue_dir)),
        "--data",
        by="finetuning.datasets._file",
        path="qnli/train.parquet",
    )


def test_a_file_in_the_place_of_the_folder_is_said_to_be_one(tmp_path):
    (tmp_path / "my.csv").write_text("sentence,label\n")
    for name in ("my.csv", "nowhere"):
        refused(
            lambda name=name: load_split(find_task("sst2"), "train", str(tmp_path / name)),
            "sst2/train.parquet",
            by="finetuning.datasets._file",
            path=str(tmp_path / name),
            field="--data",
        )
    (tmp_path / "sst2/train.parquet").mkdir(parents=True)
    refused(lambda: load_split(find_task("sst2"), "train", str(tmp_path)), by="base.files.check_file")


def test_a_text_that_is_not_utf8_is_damage_of_its_file(tmp_path):
    (tmp_path / "sst2").mkdir()
    file = tmp_path / "sst2/train.parquet"
    texts = pyarrow.array([b"good", b"\xff"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"sentence": texts, "label": [0, 1]}), file)
    refused(lambda: load_split(find_task("sst2"), "train", str(tmp_path)), path=str(file))
