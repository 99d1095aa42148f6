"""The notebook runs from its first cell to its last, on models that are here."""

import base64
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from distilbert_jax.cli.prepare import student as write_student

FILE = Path(__file__).parents[1] / "notebooks" / "explore.ipynb"


@pytest.fixture(scope="module")
def executed(world, tmp_path_factory):
    """The notebook after its run, its models those of the tests."""
    student = tmp_path_factory.mktemp("notebook") / "student"
    write_student(world.teacher, str(student), layers=(0,))
    notebook = nbformat.read(FILE, as_version=4)
    for cell in notebook.cells:
        for name, directory in (("teacher", world.teacher), ("student", student)):
            cell.source = cell.source.replace(f"../runs/demo/{name}/model", str(directory))
        cell.source = cell.source.replace(
            '["string", "file", "new"]', '["reda", "blueb"]'
        )  # words that these models know
    return NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=FILE.parent)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook):
    data = [output.data for output in outputs(notebook) if "data" in output]
    return [base64.b64decode(entry["image/png"]) for entry in data if "image/png" in entry]


def test_the_notebook_is_kept_with_what_its_cells_give_and_no_path_of_a_machine():
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)], "run once, from first to last"
    assert all(cell.outputs for cell in cells[1:])
    kept = json.dumps(outputs(notebook))
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|work|Users)/", re.sub(r'"image/png": "[^"]*"', "", kept))
    assert len(pictures(notebook)) == 3
    assert FILE.stat().st_size < 400_000


@pytest.mark.slow
def test_every_cell_runs_and_nothing_unexpected_is_told(executed):
    told = "".join(output.text for output in outputs(executed) if output.get("name") == "stderr").splitlines()
    expected = ": not used here: vocab_", "both sides are the same tokens"  # to a tokenizer without the card's words
    assert [line for line in told if not any(part in line for part in expected)] == []
    assert all(cell.outputs for cell in executed.cells[2:] if cell.cell_type == "code")


@pytest.mark.slow
def test_answers_are_tables_and_three_pictures_are_drawn(executed):
    data = [output.data for output in outputs(executed) if "data" in output]
    assert sum("<table" in entry.get("text/html", "") for entry in data) >= 3
    assert len(pictures(executed)) == 3
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 5000 for picture in pictures(executed))
