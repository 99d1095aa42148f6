"""Tables and plots of a report, from the figures of several pre-training runs."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rich.table import Table

from distilbert_jax.base import tables
from distilbert_jax.base.files import save_figure
from distilbert_jax.experiments.figures import RunFigures
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.results import Interval
from distilbert_jax.training.cost import RelativeSpeed
from distilbert_jax.training.logging import read_metrics

T = TypeVar("T")

_MEAN = "mean score"


def _title(task: str) -> str:
    return f"{task}, {' + '.join(find_task(task).metrics)}"


def _interval(one: Interval, sign: str = "") -> str:
    return f"{one.value:{sign}.1f} ({one.low:{sign}.1f} to {one.high:{sign}.1f})"


def _ratio(one: RelativeSpeed) -> str:
    return f"{one.ratio:.2f} ({one.ratio_min:.2f} to {one.ratio_max:.2f})"


def _lines(rows: Mapping[str, RunFigures]) -> list[list[str]]:
    """A line a figure: its title, then its value in every run; what no run has is left out. The first line names the runs."""
    runs, lines = list(rows.values()), [["", *rows]]

    def line(title: str, values: Sequence[T | None], say: Callable[[T], str]) -> None:
        if any(values):
            lines.append([title, *("–" if value is None else say(value) for value in values)])

    for title, name, form, scale in (
        ("layers", "layers", "{:d}", 1),
        ("parameters, head included", "parameters", "{:,d}", 1),
        ("steps", "steps", "{:,d}", 1),
        ("training, seconds", "train_seconds", "{:.0f}", 1),
        ("training, TFLOP", "train_flops", "{:.4g}", 1e-12),
        ("masked-LM loss, nats", "mlm_loss", "{:.3f}", 1),
        ("masked-LM accuracy", "mlm_accuracy", "{:.1%}", 1),
        ("next-sentence loss, nats", "loss_nsp", "{:.3f}", 1),
        ("next-sentence accuracy", "nsp_accuracy", "{:.1%}", 1),
        ("KL to the teacher, nats", "kl_to_teacher", "{:.3f}", 1),
        ("encoder, batch 32, tokens/s", "tokens_per_second", "{:,d}", 1),
        ("fine-tuning, seconds", "tuning_seconds", "{:,.0f}", 1),
        ("fine-tuning, TFLOP", "tuning_flops", "{:.4g}", 1e-12),
        (_MEAN, "score", "{:.1f}", 1),
    ):
        line(title, [getattr(row, name) for row in runs], lambda value, form=form, by=scale: form.format(value * by))
    for name in dict.fromkeys(name for row in runs for name in row.heldout_parts):
        title = f"{name.removeprefix('loss_')}, held out in the run"
        line(title, [row.heldout_parts.get(name) for row in runs], "{:.4g}".format)
    for task in dict.fromkeys(task for row in runs for task in row.tasks):
        line(_title(task), [f"{row.tasks[task]:.1f}" if task in row.tasks else None for row in runs], str)
    against = next((row.against.name for row in runs if row.against), "")
    line("% of the teacher's score", [row.of_teacher and row.of_teacher.share for row in runs], _interval)
    line(f"minus {against}", [row.against and row.against.difference for row in runs], lambda one: _interval(one, "+"))
    line("times as fast, batch 1", [row.speed and row.speed.latency for row in runs], _ratio)
    line("times as fast, batch 32", [row.speed and row.speed.throughput for row in runs], _ratio)
    return lines


def table(rows: Mapping[str, RunFigures]) -> Table:
    """The figures of several runs for the terminal: a column a run, which fits 80 characters for the demo's four."""
    return tables.terminal(_lines(rows), "held-out masked LM, and dev scores × 100 (medians)")


def mean_of(tasks: Sequence[str]) -> str:
    """Which tasks the mean scores are over."""
    return f"Mean scores are over {', '.join(find_task(name).title for name in tasks)}: what all have, WNLI aside."


def markdown(rows: Mapping[str, RunFigures], counted: Sequence[str]) -> str:
    """The same as a Markdown table with a column for the majority class, and what has to be known of the tasks.

    Args:
        counted: tasks that the mean scores are over.
    """
    lines = _lines(rows)
    if floor := {name: score for row in rows.values() for name, score in row.majority.items()}:
        titles = {_title(name): score for name, score in floor.items()}
        if counted:
            titles[_MEAN] = statistics.fmean(floor[name] for name in counted)
        for line in lines:
            line.append(f"{titles[line[0]]:.1f}" if line[0] in titles else "–" if line[0] else "majority")
    said: dict[str, list[str]] = {}
    for name, row in rows.items():
        for remark in row.remarks:
            said.setdefault(remark, []).append(name)
    tuned = [name for name, row in rows.items() if row.tasks]
    return (
        tables.markdown(lines)
        + "\n"
        + (f"- {mean_of(counted)}\n" if counted else "")
        + "".join(f"- {'' if names == tuned else ', '.join(names) + ': '}{remark}\n" for remark, names in said.items())
    )


def curves(runs: Sequence[Path], path: Path) -> None:
    """Training loss (masked LM, smoothed) and held-out loss of each run over its steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for i, run in enumerate(runs):
        entries = read_metrics(run / "metrics.jsonl")
        train = [
            (entry.step, entry.values["loss_mlm"])
            for entry in entries
            if entry.kind == "train" and "loss_mlm" in entry.values
        ]
        held = [(entry.step, entry.values["mlm_loss"]) for entry in entries if entry.kind == "eval"]
        if train:
            smooth, mean = [], train[0][1]
            for step, loss in train:
                mean += 0.02 * (loss - mean)
                smooth.append((step, mean))
            axes.plot(*zip(*smooth, strict=True), color=f"C{i}", alpha=0.35, linewidth=1)
        if held:
            axes.plot(*zip(*held, strict=True), color=f"C{i}", marker="o", markersize=3, label=f"{run.name}, held out")
    axes.set(
        xlabel="step", ylabel="masked-LM loss, nats a token", title="pale: training, moving average · dots: held out"
    )
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=3)  # inside it would cover the ends of curves
    axes.grid(alpha=0.25)
    save_figure(figure, path)


def differences(rows: Mapping[str, RunFigures], path: Path) -> None:
    """Mean score of each run minus that of the run they are compared with, with 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    beside = {name: row.against for name, row in rows.items() if row.against}
    intervals = [one.difference for one in beside.values()]
    places = range(len(beside))
    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.42 * len(beside)), layout="constrained")
    middle = [one.value for one in intervals]
    # Percentiles of resampled medians need not have the median of the sample between them.
    spread = [
        [max(one.value - one.low, 0.0) for one in intervals],
        [max(one.high - one.value, 0.0) for one in intervals],
    ]
    axes.errorbar(middle, places, xerr=spread, fmt="o", capsize=3)
    axes.axvline(0.0, color="0.5", linewidth=1)
    axes.set_yticks(places, list(beside))
    axes.invert_yaxis()
    against = next(iter(beside.values())).name
    axes.set(
        xlabel=f"mean dev score × 100, minus {against}",
        title="differences with 95 % intervals (dev rows; seeds where several)",
    )
    axes.grid(axis="x", alpha=0.25)
    save_figure(figure, path)
