import contextlib
import copy
import errno
import gzip
import itertools
import json
import lzma
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

from distilbert_jax.base.config_io import from_json, to_values
from distilbert_jax.base.files import write_json
from distilbert_jax.cli.main import main
from distilbert_jax.errors import InputError
from distilbert_jax.pretraining import build_corpus as corpus_module
from distilbert_jax.pretraining.build_corpus import build_share
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.manifests import COUNTED, CorpusManifest
from distilbert_jax.text import sources as text_module
from distilbert_jax.text.sources import TextSources
from distilbert_jax.text.tokenizer import load_tokenizer, same_ids, save_tokenizer, special_ids
from distilbert_jax.text.wordpiece import train_wordpiece
from tests import children
from tests.runs import refused


def build_corpus(*arguments, processes=1, **options):
    """Where the number of processes is no matter, in this one."""
    return corpus_module.build_corpus(*arguments, processes=processes, **options)


WORDS = [a + b for a in ("over", "under", "in", "re", "un") for b in ("write", "read", "pack", "mask", "draw")]


def make_documents(count=40, seed=0):
    choose = random.Random(seed)
    return [
        [" ".join(choose.choices(WORDS, k=choose.randint(1, 30))) for _ in range(choose.randint(1, 6))]
        for _ in range(count)
    ]


DOCUMENTS = make_documents()
TEXT = "\n\n".join("\n".join(document) for document in DOCUMENTS)


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(itertools.chain.from_iterable(DOCUMENTS), 90)


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


def documents_in(corpus):
    """Ids of every line of every document, taken apart by the documented meaning of the arrays."""
    found = []
    for shard in corpus:
        lines = np.split(shard.tokens, shard.line_ends)
        assert not len(lines.pop())
        starts = [0, *shard.document_ends[:-1]]
        found += [[line.tolist() for line in lines[a:b]] for a, b in zip(starts, shard.document_ends, strict=True)]
    return found


def expected(tokenizer, documents=DOCUMENTS):
    return [[tokenizer.encode(line, add_special_tokens=False).ids for line in document] for document in documents]


def files_of(directory):
    return {file.name: file.read_bytes() for file in (directory / "shards").iterdir()}


def tree(directory):
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@contextlib.contextmanager
def interrupting_progress(description, total, after=2):
    calls = itertools.count(1)

    def done(position):
        if description == "tokenizing" and next(calls) == after:
            raise KeyboardInterrupt

    yield done


@pytest.mark.parametrize("processes", [1, 2])
def test_shards_hold_every_line_of_every_document_in_order(tokenizer, source, tmp_path, processes):
    corpus = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500, processes=processes)
    reference = expected(tokenizer)
    assert documents_in(corpus) == reference
    ids = np.concatenate([np.concatenate(document) for document in reference]).astype(int)
    np.testing.assert_array_equal(corpus.token_counts, np.bincount(ids, minlength=tokenizer.get_vocab_size()))
    assert corpus.token_counts.dtype == np.int64
    assert all(shard.tokens.dtype == np.uint16 for shard in corpus)
    assert 3 < len(corpus) == corpus.shards_made
    totals = {name: getattr(corpus.manifest, name) for name in ("documents", "lines", "tokens")}
    assert totals == {"documents": len(DOCUMENTS), "lines": sum(map(len, DOCUMENTS)), "tokens": len(ids)}
    assert corpus.specials == special_ids(load_tokenizer(corpus.path / "tokenizer"))


def test_number_of_processes_changes_nothing(tokenizer, source, tmp_path):
    for processes in (1, 2):
        build_corpus([source], tokenizer, tmp_path / str(processes), shard_bytes=2500, processes=processes)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert (tmp_path / "1/manifest.json").read_bytes() == (tmp_path / "2/manifest.json").read_bytes()
    assert str(tmp_path) not in (tmp_path / "1/manifest.json").read_text()


def build_part(arguments):
    share = build_share(**arguments, shard_bytes=2500, processes=1)
    return share.shards, share.made, share.missing, share.corpus is not None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_hosts_one_after_another_equal_one_host(tokenizer, source, tmp_path, order):
    one = build_corpus([source], tokenizer, tmp_path / "one", shard_bytes=2500)
    own = [len(one.manifest.shards[host::3]) for host in range(3)]
    part = {"sources": [source], "tokenizer": tokenizer, "out": tmp_path / "three", "hosts": 3}
    for done, host in enumerate(order):
        missing = tuple(sorted(order[done + 1 :]))
        assert build_part({**part, "host": host}) == (own[host], own[host], missing, not missing)
        made = sorted(int(file.stem) for file in (tmp_path / "three/shards").glob("*.npz"))
        assert made == [index for index in range(len(one)) if index % 3 in order[: done + 1]]
        if missing:
            refused(
                lambda: Corpus.open(tmp_path / "three"),
                by="pretraining.corpus.Corpus.open",
                path=str(tmp_path / "three"),
            )
    assert tree(tmp_path / "three") == tree(tmp_path / "one")
    assert build_part({**part, "host": 1}) == (own[1], 0, (), True)


