import itertools
import json
import lzma
import random

import numpy as np
import pytest

from distilbert_jax.base.config_io import from_json
from distilbert_jax.pretraining import packing as packing_module
from distilbert_jax.pretraining.build_corpus import build_corpus
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.manifests import PackedRecord
from distilbert_jax.pretraining.packing import PackedRows, pack
from distilbert_jax.text.sources import TextSources
from distilbert_jax.text.tokenizer import load_tokenizer
from distilbert_jax.text.wordpiece import train_wordpiece
from tests.runs import refused

WORDS = [f"w{i}" for i in range(300)]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP = range(4)


def make_documents(count=60, seed=0):
    """Lines of 1 to 60 words; in some, many words are unknown."""
    choose = random.Random(seed)

    def line():
        unknown = choose.choice([0, 0, 0, 0.5, 0.9])
        return " ".join(
            "snow" if choose.random() < unknown else choose.choice(WORDS) for _ in range(choose.randint(1, 60))
        )

    return [[line() for _ in range(choose.randint(1, 5))] for _ in range(count)]


DOCUMENTS = make_documents()


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocabulary").mkdir()
    (tmp_path / "vocabulary/vocab.txt").write_text("\n".join([*SPECIALS, *WORDS]))
    return load_tokenizer(tmp_path / "vocabulary")


def build(tokenizer, tmp_path, documents=DOCUMENTS):
    (tmp_path / "text.txt").write_text("\n\n".join("\n".join(document) for document in documents))
    return build_corpus([tmp_path / "text.txt"], tokenizer, tmp_path / "corpus", shard_bytes=3000, processes=1)


@pytest.fixture
def corpus(tokenizer, tmp_path):
    return build(tokenizer, tmp_path)


def sequences_of(documents, length, mode, min_tokens=12, max_unk=0.5):
    """The sequences that should be packed, word by word in plain Python, with the numbers of those dropped."""
    ids = {word: index for index, word in enumerate([*SPECIALS, *WORDS])}
    texts = itertools.chain(*documents) if mode == "line" else (" ".join(document) for document in documents)
    kept, short, unknown = [], 0, 0
    for text in texts:
        words = [ids.get(word, UNK) for word in text.split()]
        for start in range(0, len(words), length - 2):
            sequence = (CLS, *words[start : start + length - 2], SEP)
            if len(sequence) < min_tokens:
                short += 1
            elif sequence.count(UNK) / len(sequence) >= max_unk:
                unknown += 1
            else:
                kept.append(sequence)
    return kept, short, unknown


def unpack(rows):
    """Sequences of rows [n, 3, T], each checked against the meaning of the three channels."""
    found = []
    for ids, segments, positions in rows.tolist():
        number = 0
        for number in range(1, max(segments) + 1):
            columns = [column for column, segment in enumerate(segments) if segment == number]
            assert columns == list(range(columns[0], columns[-1] + 1))
            assert [positions[column] for column in columns] == list(range(len(columns)))
            found.append(tuple(ids[column] for column in columns))
        assert number > 0
        filled = sum(segment > 0 for segment in segments)
        assert set(segments[filled:]) | set(ids[filled:]) | set(positions[filled:]) <= {0}
    return found


@pytest.mark.parametrize("mode", ["line", "document"])
@pytest.mark.parametrize("length", [16, 40, 64])
def test_rows_hold_every_sequence_once_and_nothing_else(corpus, length, mode):
    rows = pack(corpus.path, length, sequences=mode)
    everything = rows.read(np.arange(len(rows)))
    assert everything.dtype == np.uint16
    assert everything.shape == (len(rows), 3, length) == (rows.manifest.rows, 3, rows.length)
    kept, short, unknown = sequences_of(DOCUMENTS, length, mode)
    assert sorted(unpack(everything)) == sorted(kept)
    assert (rows.manifest.short, rows.manifest.unknown) == (short, unknown)
    assert rows.manifest.sequences == len(kept)
    assert rows.manifest.tokens == sum(map(len, kept)) == np.count_nonzero(everything[:, 1])
    assert rows.manifest.efficiency == pytest.approx(np.mean(everything[:, 1] > 0))
    assert len(corpus) > 3


def test_limits_of_short_and_unknown_sequences_are_options(corpus):
    rows = pack(corpus.path, 32, min_tokens=20, max_unk=0.3)
    kept, short, unknown = sequences_of(DOCUMENTS, 32, "line", 20, 0.3)
    assert sorted(unpack(rows.read(np.arange(len(rows))))) == sorted(kept)
    assert (rows.manifest.short, rows.manifest.unknown) == (short, unknown)


def test_rows_are_read_in_any_order_across_files(corpus):
    rows = pack(corpus.path, 32)
    stacked = np.concatenate([np.load(rows.path / file.file) for file in rows.manifest.files])
    indices = np.random.default_rng(0).integers(0, len(rows), 200)
    np.testing.assert_array_equal(rows.read(indices), stacked[indices])
    assert rows.read(np.array([], int)).shape == (0, 3, 32)
    for outside in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows.read(np.array([0, outside]))


