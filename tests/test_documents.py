"""Documents for people: the Python, the commands, the files and the links in them are there."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import tyro
import yaml
from flax import nnx

import distilbert_jax
import evaluate
import train
from distilbert_jax.cli import main as cli
from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError
from distilbert_jax.models import (
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForTokenClassification,
)
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.text.wordpiece import train_wordpiece
from tests.runs import ROOT

# docs/results tells what was run at a commit, with the commands of that time.
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
}
RESULTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.glob("docs/results/*.md")
}
STUDENT = "runs/demo/student/model"
MODELS = {
    STUDENT: DistilBertForMaskedLM,
    "runs/entities/model": DistilBertForTokenClassification,
    "runs/answers/model": DistilBertForQuestionAnswering,
}
PYTHON = [
    (name, code) for name, text in DOCUMENTS.items() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
]


def commands() -> list[tuple[str, str]]:
    """(Document, command) of every command in a block of its own, up to what is left to the reader: `…`, `[…]`, a comment."""
    found = []
    for name, text in DOCUMENTS.items():
        for block in re.findall(r"```(?:\w*)\n(.*?)```", text, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if match := re.search(r"(distilbert-jax|python train\.py|python evaluate\.py)( .*)", line):
                    found.append((name, " ".join(match.group().split())))
    return sorted(set(found))


@pytest.fixture
def parse_only(monkeypatch):
    """Commands end where their arguments have been read, before any work: with `StopIteration`."""
    read = tyro.cli

    def stop(*args, **options):
        read(*args, **options)
        raise StopIteration

    monkeypatch.setattr(tyro, "cli", stop)


def arguments(command: str) -> list[str]:
    inner = command.removeprefix("python ").removesuffix('…"')  # a command in another's quotes
    words = shlex.split(inner, comments=True)
    return [word for word in words if word != "…"]


@pytest.mark.parametrize(("document", "command"), commands())
def test_a_command_of_a_document_is_one_that_the_parser_takes(document, command, parse_only, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *rest = arguments(command)
    main = {"distilbert-jax": cli.main, "train.py": train.main, "evaluate.py": evaluate.main}[program]
    with pytest.raises((StopIteration, InputError)) as caught:
        main(rest)
    if caught.type is not StopIteration:
        lacks_what_the_reader_has = "…" in command and "required" in str(caught.value)
        assert lacks_what_the_reader_has, f"{document}: {caught.value}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_command_in_a_sentence_has_a_name_that_is_known(document):
    text = DOCUMENTS[document]
    if document == "CHANGELOG.md":
        text = text.partition("### Changed: Python")[0]
    for name in re.findall(r"`distilbert-jax ([a-z][\w-]*)", text):
        assert name in cli.COMMANDS, f"{document}: distilbert-jax {name}"
    for name in re.findall(r"`make ([a-z][\w-]*)", text):
        assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{document}: make {name}"


@pytest.mark.parametrize("document", [*DOCUMENTS, *RESULTS])
def test_links_lead_to_a_file_and_to_a_heading_of_it(document):
    text = {**DOCUMENTS, **RESULTS}[document]
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, heading = target.partition("#")
        file = (ROOT / document).parent / name if name else ROOT / document
        assert file.exists(), f"{document}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, f"{document}: {target}"


OF_A_RUN = ("tensorboard/", "checkpoints/", "model/", "predictions/", "distilbert_jax/configs/", "docs/_build/html/")
OF_THE_ORIGINAL = ("distillation/",)  # docs/recipe.md compares with it


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_files_that_a_document_names_are_there(document):
    for name in re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.py|(?:[\w.-]+/)+)[`:]", DOCUMENTS[document]):
        if name not in (*OF_A_RUN, *OF_THE_ORIGINAL):
            assert any((place / name).exists() for place in (ROOT, ROOT / "distilbert_jax")), f"{document}: {name}"


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Small models whose words are the documents', by what the documents call them."""
    tokenizer = train_wordpiece((line for text in DOCUMENTS.values() for line in text.splitlines()), 400)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    sizes["max_position_embeddings"] = 64  # as the demo's
    config = ModelConfig.distilbert_base(vocab_size=tokenizer.get_vocab_size(), **sizes)
    paths = {name: tmp_path_factory.mktemp("documents") / "model" for name in MODELS}
    for name, path in paths.items():
        MODELS[name](config, rngs=nnx.Rngs(0)).save_pretrained(path, tokenizer)
    return paths


@pytest.mark.parametrize("block", range(len(PYTHON)))
def test_the_python_of_a_document_runs(block, directories):
    document, code = PYTHON[block]
    for name, path in directories.items():
        code = code.replace(name, str(path))
    assert any(str(path) in code for path in directories.values())
    names: dict = {}
    exec(compile(code, document, "exec"), names)
    hidden = read_config(directories[STUDENT]).hidden_size
    if "features" in names:
        assert names["features"].shape[::2] == (1, hidden)
    if "vectors" in names:
        assert names["vectors"].shape == (2, hidden)
    if "output" in names:
        assert names["output"].logits.shape[0] == 2


def test_the_api_reference_has_every_name_of_the_front_door_once():
    reference = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    names = re.findall(r"^\.\. auto(?:class|function):: distilbert_jax\.(\w+)$", reference, re.MULTILINE)
    assert sorted(names) == sorted(set(distilbert_jax.__all__) - {"__version__"})


def test_every_document_is_a_page_of_the_site():
    contents = (ROOT / "docs" / "index.rst").read_text(encoding="utf-8")
    pages = re.findall(r"^   (?:.*<)?([\w/.*-]+)>?$", contents, re.MULTILINE)
    listed = {page.removeprefix("/") if page.startswith("/") else f"docs/{page}" for page in pages}
    assert "docs/results/*" in listed
    assert {name.removesuffix(".md") for name in DOCUMENTS} <= listed


def test_the_extras_that_installing_tells_of_are_those_there_are():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| (`.*?) \|", DOCUMENTS["docs/install.md"], re.MULTILINE)
    assert sorted(re.findall(r"`([\w-]+)`", " ".join(rows))) == sorted(settings["project"]["optional-dependencies"])


def test_the_citation_is_of_this_version_and_licence():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == distilbert_jax.__version__
    assert f"\n## {distilbert_jax.__version__}\n" in DOCUMENTS["CHANGELOG.md"], "the release workflow asks for it, too"
    assert citation["license"] == settings["project"]["license"]
    assert [author["family-names"] for author in citation["references"][0]["authors"]] == [
        "Sanh",
        "Debut",
        "Chaumond",
        "Wolf",
    ]


def test_the_first_block_is_five_lines():
    assert len(next(code for name, code in PYTHON if name == "README.md").splitlines()) == 5


def test_documents_name_no_place_of_one_machine():
    for name, text in DOCUMENTS.items():
        for place in ("/root/", "/tmp/", f"{Path.home()}/"):
            assert place not in text, f"{name}: {place}"