def test_hosts_at_the_same_time_equal_one_host(tokenizer, source, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    build_corpus([source], tokenizer, tmp_path / "one", shard_bytes=2500)
    part = {"sources": [source], "tokenizer": tokenizer, "out": tmp_path / "three", "hosts": 3}
    with children.pool(3) as hosts:
        shares = list(hosts.map(build_part, [{**part, "host": host} for host in range(3)]))
    assert any(complete for *_, complete in shares)
    assert [made for _, made, _, complete in shares if not complete] == [own for own, *_, done in shares if not done]
    assert tree(tmp_path / "three") == tree(tmp_path / "one")


def test_a_killed_host_starts_again_and_one_host_makes_what_is_missing(tokenizer, source, tmp_path, monkeypatch):
    one = build_corpus([source], tokenizer, tmp_path / "one", shard_bytes=2500)
    part = {"sources": [source], "tokenizer": tokenizer, "out": tmp_path / "two", "hosts": 2}
    own = len(one.manifest.shards[::2])
    monkeypatch.setattr(corpus_module, "progress", interrupting_progress)
    with pytest.raises(KeyboardInterrupt):
        build_part({**part, "host": 0})
    monkeypatch.undo()
    (tmp_path / "two/shards/.00002.npz.somewhere-7.partial").write_bytes(b"half a shard")
    assert build_part({**part, "host": 0}) == (own, own - 1, (1,), False)
    rest = build_corpus([source], tokenizer, tmp_path / "two", shard_bytes=2500)
    assert rest.shards_made == len(one) - own
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_a_host_that_is_about_to_write_the_tokenizer_stops_no_other(tokenizer, source, tmp_path):
    (tmp_path / "out/tokenizer").mkdir(parents=True)
    build_corpus([source], tokenizer, tmp_path / "out")


def test_a_damaged_shard_of_another_host_is_that_hosts_to_mend(tokenizer, source, tmp_path):
    one = build_corpus([source], tokenizer, tmp_path / "one", shard_bytes=2500)
    (tmp_path / "one/shards/00001.npz").write_bytes(b"damaged")
    part = {"sources": [source], "tokenizer": tokenizer, "out": tmp_path / "one", "hosts": 2}
    assert build_part({**part, "host": 0})[1:] == (0, (1,), False)
    assert build_part({**part, "host": 1})[1:] == (1, (), True)
    assert Corpus.open(tmp_path / "one").manifest == one.manifest


@pytest.mark.parametrize(("hosts", "host"), [(3, 3), (3, -1), (0, 0), (1, 1)])
def test_a_host_that_is_none_of_the_hosts_is_refused(tokenizer, source, tmp_path, hosts, host):
    refused(
        lambda: build_share([source], tokenizer, tmp_path / "out", hosts=hosts, host=host),
        by="pretraining.build_corpus.build_share",
        field="host",
    )
    assert not (tmp_path / "out").exists()


def test_compression_byte_order_mark_and_line_ends_change_no_token(tokenizer, source, tmp_path):
    raw = TEXT.encode()
    variants = {"a.txt.xz": lzma.compress(raw), "b.txt.gz": gzip.compress(raw), "c.txt": b"\xef\xbb\xbf" + raw}
    variants["d.txt"] = raw.replace(b"\n\n", b"\n \n\n\n").replace(b"\n", b"\r\n") + b"\r\n"
    plain = build_corpus([source], tokenizer, tmp_path / "plain")
    for name, content in variants.items():
        (tmp_path / name).write_bytes(content)
        assert list(TextSources([tmp_path / name]).lines()) == list(itertools.chain.from_iterable(DOCUMENTS))
        assert build_corpus([tmp_path / name], tokenizer, tmp_path / f"of-{name}").fingerprint == plain.fingerprint, (
            name
        )


def test_a_document_ends_with_its_file(tokenizer, tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("\n".join(DOCUMENTS[0]))
    corpus = build_corpus([tmp_path / "a.txt", tmp_path / "b.txt"], tokenizer, tmp_path / "out")
    assert documents_in(corpus) == expected(tokenizer, [DOCUMENTS[0]] * 2)


def test_only_a_document_longer_than_a_shard_is_cut_and_only_at_a_line(tokenizer, tmp_path):
    long = list(itertools.chain.from_iterable(DOCUMENTS[:20]))
    documents = [DOCUMENTS[20], long, DOCUMENTS[21]]
    (tmp_path / "text.txt").write_text("\n\n".join("\n".join(document) for document in documents))
    corpus = build_corpus([tmp_path / "text.txt"], tokenizer, tmp_path / "out", shard_bytes=2000)
    found = documents_in(corpus)
    reference = expected(tokenizer, documents)
    assert found[0] == reference[0]
    assert found[-1] == reference[-1]
    assert list(itertools.chain.from_iterable(found[1:-1])) == reference[1]
    assert len(found) > 4


def test_a_document_that_is_cut_is_one_and_each_host_knows_which_shards_it_goes_on_in(tokenizer, tmp_path):
    long = list(itertools.chain.from_iterable(DOCUMENTS[:20]))
    documents = [DOCUMENTS[20], long, DOCUMENTS[21]]
    file, whole = tmp_path / "text.txt", tmp_path / "whole"
    file.write_text("\n\n".join("\n".join(document) for document in documents))
    corpus = build_corpus([file], tokenizer, tmp_path / "one", shard_bytes=2500)
    found = []
    for shard, entry in zip(corpus, corpus.manifest.shards, strict=True):
        first, *others = documents_in([shard])
        found = [*found[:-1], found[-1] + first, *others] if entry.continues else [*found, first, *others]
    assert found == expected(tokenizer, documents)
    assert corpus.manifest.documents == len(documents) < sum(entry.documents for entry in corpus.manifest.shards)
    assert build_corpus([file], tokenizer, whole).manifest.documents == len(documents)
    assert "continues" not in (whole / "manifest.json").read_text()
    for host in (2, 0, 1):
        build_part({"sources": [file], "tokenizer": tokenizer, "out": tmp_path / "three", "hosts": 3, "host": host})
    assert tree(tmp_path / "three") == tree(tmp_path / "one")


def test_special_tokens_spelt_out_in_a_text_are_text(tokenizer, tmp_path):
    (tmp_path / "text.txt").write_text("read [SEP] write [MASK] [PAD] mask [CLS]")
    corpus = build_corpus([tmp_path / "text.txt"], tokenizer, tmp_path / "out")
    ids = special_ids(tokenizer)
    assert not np.isin(corpus.shard(0).tokens, [ids.sep, ids.mask, ids.pad, ids.cls]).any()
    assert tokenizer.encode("[SEP]", add_special_tokens=False).ids == [ids.sep]


def test_a_large_vocabulary_gets_wider_ids(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(70_000))]
    vocabulary = {word: index for index, word in enumerate(words)}
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    (tmp_path / "text.txt").write_text("w1 w69999")
    corpus = build_corpus([tmp_path / "text.txt"], load_tokenizer(tmp_path), tmp_path / "out")
    assert corpus.shard(0).tokens.dtype == np.uint32
    assert corpus.shard(0).tokens.tolist() == [6, 70_004]


def test_second_run_finds_everything(tokenizer, source, tmp_path):
    first = corpus_module.build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    second = corpus_module.build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    assert (second.shards_made, second.manifest) == (0, first.manifest)
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupted_run_keeps_its_shards_and_the_next_makes_the_rest(
    tokenizer, source, tmp_path, monkeypatch, processes
):
    whole = build_corpus([source], tokenizer, tmp_path / "whole", shard_bytes=2500)
    monkeypatch.setattr(corpus_module, "progress", interrupting_progress)
    with pytest.raises(KeyboardInterrupt):
        build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500, processes=processes)
    monkeypatch.undo()
    refused(lambda: Corpus.open(tmp_path / "out"), by="pretraining.corpus.Corpus.open", path=str(tmp_path / "out"))
    kept = len(list((tmp_path / "out/shards").glob("*.json")))  # with two processes, when the second one ends is chance
    assert 1 <= kept < len(whole)
    resumed = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500, processes=processes)
    assert resumed.shards_made == len(whole) - kept
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert resumed.manifest == whole.manifest