def test_second_call_finds_everything_and_options_remake_it(corpus):
    first = pack(corpus.path, 32)
    times = {file: file.stat().st_mtime_ns for file in first.path.iterdir()}
    assert pack(corpus.path, 32).manifest == first.manifest
    assert times == {file: file.stat().st_mtime_ns for file in first.path.iterdir()}
    other = pack(corpus.path, 32, min_tokens=5)
    assert other.path == first.path
    assert other.manifest.sequences > first.manifest.sequences
    assert pack(corpus.path, 32, sequences="document").path != first.path


def test_an_interrupted_call_keeps_its_files(corpus, monkeypatch):
    whole = pack(corpus.path, 32)
    content = {file.name: file.read_bytes() for file in whole.path.iterdir()}
    (whole.path / "manifest.json").unlink()
    (whole.path / "00002.npy").unlink()
    (whole.path / "00003.npy").write_bytes(b"damaged")
    refused(lambda: PackedRows.open(whole.path), by="pretraining.packing.PackedRows.open", path=str(whole.path))
    made, pack_shard = [], packing_module.pack_shard
    monkeypatch.setattr(packing_module, "pack_shard", lambda *a, **k: made.append(1) or pack_shard(*a, **k))
    assert pack(corpus.path, 32).manifest == whole.manifest
    assert len(made) == 2
    assert {file.name: file.read_bytes() for file in whole.path.iterdir()} == content


def test_rows_of_a_corpus_that_has_changed_are_refused_and_remade(tokenizer, corpus, tmp_path):
    before = pack(corpus.path, 32)
    build(tokenizer, tmp_path, DOCUMENTS[:20])
    refused(lambda: PackedRows.open(before.path), by="pretraining.packing.PackedRows.open", field="corpus")
    after = pack(corpus.path, 32)
    assert sorted(unpack(after.read(np.arange(len(after))))) == sorted(sequences_of(DOCUMENTS[:20], 32, "line")[0])
    assert len(list(after.path.glob("*.npy"))) == len(Corpus.open(corpus.path)) < len(before.manifest.files)


def test_a_damaged_file_is_named(corpus):
    rows = pack(corpus.path, 32)
    file = rows.path / "00001.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(lambda: rows.verify(), by="pretraining.packing.PackedRows.verify", path="00001.npy")
    file.write_bytes(content[:-1])
    refused(lambda: PackedRows.open(rows.path), by="pretraining.packing.PackedRows._check", path="00001.npy")
    assert pack(corpus.path, 32).verify() is None
    assert file.read_bytes() == content


@pytest.mark.parametrize("sequences", ["line", "pair"])
def test_a_shard_with_other_tokens_of_the_same_number_is_not_packed(sequences, corpus):
    file = corpus.path / "shards/00001.npz"
    with np.load(file) as arrays:
        np.savez(file, **{**arrays, "tokens": arrays["tokens"][::-1]})
    refused(lambda: pack(corpus.path, 32, sequences=sequences), path="shards/00001.npz")


@pytest.mark.parametrize(("channel", "value"), [("input_ids", 305), ("position_ids", 32)])
def test_an_id_beyond_the_vocabulary_or_the_row_never_reaches_a_model(channel, value, corpus):
    rows = pack(corpus.path, 32)
    array = np.load(rows.path / "00001.npy")
    array[0, rows.channels.index(channel), 3] = value
    np.save(rows.path / "00001.npy", array)
    first = rows.manifest.files[0].rows
    refused(lambda: rows.batch(np.arange(first, first + 2)), path="packed-32-line", field=channel, row=0)
    rows.batch(np.arange(first))


def test_what_cannot_be_packed_is_named(tokenizer, corpus, tmp_path):
    refused(lambda: pack(corpus.path, 7), by="pretraining.packing.pack", field="length")
    refused(lambda: pack(corpus.path, 32, sequences="page"), by="pretraining.packing.pack", field="sequences")
    refused(lambda: pack(tmp_path / "nowhere", 32), by="pretraining.corpus.Corpus.open", path="nowhere")
    refused(
        lambda: PackedRows.open(corpus.path / "packed-9-line"),
        by="pretraining.packing.PackedRows.open",
        path="packed-9-line",
    )
    few = build(tokenizer, tmp_path, [["w1 w2"], ["snow " * 20]])
    refused(lambda: pack(few.path, 32), "1 have", "1 are 50%", by="pretraining.packing.pack", path=str(few.path))


def test_a_shard_without_sequences_gives_no_rows(tokenizer, tmp_path):
    documents = [["w1 w2"] * 1000, ["w3 " * 30], ["w1"] * 2000, ["w4 " * 30]]
    rows = pack(build(tokenizer, tmp_path, documents).path, 32)
    assert [file.rows for file in rows.manifest.files].count(0) > 1
    assert sorted(unpack(rows.read(np.arange(len(rows))))) == sorted(sequences_of(documents, 32, "line")[0])


