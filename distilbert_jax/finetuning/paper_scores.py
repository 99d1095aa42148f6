"""Scores as in Table 2 of Sanh et al. 2019 (arXiv 1910.01108): IMDb's reviews and SQuAD's questions, without and with a second
distillation step, from a teacher that was fine-tuned on these questions."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from distilbert_jax.base import tables
from distilbert_jax.base.config_io import write_config
from distilbert_jax.base.files import as_name, atomic_file
from distilbert_jax.base.hub import locate
from distilbert_jax.config import DistillConfig, FinetuneConfig
from distilbert_jax.errors import InputError, counted
from distilbert_jax.finetuning.own import own_task
from distilbert_jax.finetuning.preparation import check_models
from distilbert_jax.finetuning.roles import Roles
from distilbert_jax.finetuning.spread import DIVERGED, Spread, finetune_spread
from distilbert_jax.finetuning.tasks import Task
from distilbert_jax.models.hf_format import check_sizes, read_config, read_headers
from distilbert_jax.text.tokenizer import BertTokenizer, check_fit, same_ids
from distilbert_jax.training import distributed

PaperTask = Literal["imdb", "squad"]
Column = Literal["imdb", "squad", "squad_distilled"]


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where the rows are, what their columns hold, and how long they are trained. Lengths, rates and epochs of SQuAD are the usual
    ones (BERT's and its successors'); the paper names none of IMDb's, and reviews are cut at what a model has positions for."""

    hub: str
    train: str
    dev: str  # IMDb has no other than test
    roles: Roles
    length: int
    batch_size: int
    learning_rate: float
    epochs: int