def test_a_full_disk_keeps_finished_shards_and_leaves_no_half_file(tokenizer, source, tmp_path, monkeypatch):
    calls = itertools.count(1)

    def savez(stream, **arrays):
        stream.write(b"half")
        if next(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpus_module.np, "savez", savez)
    with pytest.raises(OSError, match="No space left"):
        build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    assert sorted(files_of(tmp_path / "out")) == ["00000.json", "00000.npz", "00001.json", "00001.npz"]


def test_text_in_flight_is_bounded(tokenizer, source, tmp_path, monkeypatch):
    lock, under_way, most = threading.Lock(), [0], [0]

    @contextlib.contextmanager
    def slow_pool(workers, maker):
        def make(*chunk):
            entry = maker.make(*chunk)
            with lock:
                under_way[0] -= 1
            return entry

        with ThreadPoolExecutor(workers) as threads:

            def submit(*chunk):
                with lock:
                    under_way[0] += 1
                    most[0] = max(most[0], under_way[0])
                return threads.submit(make, *chunk)

            yield submit

    monkeypatch.setattr(corpus_module, "worker_pool", slow_pool)
    corpus = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=1500, processes=2)
    assert len(corpus) > 6
    assert most[0] <= 3
    assert documents_in(corpus) == expected(tokenizer)


