"""Run the notebook on the demo's models and keep what its cells give: `make notebook`, after `make demo`."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FILE = Path(__file__).with_name("explore.ipynb")
LARGEST = 400_000  # bytes of the file, pictures included


def main() -> None:
    notebook = nbformat.read(FILE, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False).execute(cwd=FILE.parent)
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of this machine
    text = nbformat.writes(notebook) + "\n"
    for here in {str(Path.home()), sys.prefix, str(FILE.parents[1])}:
        if here in text:
            sys.exit(f"an output names {here}, a path of this machine; nothing is written")
    if len(text) > LARGEST:
        sys.exit(f"{len(text):,} bytes, more than {LARGEST:,}; nothing is written")
    FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