SOURCES: Mapping[PaperTask, _Source] = MappingProxyType(
    {
        "imdb": _Source("stanfordnlp/imdb", "train", "test", Roles(text="text", label=("label",)), 512, 32, 2e-5, 3),
        "squad": _Source(
            "rajpurkar/squad",
            "train",
            "validation",
            Roles(question="question", context="context", answers="answers"),
            384,
            12,
            3e-5,
            2,
        ),
    }
)
_TITLES: Mapping[Column, str] = MappingProxyType(
    {"imdb": "IMDb", "squad": "SQuAD", "squad_distilled": "SQuAD, second step"}
)
# As published: name, IMDb's accuracy, exact match and F1 of SQuAD.
PUBLISHED = (
    ("BERT-base (paper)", 93.46, 81.2, 88.5),
    ("DistilBERT (paper)", 92.82, 77.7, 85.8),
    ("DistilBERT, second step (paper)", None, 79.1, 86.9),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperScores:
    """What a model came to, over its seeds."""

    model: str
    scores: Mapping[Column, Spread]
    lengths: Mapping[Column, int]  # tokens of a row


def paper_scores(
    models: Sequence[str],
    config: FinetuneConfig,
    *,
    out: Path,
    data: str = "",
    tasks: Sequence[PaperTask] = ("imdb", "squad"),
    teacher: str = "",
    seeds: Sequence[int] = (0,),
) -> list[PaperScores]:
    """Fine-tune each model on each task with each seed. Whatever ended before is found in `out`; all data are read, and all models
    looked at, before.

    Args:
        models: HF directories or hub ids.
        config: what is the same in all runs: precision, mesh, micro-batches, `max_train_rows`, and `epochs`, None: the task's own.
            A model with fewer positions than a task's length, or a tokenizer that takes fewer tokens, reads as many as that.
        out: directory of the runs, `<model>/<column>`; `<model>/scores.json` and paper.md are written there.
        data: folder with imdb/{train,test}.parquet and squad/{train,validation}.parquet; "": from the hub.
        teacher: HF directory of a model fine-tuned on SQuAD, for the second step; "": none.

    Raises:
        InputError: no model, task or seed, or one twice; a teacher without SQuAD, or with another tokenizer; what `own_task`,
            `check_models` and `finetune_spread` refuse.
    """
    for option, given in (("--model", models), ("--tasks", tasks), ("--seeds", seeds)):
        if not given or len(set(given)) < len(given):
            raise InputError(f"{option} {' '.join(map(str, given))}: expected one or more, each once", field=option)
    places = [as_name(model, "model") for model in models]
    if twice := next((models[i] for i, place in enumerate(places) if place in places[:i]), None):
        raise InputError(f"--model {twice}: two models of one name", field="--model")
    if teacher and "squad" not in tasks:
        raise InputError(
            "--teacher: the second step is SQuAD's; add squad to --tasks, or leave it out", field="--teacher"
        )
    limits = distributed.on_all_processes(lambda: _limits(models, teacher))
    known = distributed.on_all_processes(lambda: _tasks(tasks, data))

    def setting(model: str, name: PaperTask, place: Path, teacher: str = "") -> FinetuneConfig:
        source = SOURCES[name]
        return dataclasses.replace(
            config,
            model=model,
            task=known[name].name,
            length=min(source.length, *(limits[one] for one in (model, teacher) if one)),
            batch_size=source.batch_size,
            epochs=config.epochs or source.epochs,
            distill=DistillConfig(teacher),  # α 0.5, T 2, as in the original's script
            optimizer=dataclasses.replace(config.optimizer, learning_rate=source.learning_rate),
            run=dataclasses.replace(config.run, directory=str(place)),
        )

    settings: dict[str, dict[Column, FinetuneConfig]] = {}
    for model, place in zip(models, places, strict=True):
        of_model: dict[Column, FinetuneConfig] = {}
        if teacher:
            of_model["squad_distilled"] = setting(model, "squad", out / place / "squad_distilled", teacher)
        for name in known:
            of_model[name] = setting(model, name, out / place / name)
        settings[model] = of_model
    if teacher:
        distributed.on_all_processes(lambda: check_models(settings[models[0]]["squad_distilled"], known["squad"]))
    results = [
        PaperScores(
            model=model,
            scores={column: finetune_spread(one, seeds) for column, one in of_model.items()},
            lengths={column: one.length for column, one in of_model.items()},
        )
        for model, of_model in settings.items()
    ]
    distributed.on_main_process(lambda: _write(results, out))
    return results


def _limits(models: Sequence[str], teacher: str) -> dict[str, int]:
    """How many tokens each model reads at most, the teacher among them: its positions, or what its tokenizer takes.

    Raises:
        InputError: files of one are not there or damaged, its vocabulary is too small, or its tokenizer is not the teacher's.
    """
    readers = {name: BertTokenizer.from_pretrained(name) for name in (*models, *((teacher,) if teacher else ()))}
    limits = {}
    for name, reader in readers.items():
        directory = locate(name)
        model = read_config(directory)
        check_sizes(model, read_headers(directory), name)
        check_fit(reader.tokenizer, model.vocab_size, name)
        if teacher and not same_ids(reader.tokenizer, readers[teacher].tokenizer):
            raise InputError(
                f"--teacher {teacher}: its tokenizer is not that of {name}; ids would differ",
                path=teacher,
                field="--teacher",
            )
        limits[name] = min(model.max_length, reader.max_length)
    return limits


def _tasks(names: Sequence[PaperTask], data: str) -> dict[PaperTask, Task]:
    for file in (
        Path(data, name, f"{split}.parquet") for name in names for split in (SOURCES[name].train, SOURCES[name].dev)
    ):
        if data and not file.is_file():
            raise InputError(f"--data {data}: {file} is not there", path=file, field="--data")
    tasks: dict[PaperTask, Task] = {}
    for name in names:
        source = SOURCES[name]
        train, dev = (
            str(Path(data, name, f"{split}.parquet")) if data else f"{source.hub}:{split}"
            for split in (source.train, source.dev)
        )
        tasks[name] = own_task(train, dev, roles=source.roles)
    return tasks


def lines(results: Sequence[PaperScores]) -> list[tuple[str, ...]]:
    """The table: a line for each model, one more for the second step, then the paper's."""
    number = lambda value, digits: "–" if value is None else f"{value:.{digits}f}"

    def metric(scores: Mapping[Column, Spread], column: Column, name: str, digits: int) -> str:
        given = scores.get(column)
        if given and given.is_diverged:
            return "diverged"
        return number(given and given.metrics[name], digits)

    rows: list[tuple[str, ...]] = [("model", "IMDb accuracy", "SQuAD exact match", "SQuAD F1")]
    for one in results:
        of_squad = [metric(one.scores, "squad", name, 1) for name in ("exact_match", "f1")]
        rows.append((one.model, metric(one.scores, "imdb", "accuracy", 2), *of_squad))
        if "squad_distilled" in one.scores:
            second = [metric(one.scores, "squad_distilled", name, 1) for name in ("exact_match", "f1")]
            rows.append((f"{one.model}, second step", "–", *second))
    return rows + [(name, number(imdb, 2), number(em, 1), number(f1, 1)) for name, imdb, em, f1 in PUBLISHED]


def title(results: Sequence[PaperScores]) -> str:
    """What the table shows: medians over how many seeds."""
    number = len(next(iter(results[0].scores.values())).scores)
    return f"medians of {number} seeds" if number > 1 else "one seed"


def remarks(results: Sequence[PaperScores]) -> list[str]:
    """What has to be known of the figures: rows, epochs and lengths, of each model where they differ, and the seeds that failed."""
    said = [line for column in _TITLES for line in _trained(results, column)]
    for one in results:
        for column, spread in one.scores.items():
            for seed, why in spread.failed.items():
                counts = " and counts as 0" if why.startswith(DIVERGED) else ""
                said.append(f"{one.model}, {_TITLES[column]}: seed {seed} failed{counts}: {why}.")
    return said


def _trained(results: Sequence[PaperScores], column: Column) -> list[str]:
    """A line for each way in which the models of a column were trained and scored."""
    models: dict[str, list[str]] = {}
    for one in results:
        if spread := one.scores.get(column):
            rows = f"{spread.train_rows:,} rows of train, {spread.scored_rows:,} scored"
            how = f"{rows}, {counted(spread.epochs, 'epoch')}, {one.lengths[column]} tokens"
            models.setdefault(how, []).append(one.model)
    who = lambda names: f" of {', '.join(names)}" if len(models) > 1 else ""
    return [f"{_TITLES[column]}{who(names)}: {how}." for how, names in models.items()]


def _write(results: Sequence[PaperScores], out: Path) -> None:
    for one in results:
        write_config(one, out / as_name(one.model, "model") / "scores.json")
    below = "".join(f"- {line}\n" for line in remarks(results))
    with atomic_file(out / "paper.md") as file:
        file.write(f"{title(results)}\n\n{tables.markdown(lines(results))}\n{below}".encode())