@pytest.mark.parametrize("by", ["standard input", "a file without a guard"])
def test_workers_do_not_run_the_script_that_builds_a_corpus(by, tokenizer, source, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    script = f"""
from pathlib import Path
from distilbert_jax.pretraining.build_corpus import build_corpus
from distilbert_jax.text.tokenizer import load_tokenizer
out, tokenizer = Path({str(tmp_path / "out")!r}), load_tokenizer({str(tmp_path / "tokenizer")!r})
print(len(build_corpus([Path({str(source)!r})], tokenizer, out, shard_bytes=2500, processes=2)))
"""
    given, name = (script, "-") if by == "standard input" else ("", str(tmp_path / "script.py"))
    if given == "":
        (tmp_path / "script.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(children.ROOT)}
    ended = subprocess.run(
        [sys.executable, name], input=given, capture_output=True, text=True, timeout=100, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 3


def test_what_is_no_corpus_says_what_it_is(source, tmp_path):
    refused(lambda: Corpus.open(source), by="pretraining.corpus.Corpus.open", path=str(source), hint=f"--text {source}")
    (tmp_path / "manifest.json").write_text('{"format": 1, "python": "3.11"}')
    assert "damaged" not in refused(
        lambda: Corpus.open(tmp_path), by="pretraining.corpus.Corpus.open", path=str(tmp_path)
    )


def test_a_damaged_shard_is_named_and_mended(tokenizer, source, tmp_path):
    corpus = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    corpus.verify()
    file = tmp_path / "out/shards/00001.npz"
    content = file.read_bytes()
    file.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
    refused(lambda: Corpus.open(tmp_path / "out").verify(), by="pretraining.corpus.Corpus.shard", path="00001.npz")
    file.write_bytes(content[:300])
    refused(lambda: corpus.shard(1), by="pretraining.corpus.Corpus.shard", path="00001.npz")
    assert build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500).shards_made == 1
    assert file.read_bytes() == content


def test_changed_sources_replace_the_shards_that_change(tokenizer, source, tmp_path, monkeypatch):
    before = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    source.write_text("\n\n".join("\n".join(document) for document in DOCUMENTS[:20]))
    monkeypatch.setattr(corpus_module, "progress", interrupting_progress)
    with pytest.raises(KeyboardInterrupt):
        build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    monkeypatch.undo()
    refused(lambda: Corpus.open(tmp_path / "out"), by="pretraining.corpus.Corpus.open", path=str(tmp_path / "out"))
    after = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    assert documents_in(after) == expected(tokenizer, DOCUMENTS[:20])
    assert after.shards_made <= len(after) < len(before)
    assert len(files_of(tmp_path / "out")) == 2 * len(after)
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("content", [TEXT.encode() + b"\n\xff\xfe\n", b"\n\n"])
def test_a_text_that_cannot_be_read_does_not_cost_the_corpus(content, tokenizer, source, tmp_path):
    build_corpus([source], tokenizer, tmp_path / "corpus")
    before = tree(tmp_path / "corpus")
    source.write_bytes(content)
    refused(lambda: build_corpus([source], tokenizer, tmp_path / "corpus"), path=str(source))
    assert tree(tmp_path / "corpus") == before


def test_a_corpus_of_other_files_is_left_alone(tokenizer, source, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("reda goes to redb\n")
    build_corpus([source], tokenizer, tmp_path / "corpus")
    before = {file: file.read_bytes() for file in (tmp_path / "corpus").rglob("*.*")}
    refused(
        lambda: build_corpus([other], tokenizer, tmp_path / "corpus"),
        source.name,
        by="pretraining.build_corpus._build_share",
        path=str(tmp_path / "corpus"),
    )
    assert {file: file.read_bytes() for file in (tmp_path / "corpus").rglob("*.*")} == before


def test_a_corpus_of_another_tokenizer_is_refused(tokenizer, source, tmp_path):
    build_corpus([source], tokenizer, tmp_path / "out")
    other = train_wordpiece(iter(DOCUMENTS[0]), 64)
    refused(
        lambda: build_corpus([source], other, tmp_path / "out"),
        by="pretraining.build_corpus._build_share",
        path=str(tmp_path / "out"),
    )
    assert Corpus.open(tmp_path / "out").vocab_size == tokenizer.get_vocab_size()


def without_added_tokens(parts):
    parts["added_tokens"] = []


def with_an_ordinary_mask(parts):
    (mask,) = (token for token in parts["added_tokens"] if token["content"] == "[MASK]")
    mask.update(special=False, normalized=True)


@pytest.mark.parametrize("change", [without_added_tokens, with_an_ordinary_mask])
def test_a_corpus_opens_whatever_way_its_tokenizer_was_written(change, tokenizer, source, tmp_path):
    parts = json.loads(tokenizer.to_str())
    change(parts)
    (tmp_path / "given").mkdir()
    (tmp_path / "given/tokenizer.json").write_text(json.dumps(parts))
    (tmp_path / "given/tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    given = load_tokenizer(tmp_path / "given")
    build_corpus([source], given, tmp_path / "corpus")
    Corpus.open(tmp_path / "corpus").verify()
    assert same_ids(Corpus.open(tmp_path / "corpus").tokenizer(), given)
    assert not build_corpus([source], given, tmp_path / "corpus").shards_made


def test_truncation_of_the_given_tokenizer_is_not_applied(tokenizer, source, tmp_path):
    cutting = Tokenizer.from_str(tokenizer.to_str())
    cutting.enable_truncation(4)
    cutting.enable_padding(length=64)
    assert documents_in(build_corpus([source], cutting, tmp_path / "out")) == expected(tokenizer)


@pytest.mark.parametrize(
    ("name", "content", "by", "row"),
    [
        ("missing.txt", None, "base.files.check_file", None),
        ("page.html", b"text", "text.sources.TextSources.__init__", None),
        ("page.xz", b"text", "text.sources.TextSources.__init__", None),
        ("empty.txt", b"", "text.sources.TextSources.__init__", None),
        ("blank.txt", b"\n \n\t\n", "pretraining.build_corpus._build_share", None),
        ("blank.txt.xz", lzma.compress(b""), "pretraining.build_corpus._build_share", None),
        ("latin.txt", b"one\nna\xefve\n", "text.sources._decoded", 2),
        ("cut.txt.xz", lzma.compress(TEXT.encode())[:-40], "text.sources._numbered", None),
        ("long.txt.xz", lzma.compress(TEXT.encode() * 9)[:-40], "text.sources._numbered", None),
        ("control.txt", b"\x01\x02\n\n\x03\n", "pretraining.build_corpus._completed", None),
        ("cut.txt.gz", gzip.compress(TEXT.encode())[:-40], "text.sources._numbered", None),
        ("not.txt.xz", b"plain text", "text.sources._numbered", None),
        ("not.txt.gz", b"plain text", "text.sources._numbered", None),
        (
            "two.txt.xz",
            lzma.compress(TEXT.encode()) + b"?" + lzma.compress(TEXT.encode())[1:],
            "text.sources._numbered",
            None,
        ),
        (
            "behind.txt.xz",
            lzma.compress(TEXT.encode()) + b"more",
            "text.sources._numbered",
            None,
        ),
    ],
)
def test_a_source_that_cannot_be_read_is_named(tokenizer, tmp_path, name, content, by, row):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    at_fault = tmp_path / ("out" if name == "control.txt" else name)
    refused(
        lambda: build_corpus([tmp_path / name], tokenizer, tmp_path / "out", shard_bytes=2500),
        by=by,
        path=str(at_fault),
        row=row,
    )
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_file_without_line_ends_is_refused_before_it_fills_memory(tokenizer, source, tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "_LONGEST_LINE", 1 << 20)
    source.write_text("word " * 300_000)
    refused(
        lambda: build_corpus([source], tokenizer, tmp_path / "out"),
        by="text.sources._check_length",
        path=str(source),
        row=1,
    )


def test_what_is_not_a_finished_corpus_is_named(tokenizer, source, tmp_path):
    refused(lambda: Corpus.open(tmp_path / "nowhere"), by="pretraining.corpus.Corpus.open", path="nowhere")
    build_corpus([source], tokenizer, tmp_path / "out")
    manifest = tmp_path / "out/manifest.json"
    good = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**good, "format": 99}))
    refused(
        lambda: Corpus.open(tmp_path / "out"), by="pretraining.corpus.Corpus.open", path="manifest.json", field="format"
    )
    manifest.write_text('{"format": 1,')
    refused(lambda: Corpus.open(tmp_path / "out"), by="base.files.parse_json", path="manifest.json")
    assert build_corpus([source], tokenizer, tmp_path / "out").manifest == from_json(CorpusManifest, json.dumps(good))


def test_the_command_reports_and_refuses_a_mistake(tokenizer, source, tmp_path, capsys):
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    command = ["corpus", "--text", str(source), "--tokenizer", str(tmp_path / "tokenizer")]
    out = ["--out", str(tmp_path / "out"), "--processes", "1"]
    main([*command, *out])
    assert f"{len(DOCUMENTS)} documents" in capsys.readouterr().out
    two = str(tmp_path / "two")
    waiting = f"in {two}; not complete yet: shards of host 0 are missing\n"
    for host, said in ((1, waiting), (0, f"{len(DOCUMENTS)} documents")):
        main([*command, "--out", two, "--processes", "1", "--hosts", "2", "--host", str(host)])
        assert said in capsys.readouterr().out
    for hosts in ("2", "0"):  # which of the two, or none
        refused(lambda hosts=hosts: main([*command, *out, "--hosts", hosts]), hosts, field="--hosts")
    source.write_bytes(b"\xff")
    refused(lambda: main([*command, *out]), "line 1: not UTF-8", path=str(source))


def test_nothing_of_the_data_floor_that_a_worker_needs_imports_jax():
    script = "import sys, distilbert_jax.pretraining.build_corpus; sys.exit(int(any(m in sys.modules for m in ('jax', 'grain'))))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_no_processes_are_refused(tokenizer, source, tmp_path):
    refused(
        lambda: build_corpus([source], tokenizer, tmp_path / "out", processes=0),
        by="pretraining.build_corpus.build_share",
        field="processes",
    )


@pytest.mark.parametrize("size", [None, 0, 60, 200])
def test_damaged_token_counts_are_named(size, tokenizer, source, tmp_path):
    corpus = build_corpus([source], tokenizer, tmp_path / "corpus")
    file = tmp_path / "corpus" / "token_counts.npy"
    content = file.read_bytes()
    file.unlink()
    if size is not None:
        file.write_bytes(content[:size])
    refused(lambda: corpus.token_counts, by="pretraining.corpus.Corpus.token_counts", path="token_counts.npy")


def test_token_counts_of_another_vocabulary_are_named(tokenizer, source, tmp_path):
    corpus = build_corpus([source], tokenizer, tmp_path / "corpus")
    np.save(tmp_path / "corpus" / "token_counts.npy", np.zeros(7, np.int64))
    refused(lambda: corpus.token_counts, "(7,)", by="pretraining.corpus.Corpus.token_counts", path="token_counts.npy")


def test_a_manifest_that_lacks_a_part_is_named(tokenizer, source, tmp_path):
    corpus = build_corpus([source], tokenizer, tmp_path / "corpus")
    write_json(tmp_path / "corpus" / "manifest.json", {"format": corpus.manifest.format, "vocab_size": 9})
    refused(
        lambda: Corpus.open(tmp_path / "corpus"),
        path="manifest.json",
        field="tokenizer",
    )


def test_a_bit_turned_in_the_token_counts_is_named_and_mended(tokenizer, source, tmp_path):
    corpus = build_corpus([source], tokenizer, tmp_path / "corpus")
    file = tmp_path / "corpus" / "token_counts.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
    for read in (lambda: corpus.token_counts, corpus.verify):
        refused(read, by="pretraining.corpus.Corpus.token_counts", path="token_counts.npy")
    assert build_corpus([source], tokenizer, tmp_path / "corpus").shards_made == 0
    assert file.read_bytes() == content


def test_a_corpus_made_before_the_counts_had_a_checksum_keeps_its_shards(tokenizer, source, tmp_path):
    whole = build_corpus([source], tokenizer, tmp_path / "corpus")
    before = {name: value for name, value in to_values(whole.manifest).items() if name != "token_counts"}
    write_json(tmp_path / "corpus/manifest.json", before)
    refused(
        lambda: Corpus.open(tmp_path / "corpus"),
        path="manifest.json",
        field="token_counts",
    )
    again = build_corpus([source], tokenizer, tmp_path / "corpus")
    assert (again.shards_made, again.manifest) == (0, whole.manifest)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", "48"),
        ("vocab_size", 0),
        ("specials", {"pad": 0, "unk": 1, "cls": 2, "sep": 3}),
        ("specials", {"pad": "0", "unk": 1, "cls": 2, "sep": 3, "mask": 4}),
        ("specials", [0, 1, 2, 3, 4]),
        ("tokenizer", None),
        ("token_counts", 7),
        ("shards", {}),
        ("shards", [{"file": "shards/00000.npz"}]),
    ],
)
def test_a_part_of_a_manifest_of_another_form_is_named_and_mended(name, value, tokenizer, source, tmp_path):
    whole = build_corpus([source], tokenizer, tmp_path / "corpus")
    write_json(tmp_path / "corpus/manifest.json", {**to_values(whole.manifest), name: value})
    with pytest.raises(InputError) as caught:
        Corpus.open(tmp_path / "corpus")
    assert caught.value.path.endswith("manifest.json")
    assert caught.value.field.startswith(name)
    assert build_corpus([source], tokenizer, tmp_path / "corpus").manifest == whole.manifest


