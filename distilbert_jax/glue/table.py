"""GLUE table: medians and spreads of a model beside the paper's rows, as terminal tables, Markdown, JSON, CSV and a PNG."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from distilbert_jax.base import tables
from distilbert_jax.base.config_io import write_config
from distilbert_jax.base.files import atomic_file, save_figure
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue import bootstrap
from distilbert_jax.glue.references import GLUE, REFERENCES
from distilbert_jax.glue.results import GlueTable, Means, SweepRun, TableRow
from distilbert_jax.glue.summary import PAPER_REMARK, choices, mean_remark, remarks, summary
from distilbert_jax.training.cost import RelativeSpeed

OURS, MAJORITY, PAPER, CARD = "model", "majority", "DistilBERT", "model card"


def means(scores: Mapping[str, float], tasks: Sequence[str]) -> Means:
    """The mean over `tasks` and that without WNLI; None where a score is missing."""
    eight = [name for name in tasks if name != "wnli"]
    mean = lambda names: (
        statistics.fmean(scores[name] for name in names) if names and set(names) <= set(scores) else None
    )
    return Means(mean(tasks), mean(eight))


def table_of(
    model: str, runs: Sequence[SweepRun], teacher: Sequence[SweepRun] = (), cost: RelativeSpeed | None = None
) -> GlueTable:
    """Everything that the table says.

    Args:
        teacher: the teacher's runs, to say how much of its score is retained.
        cost: parameters and speed of model and teacher.
    """
    tasks = summary(runs)
    glue = [name for name in tasks if name in GLUE]
    own = {name: row.median for name, row in tasks.items()}
    rows: dict[str, Mapping[str, float]] = {OURS: own}
    retained = None
    if teacher:
        of_teacher = summary(teacher)
        common = [name for name in tasks if name in of_teacher]
        rows["teacher"] = {name: of_teacher[name].median for name in common}
        retained = bootstrap.compare_runs([runs], [teacher], common)
    rows[MAJORITY] = {name: row.majority for name, row in tasks.items()}
    if glue:
        rows |= {name: {task: scores[task] for task in glue if task in scores} for name, scores in REFERENCES.items()}
        rows[f"minus {PAPER}"] = {name: own[name] - REFERENCES[PAPER][name] for name in glue}
    columns = glue or list(tasks)
    return GlueTable(
        model=model,
        tasks=tasks,
        cost=cost,
        retained=retained,
        rows={name: TableRow(scores, means(scores, columns)) for name, scores in rows.items()},
        remarks=(*mean_remark(tasks), *remarks(tasks), *((PAPER_REMARK,) if glue else ())),
    )


def _cells(table: GlueTable) -> list[list[str]]:
    """The comparison, models as rows; the first line is the head."""
    tasks = list(table.tasks)
    glue = [name for name in tasks if name in GLUE] or tasks
    form = lambda value, sign="": "–" if value is None else f"{value:{sign}.1f}"
    both = "wnli" in glue and len(glue) > 1
    head = ["", f"mean of {len(glue)}", *(["no WNLI"] if both else [])]
    lines = [[*head, *(find_task(name).title for name in tasks)]]
    for name, row in table.rows.items():
        sign = "+" if name.startswith("minus") else ""
        mean = [form(row.means.all, sign), *([form(row.means.without_wnli, sign)] if both else [])]
        lines.append([name, *mean, *(form(row.scores.get(task), sign) for task in tasks)])
    return lines


def _details(table: GlueTable) -> list[list[str]]:
    """A line for each task; the first is the head."""
    lines = [["task", "median", "min–max", "seeds", "failed", "metrics", "rows train / dev", "cut", "s a seed"]]
    for name, row in table.tasks.items():
        metrics = ", ".join(
            f"{metric} {' / '.join(f'{values[metric]:.1f}' for values in row.metrics.values())}"
            for metric in find_task(name).metrics
        )
        lines.append(
            [
                find_task(name).title,
                f"{row.median:.1f}",
                f"{row.min:.1f}–{row.max:.1f}",
                str(row.seeds),
                str(row.failed),
                metrics,
                " / ".join(f"{rows:,}" for rows in (row.train_rows, *row.dev_rows.values())),
                f"{row.cut_share:.1%}",
                f"{row.train_seconds:.0f}",
            ]
        )
    return lines


def _closing(table: GlueTable) -> list[str]:
    """Lines below the tables: choices, the teacher, remarks."""
    lines = choices(table.tasks)
    if table.retained:
        share, difference = table.retained.share, table.retained.difference
        kept = (
            f"Of the teacher's mean score (WNLI aside) {share.value:.1f} % are retained (95 % interval {share.low:.1f} to "
            f"{share.high:.1f})"
            if share
            else "The teacher's mean score (WNLI aside) is not above 0"
        )
        lines.append(f"{kept}; difference {difference.value:+.1f} ({difference.low:+.1f} to {difference.high:+.1f}).")
    if cost := table.cost:
        lines.append(
            f"Parameters of the encoder: {cost.parameters:,} of the teacher's {cost.teacher_parameters:,} "
            f"({cost.parameters / cost.teacher_parameters:.0%}); at batch {cost.batch_size} × {cost.length} tokens "
            f"{cost.ratio:.2f} times as fast ({cost.ratio_min:.2f} to {cost.ratio_max:.2f}), {cost.device}."
        )
    return [*lines, *table.remarks]


def terminal(table: GlueTable) -> list[Any]:
    """The tables and lines for the terminal."""
    views: list[Any] = []
    # Tasks as rows, which fits 80 characters; on paper they are columns.
    lines = _cells(table)
    if "teacher" in table.rows:  # a column more; what the card says otherwise than the paper is in the remarks
        lines = [line for line in lines if line[0] != CARD]
    turned = [list(line) for line in zip(*lines, strict=True)]
    for title, lines in ((table.model, turned), ("over seeds", [line[:-2] for line in _details(table)])):
        view = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for i, column in enumerate(lines[0]):
            longest = max(map(len, column.split()), default=0)  # a head is broken between its words alone
            view.add_column(column, justify="left" if not i or column == "metrics" else "right", min_width=longest)
        for line in lines[1:]:
            view.add_row(*line)
        views.append(view)
    return [*views, *_closing(table)]


def markdown(table: GlueTable) -> str:
    """The same as Markdown."""
    blocks = [tables.markdown(lines) for lines in (_cells(table), _details(table))]
    return f"**{table.model}**\n\n" + "\n".join(blocks) + "\n" + "".join(f"- {line}\n" for line in _closing(table))


def rows_of(runs: Sequence[SweepRun]) -> str:
    """Every figure of every run as CSV: task, seed, split, metric, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "seed", "split", "metric", "value"])
    for run in runs:
        result = run.result
        for split, values in result.scores.items():
            writer.writerows([result.task, result.seed, split, metric, value] for metric, value in values.items())
    return text.getvalue()


