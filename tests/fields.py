"""The page of fields of Hugging Face's files, `docs/fields.md`, made from the tables in the code by `python -m tests.fields`."""

import importlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from distilbert_jax.base.file_fields import FileField, Treatment
from distilbert_jax.models.config_fields import CONFIG_FIELDS

PAGE = Path(__file__).parents[1] / "docs" / "fields.md"
PACKAGE = Path(__file__).parents[1] / "distilbert_jax"
TABLES = ("models/config_fields.py", "text/tokenizer_fields.py")
HEAD = """# Fields of Hugging Face's files

What is done with each field that transformers reads for BERT and DistilBERT: *obeyed* (outputs, and what `save_pretrained` writes,
are those of transformers), *refused* unless it has one of the values named (one line says so before anything runs), or *without
effect*. A field of config.json that is not in the table is a user's own: transformers computes the same with it, and so does this
package.

Made from {tables} by `python -m tests.fields`. `make parity` gives each field other
values, compares the outputs with transformers before and after a round trip, and fails where a newer transformers has a field that
is not here.
"""
ORDER = (Treatment.OBEYED, Treatment.REFUSED, Treatment.WITHOUT_EFFECT)


def _tokenizer_fields() -> tuple[FileField, ...]:
    try:
        return importlib.import_module("distilbert_jax.text.tokenizer_fields").FIELDS
    except ModuleNotFoundError:
        return ()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _treatment(row: FileField) -> str:
    if row.treatment is not Treatment.REFUSED:
        return row.treatment.value + (f"; refused unless {row.form.words}" if row.form else "")
    values = ", ".join(f"`{json.dumps(value)}`" for value in row.accepted)
    return f"refused unless {values}" if values else "refused"


def _table(rows: Iterable[FileField]) -> Iterator[str]:
    yield "| field | of | treatment | why |"
    yield "| --- | --- | --- | --- |"
    for row in sorted(rows, key=lambda row: ORDER.index(row.treatment)):
        families = ", ".join(sorted(row.families)) or "all"
        yield f"| `{_cell(row.name)}` | {families} | {_cell(_treatment(row))} | {_cell(row.reason)} |"


def page() -> str:
    """The text of docs/fields.md."""
    rows = (*CONFIG_FIELDS, *_tokenizer_fields())
    tables = [f"`{file}`" for file in TABLES if (PACKAGE / file).is_file()]
    lines = [HEAD.format(tables=" and ".join(tables))]
    for file in dict.fromkeys(row.file for row in rows):
        lines += [f"## {file}", "", *_table(row for row in rows if row.file == file), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