def test_a_tokenizer_that_did_not_make_the_corpus_is_named(tokenizer, source, tmp_path):
    corpus = build_corpus([source], tokenizer, tmp_path / "corpus")
    assert corpus.tokenizer().to_str() == tokenizer.to_str()
    manifest = to_values(corpus.manifest)
    changed = {**manifest, "tokenizer": "0" * 64}
    swapped = {**manifest["specials"], "cls": 3, "sep": 2}
    for wrong, at_fault in (
        (changed, "corpus/tokenizer"),
        ({**manifest, "specials": swapped}, "corpus/manifest.json"),
        ({**manifest, "vocab_size": corpus.vocab_size + 1}, "corpus/manifest.json"),
    ):
        write_json(tmp_path / "corpus/manifest.json", wrong)
        refused(
            lambda: Corpus.open(tmp_path / "corpus").tokenizer(),
            by="pretraining.corpus.Corpus.tokenizer",
            path=at_fault,
        )
        assert build_corpus([source], tokenizer, tmp_path / "corpus").manifest == corpus.manifest
    words = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "corpus/tokenizer" / name).unlink()
    (tmp_path / "corpus/tokenizer/vocab.txt").write_text("\n".join(words[::-1]))  # as many entries, other ids
    refused(lambda: corpus.tokenizer(), by="pretraining.corpus.Corpus.tokenizer", path="tokenizer")