def test_manifest_of_another_format_is_refused(corpus):
    rows = pack(corpus.path, 32)
    manifest = rows.path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 0}))
    refused(
        lambda: PackedRows.open(rows.path),
        by="pretraining.packing.PackedRows.open",
        path="manifest.json",
        field="format",
    )


DAMAGES = {
    "a key has another name": lambda m: m.update(file=m.pop("files")),
    "no options": lambda m: m.pop("options"),
    "no corpus": lambda m: m.pop("corpus"),
    "options of another form": lambda m: m.update(options=[32]),
    "more rows": lambda m: m.update(rows=m["rows"] + 1),
    "no rows": lambda m: m.update(rows=0),
    "rows in words": lambda m: m.update(rows="many"),
    "more rows in a file": lambda m: (
        m["files"][0].update(rows=m["files"][0]["rows"] + 1),
        m.update(rows=m["rows"] + 1),
    ),
    "no bytes of a file": lambda m: m["files"][1].pop("bytes"),
    "no checksum of a file": lambda m: m["files"][1].pop("sha256"),
    "a file of no name": lambda m: m["files"][1].update(file=None),
    "files of another form": lambda m: m.update(files={"0": 1}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_named_and_what_it_is_of_packed_again(damage, corpus):
    rows = pack(corpus.path, 32)
    manifest = json.loads((rows.path / "manifest.json").read_text())
    DAMAGES[damage](manifest)
    (rows.path / "manifest.json").write_text(json.dumps(manifest))
    refused(lambda: PackedRows.open(rows.path), path="packed-32-line")
    assert pack(corpus.path, 32).manifest == rows.manifest


@pytest.mark.parametrize(
    ("sequences", "name"),
    [*itertools.product(("line", "pair"), ("rows", "sequences", "tokens")), ("pair", "strangers")],
)
def test_a_record_that_counts_other_rows_than_its_file_has_is_made_again(name, sequences, corpus):
    """Though its checksum is right."""
    rows = pack(corpus.path, 32, sequences=sequences)
    file, entry = rows.path / "00000.json", rows.manifest.files[0]
    record = json.loads(file.read_text())
    record["entry"][name] += 1
    file.write_text(json.dumps(record))
    manifest = json.loads((rows.path / "manifest.json").read_text())
    manifest["files"][0][name] += 1
    manifest[name] += 1
    (rows.path / "manifest.json").write_text(json.dumps(manifest))
    refused(lambda: PackedRows.open(rows.path).verify(), path="00000.npy")
    (rows.path / "manifest.json").unlink()
    assert pack(corpus.path, 32, sequences=sequences).manifest == rows.manifest
    assert from_json(PackedRecord, file.read_text()).entry == entry


def test_packed_rows_of_an_earlier_version_are_read(corpus):
    """With the fields in another order, and no word of strangers where there are none."""
    rows = pack(corpus.path, 32)
    manifest = json.loads((rows.path / "manifest.json").read_text())
    assert "strangers" not in manifest
    (rows.path / "manifest.json").write_text(json.dumps(dict(sorted(manifest.items())), indent=1))
    assert PackedRows.open(rows.path).manifest == rows.manifest


def test_a_length_below_the_shortest_sequence_is_the_cause_that_is_named(corpus):
    refused(lambda: pack(corpus.path, 8), "12", by="pretraining.packing.pack", field="length")
    assert not (corpus.path / "packed-8-line").exists()


@pytest.mark.slow
def test_wikipedia_fills_at_least_97_percent_of_its_rows(text_dir, tmp_path):
    text = tmp_path / "wikipedia.txt"
    with lzma.open(text_dir / "wikipedia-en-heldout.txt.xz") as file:
        text.write_bytes(file.read(3_000_000).rpartition(b"\n")[0])
    tokenizer = train_wordpiece(itertools.islice(TextSources([text]).lines(), 500), 4000)
    corpus = build_corpus([text], tokenizer, tmp_path / "corpus")
    for length, sequences in itertools.product((128, 512), ("line", "document")):
        packed = pack(corpus.path, length, sequences=sequences)
        filled = np.mean(packed.read(np.arange(len(packed)))[:, 1] > 0)
        assert filled == pytest.approx(packed.manifest.efficiency, abs=1e-12)
        assert filled >= 0.97


def test_foreign_files_beside_packed_rows_stay(corpus):
    notes = [corpus.path / "packed-32-line" / name for name in ("2024-notes.txt", "77777.txt")]
    notes[0].parent.mkdir()
    for note in notes:
        note.write_text("mine")
    pack(corpus.path, 32)
    assert [note.read_text() for note in notes] == ["mine", "mine"]
