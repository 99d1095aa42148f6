import io
import zipfile

import numpy as np
import pytest

from distilbert_jax.finetuning.predictions import write_predictions
from distilbert_jax.finetuning.tasks import TASKS, find_task
from distilbert_jax.glue.results import SweepRun
from distilbert_jax.glue.submission import HEADER, check, check_path, spelled, write_submission
from tests.glue.examples import result
from tests.runs import refused


def made(tmp_path, task, seed, score, *, tested=True, diverged=""):
    """A run with random predictions of all that its model is asked for."""
    directory = tmp_path / f"{task}-{seed}"
    directory.mkdir()
    rng = np.random.default_rng(seed)
    files = {}
    for of in (find_task(task), *(other for other in TASKS.values() if other.trained_by == task)):
        for split, file in of.submission.items():
            files[file] = "fingerprint"
            logits = rng.normal(size=(of.rows[split], max(len(of.labels), 1))) * 4
            write_predictions(directory, file, {"": logits.astype(np.float32)})
    return SweepRun(result(task, seed, score, tested=files if tested else {}, diverged=diverged), directory)


def read(path, name):
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode().splitlines()


def test_labels_are_spelled_as_the_server_spells_them():
    two = np.array([[1, 0], [0, 1]], np.float32)
    assert spelled(find_task("rte"), two) == ["entailment", "not_entailment"]
    assert spelled(find_task("qnli"), two) == ["entailment", "not_entailment"]
    for task in ("cola", "sst2", "mrpc", "qqp", "wnli"):
        assert spelled(find_task(task), two) == ["0", "1"]
    for task in ("mnli", "ax"):
        assert spelled(find_task(task), np.eye(3, dtype=np.float32)) == ["entailment", "neutral", "contradiction"]
    numbers = np.array([[-0.3], [-0.0], [2.34567], [5.2]], np.float32)
    assert spelled(find_task("stsb"), numbers) == ["0.000", "0.000", "2.346", "5.000"]


def test_the_zip_holds_the_best_seed_of_each_task_and_nothing_invented(tmp_path):
    results = [
        made(tmp_path, "rte", 0, 60.0),
        made(tmp_path, "rte", 1, 65.0),
        made(tmp_path, "rte", 2, 0.0, diverged="step 3"),
        made(tmp_path, "mnli", 4, 80.0),
        made(tmp_path, "stsb", 0, 85.0),
        made(tmp_path, "cola", 0, 50.0, tested=False),
        SweepRun(result("demo-topic", 0, 90.0), tmp_path),
    ]
    path = tmp_path / "glue.zip"
    seeds = write_submission(results, str(path))
    assert seeds == {"RTE.tsv": 1, "MNLI-m.tsv": 4, "MNLI-mm.tsv": 4, "AX.tsv": 4, "STS-B.tsv": 0}
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == set(seeds)
    rte = read(path, "RTE.tsv")
    assert (rte[0], len(rte)) == ("index\tprediction", 3001)
    expected = np.load(tmp_path / "rte-1/predictions/RTE.tsv.npy").argmax(-1)
    assert rte[1:] == [f"{i}\t{('entailment', 'not_entailment')[label]}" for i, label in enumerate(expected)]
    assert len(read(path, "AX.tsv")) == 1105
    before = path.read_bytes()
    write_submission(results, str(path))
    assert path.read_bytes() == before


def test_without_predictions_nothing_is_written(tmp_path):
    results = [made(tmp_path, "rte", 0, 60.0, tested=False)]
    refused(
        lambda: write_submission(results, str(tmp_path / "glue.zip")),
        by="glue.submission.write_submission",
        field="--submit",
    )
    assert not (tmp_path / "glue.zip").exists()


def test_predictions_of_another_number_of_rows_are_refused(tmp_path):
    one = made(tmp_path, "wnli", 0, 60.0)
    file = tmp_path / "wnli-0/predictions/WNLI.tsv.npy"
    np.save(file, np.load(file)[:-1])
    refused(lambda: write_submission([one], str(tmp_path / "glue.zip")), "145", "146", by="glue.submission.check")
    assert not (tmp_path / "glue.zip").exists()


@pytest.mark.parametrize(
    ("name", "change", "shown", "told"),
    [
        ("WNLI.tsv", lambda lines: ["id\tlabel", *lines[1:]], "'id\\tlabel'", {"hint": HEADER}),
        ("WNLI.tsv", lambda lines: lines[:-1], "145", {}),
        ("WNLI.tsv", lambda lines: [*lines[:-1], "145\t2"], "145\\t2", {"row": 145}),
        ("WNLI.tsv", lambda lines: [*lines[:-1], "145\tentailment"], "", {"row": 145}),
        ("WNLI.tsv", lambda lines: [*lines[:-1], "144\t1"], "", {"row": 145}),
        ("STS-B.tsv", lambda lines: [*lines[:-1], "1378\t5.001"], "", {"row": 1378}),
        ("STS-B.tsv", lambda lines: [*lines[:-1], "1378\t-0.001"], "", {"row": 1378}),
        ("STS-B.tsv", lambda lines: [*lines[:-1], "1378\tnan"], "", {"row": 1378}),
        ("AX.tsv", lambda lines: [*lines[:-1], "1103\tnot_entailment"], "", {"row": 1103}),
        ("WMLI.tsv", lambda lines: lines, "", {"hint": "WNLI.tsv"}),
    ],
)
def test_a_wrong_file_is_found(name, change, shown, told):
    answers = {"WNLI.tsv": (146, "1"), "STS-B.tsv": (1379, "2.500"), "AX.tsv": (1104, "neutral"), "WMLI.tsv": (1, "1")}
    rows, answer = answers[name]
    lines = ["index\tprediction", *(f"{i}\t{answer}" for i in range(rows))]

    def zipped(lines):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(name, "\n".join(lines) + "\n")
        return packed

    if name != "WMLI.tsv":
        check(zipped(lines), "glue.zip")
    refused(lambda: check(zipped(change(lines)), "glue.zip"), shown, path="glue.zip", field=name, **told)


def test_a_place_where_no_zip_can_be_is_refused_at_once(tmp_path):
    check_path(str(tmp_path / "glue.zip"), ["rte"])
    refused(lambda: check_path(str(tmp_path / "glue.tsv"), ["rte"]), by="glue.submission.check_path", field="--submit")
    refused(
        lambda: check_path(str(tmp_path / "nowhere/glue.zip"), ["rte"]),
        by="base.files.check_writable",
        field="--submit",
    )
    refused(
        lambda: check_path(str(tmp_path / "glue.zip"), ["demo-topic"]),
        by="glue.submission.check_path",
        field="--submit",
    )