FOREIGN = {
    "manifest": {"manifest.json": b'{"name": "my web app"}', "shards/7.txt": b"mine", "token_counts.npy": b"mine"},
    "manifest that is no JSON": {"manifest.json": b"mine"},
    "counts": {"token_counts.npy": b"mine"},
    "a text in shards": {"shards/2024-notes.txt": b"mine"},
    "arrays in shards": {"shards/00009.npz": b"mine"},
    "JSON in shards": {"shards/00000.json": b'{"file": "mine"}'},
    "a file in tokenizer": {"tokenizer/notes.txt": b"mine"},
    "a model": {"config.json": b"{}", "model.safetensors": b"mine", "vocab.txt": b"mine"},
    "files for shards and tokenizer": {"shards": b"mine", "tokenizer": b"mine"},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_a_directory_of_something_else_is_left_alone(files, tokenizer, source, tmp_path):
    out = tmp_path / "out"
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    refused(lambda: build_corpus([source], tokenizer, out), path=str(out))
    assert tree(out) == files


@pytest.mark.parametrize("name", ["shards/00000.npz", "shards/00000.json", "manifest.json", "token_counts.npy"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_link_or_a_pipe_is_not_written_to(name, kind, tokenizer, source, tmp_path):
    out, victim = tmp_path / "out", tmp_path / "victim"
    build_corpus([source], tokenizer, out, shard_bytes=2500)
    (out / name).unlink()
    if name == "shards/00000.json":  # which a finished corpus does not need
        (out / "manifest.json").unlink()
    victim.write_text("victim")
    (out / name).symlink_to(victim) if kind == "link" else os.mkfifo(out / name)
    before = tree(out)
    refused(lambda: build_corpus([source], tokenizer, out, shard_bytes=2500), path=name)
    assert (tree(out), victim.read_text()) == (before, "victim")


def test_foreign_files_beside_the_shards_of_a_corpus_stay(tokenizer, source, tmp_path):
    whole = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    shards = tmp_path / "out/shards"
    names = ("2024-notes.txt", "77777.txt", ".mine.partial")
    for name in names:
        (shards / name).write_text("mine")
    (tmp_path / "out/manifest.json").unlink()
    again = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    assert (again.shards_made, again.manifest) == (0, whole.manifest)
    assert {(shards / name).read_text() for name in names} == {"mine"}


def test_what_is_left_of_a_call_that_finished_no_shard_is_continued(tokenizer, source, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "out/tokenizer")
    (tmp_path / "out/shards").mkdir()
    (tmp_path / "out/shards/00000.npz").write_bytes(b"of another host, its record is yet to come")
    (tmp_path / "out/shards/.00001.npz.host-7.partial").write_bytes(b"half")
    one = build_corpus([source], tokenizer, tmp_path / "out")
    assert documents_in(one) == expected(tokenizer)


@pytest.mark.parametrize("change", [{"tokens": "x"}, {"lines": -1}, {"documents": None}, {"file": "/etc/passwd"}])
def test_a_record_of_another_form_is_made_again(change, tokenizer, source, tmp_path):
    whole = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    record = tmp_path / "out/shards/00000.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    (tmp_path / "out/manifest.json").unlink()
    again = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    assert (again.shards_made, again.manifest) == (1, whole.manifest)


@pytest.mark.parametrize("manifest", [None, "damaged"])
def test_a_corpus_whose_only_record_is_damaged_is_mended(manifest, tokenizer, source, tmp_path):
    whole = build_corpus([source], tokenizer, tmp_path / "out")
    assert len(whole) == 1
    (tmp_path / "out/shards/00000.json").write_text("[]")
    (tmp_path / "out/manifest.json").unlink()
    if manifest:
        (tmp_path / "out/manifest.json").write_text(manifest)
    assert build_corpus([source], tokenizer, tmp_path / "out").manifest == whole.manifest


CONTRADICTIONS = {
    "no shards": ("shards", lambda m: m.update(shards=[], documents=0, lines=0, tokens=0)),
    "a shard twice": ("shards", lambda m: m.update(shards=m["shards"] * 2, **{n: 2 * m[n] for n in COUNTED})),
    "a shard of another place": ("shards", lambda m: m["shards"][0].update(file="../00000.npz")),
    **{name: (name, lambda m, name=name: m.update({name: m[name] + 1})) for name in COUNTED},
    "no tokens in a shard": ("shards", lambda m: m["shards"][0].pop("tokens")),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_a_manifest_that_does_not_add_up_is_refused_and_mended(contradiction, tokenizer, source, tmp_path):
    whole = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    field, change = CONTRADICTIONS[contradiction]
    manifest = json.loads(json.dumps(to_values(whole.manifest)))
    change(manifest)
    write_json(tmp_path / "out/manifest.json", manifest)
    with pytest.raises(InputError) as caught:
        Corpus.open(tmp_path / "out")
    assert caught.value.path.endswith("manifest.json")
    assert caught.value.field.startswith(field)
    assert build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500).manifest == whole.manifest


@pytest.mark.parametrize("name", COUNTED)
def test_a_count_that_is_not_that_of_the_shard_is_named_and_mended_though_the_checksum_is_right(
    name, tokenizer, source, tmp_path
):
    whole = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    record, manifest = tmp_path / "out/shards/00001.json", to_values(whole.manifest)
    record.write_text(json.dumps(json.loads(record.read_text()) | {name: manifest["shards"][1][name] + 1}))
    manifest["shards"][1][name] += 1
    manifest[name] += 1
    write_json(tmp_path / "out/manifest.json", manifest)
    refused(Corpus.open(tmp_path / "out").verify, by="pretraining.corpus.Corpus.shard", path="shards/00001.npz")
    again = build_corpus([source], tokenizer, tmp_path / "out", shard_bytes=2500)
    assert (again.shards_made, again.manifest) == (1, whole.manifest)


def test_a_users_special_tokens_are_one_piece_and_those_of_a_sequence_are_text(tokenizer, tmp_path):
    source, out = tmp_path / "text.txt", tmp_path / "corpus"
    source.write_text("goes [E1] goes\n[SEP] goes")
    before = build_corpus([source], tokenizer, out)
    marked = copy.deepcopy(tokenizer)
    marked.add_special_tokens([AddedToken("[E1]", special=True)])
    corpus = build_corpus([source], marked, tmp_path / "marked")
    first, second = (marked.encode(text, add_special_tokens=False).ids for text in ("goes [E1] goes", "goes"))
    plain = before.shard(0).tokens[before.shard(0).line_ends[0] :]
    tokens, ends = corpus.shard(0).tokens, corpus.shard(0).line_ends
    assert (tokens[: ends[0]].tolist(), len(first)) == (first, 3)
    np.testing.assert_array_equal(tokens[ends[0] :], plain)
    assert len(plain) > len(second) + 1, "[SEP] is pieces"
    assert corpus.manifest.single_tokens == ("[E1]",)
    assert "single_tokens" not in json.loads((out / "manifest.json").read_text())


def test_shards_of_a_version_that_cut_users_tokens_are_made_again(tokenizer, tmp_path, monkeypatch):
    source, marked = tmp_path / "text.txt", copy.deepcopy(tokenizer)
    source.write_text("goes [E1] goes")
    marked.add_special_tokens([AddedToken("[E1]", special=True)])
    with monkeypatch.context() as patched:
        patched.setattr("distilbert_jax.pretraining.build_corpus._single_tokens", lambda _: ())
        before = build_corpus([source], marked, tmp_path / "corpus")
    after = build_corpus([source], marked, tmp_path / "corpus")
    assert (after.shards_made, after.manifest.tokens) == (1, 3)
    assert before.manifest.tokens > 3


def test_lines_that_show_nothing_separate_no_documents_and_are_told_of(tokenizer, tmp_path, capsys):
    """They are not blank for the original either, whose tokenizer drops what is in them."""
    source = tmp_path / "text.txt"
    source.write_text("goes\n\ufeff\ngoes\n\u200b \u200b\ngoes\n\u3000\ngoes")
    corpus = build_corpus([source], tokenizer, tmp_path / "corpus")
    assert (corpus.manifest.documents, corpus.manifest.tokens) == (2, 4)
    assert "2 lines" in capsys.readouterr().err


def test_two_builds_at_once_do_not_mix_their_shards(tokenizer, source, tmp_path):
    out = tmp_path / "corpus"
    build = lambda: build_corpus([source], tokenizer, out)
    share = lambda host: build_share([source], tokenizer, out, hosts=2, host=host)
    with corpus_module._alone(out, shared=False):
        refused(build, by="pretraining.build_corpus._alone", path=str(out))
        refused(lambda: share(1), by="pretraining.build_corpus._alone", path=str(out))
    assert not out.exists(), "of a call that did nothing something is left"
    with corpus_module._alone(out, shared=True):
        refused(build, by="pretraining.build_corpus._alone", path=str(out))
        share(1)
        share(0)
    assert build().shards_made == 0


def test_a_text_that_is_written_to_while_it_is_read_makes_no_corpus(tokenizer, source, tmp_path, monkeypatch):
    make = corpus_module._make_shards

    def written_to(*arguments):
        result = make(*arguments)
        with source.open("ab") as file:
            file.write(b"one more line")
        return result

    monkeypatch.setattr(corpus_module, "_make_shards", written_to)
    refused(lambda: build_corpus([source], tokenizer, tmp_path / "out"), path=str(source))
    assert not (tmp_path / "out/manifest.json").exists()
    monkeypatch.undo()
    build_corpus([source], tokenizer, tmp_path / "out").verify()