def plot(table: GlueTable, path: Path) -> None:
    """Dots for seeds, bars for medians, ticks for the references."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = table.tasks
    figure, axes = pyplot.subplots(figsize=(max(2.0 + 1.05 * len(tasks), 6.4), 4.4), layout="constrained")
    places = np.arange(len(tasks))
    axes.bar(places, [row.median for row in tasks.values()], 0.6, color="C0", alpha=0.35, label="median")
    for place, row in zip(places, tasks.values(), strict=True):
        scores = list(row.scores.values())
        spread = np.linspace(-0.12, 0.12, len(scores)) if len(scores) > 1 else [0.0]
        axes.scatter(place + np.array(spread), scores, 14, color="C0", zorder=3, label="seeds" if not place else None)
    for i, (name, row) in enumerate(table.rows.items()):
        if name not in (OURS, CARD) and not name.startswith("minus"):  # the card differs in STS-B alone
            there = [(places[j], row.scores[task]) for j, task in enumerate(tasks) if task in row.scores]
            x, y = zip(*there, strict=True)
            axes.hlines(y, np.array(x) - 0.36, np.array(x) + 0.36, color=f"C{i}", linewidth=1.6, label=name)
    axes.set_xticks(places, [find_task(name).title for name in tasks])
    axes.set(ylabel="dev score × 100", title=f"{'/'.join(Path(table.model).parts[-2:])}: seeds, medians, references")
    axes.grid(axis="y", alpha=0.25)
    figure.legend(fontsize="small", ncols=4, loc="outside lower center")
    save_figure(figure, path)


def write(table: GlueTable, runs: Sequence[SweepRun], directory: Path) -> None:
    """glue.json, glue.md, glue.csv and glue.png in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    write_config(table, directory / "glue.json")
    for name, text in (("glue.md", markdown(table)), ("glue.csv", rows_of(runs))):
        with atomic_file(directory / name) as file:
            file.write(text.encode())
    plot(table, directory / "glue.png")
