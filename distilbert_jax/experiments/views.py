"""The figures of several pre-training runs as tables and plots."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from distilbert_jax.base import tables
from distilbert_jax.base.files import save_figure
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.training.logging import read_metrics

_MEAN = "mean score"


def _title(task: str) -> str:
    return f"{task}, {' + '.join(find_task(task).metrics)}"


def _lines(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A line a figure: its title, then its value in every run; what no run has is left out. The first line names the runs."""
    figures = {
        "layers": ("layers", "{:d}"),
        "parameters, head included": ("parameters", "{:,d}"),
        "steps": ("steps", "{:,d}"),
        "training, seconds": ("train_seconds", "{:.0f}"),
        "training, TFLOP": ("train_flops", "{:.4g}", 1e-12),
        "masked-LM loss, nats": ("mlm_loss", "{:.3f}"),
        "masked-LM accuracy": ("mlm_accuracy", "{:.1%}"),
        "next-sentence loss, nats": ("loss_nsp", "{:.3f}"),
        "next-sentence accuracy": ("nsp_accuracy", "{:.1%}"),
        "KL to the teacher, nats": ("kl_to_teacher", "{:.3f}"),
        "encoder, batch 32, tokens/s": ("tokens_per_second", "{:,d}"),
        "fine-tuning, seconds": ("tuning_seconds", "{:,.0f}"),
        "fine-tuning, TFLOP": ("tuning_flops", "{:.4g}", 1e-12),
        _MEAN: ("score", "{:.1f}"),
    }
    names = dict.fromkeys(name for row in rows.values() for name in row if name.startswith("loss_"))
    terms = {
        f"{name.removeprefix('loss_')}, held out in the run": (name, "{:.4g}") for name in names if name != "loss_nsp"
    }
    figures |= terms
    lines = [["", *rows]]
    for title, (name, form, *scale) in figures.items():
        values = [row.get(name) for row in rows.values()]
        if any(value for value in values):
            say = lambda value, form=form, scale=scale: form.format(value * scale[0] if scale else value)
            lines.append([title, *("–" if value is None else say(value) for value in values)])
    for task in dict.fromkeys(task for row in rows.values() for task in row["tasks"]):
        scores = [row["tasks"].get(task) for row in rows.values()]
        lines.append([_title(task), *("–" if score is None else f"{score:.1f}" for score in scores)])
    interval = lambda found, sign="": (
        f"{found['value']:{sign}.1f} ({found['low']:{sign}.1f} to {found['high']:{sign}.1f})"
    )
    ratio = lambda found: f"{found['ratio']:.2f} ({found['ratio_min']:.2f} to {found['ratio_max']:.2f})"
    against = next((row["against"]["name"] for row in rows.values() if row.get("against")), "")
    beside: dict[str, tuple[str, str, Callable[[Any], str]]] = {
        "% of the teacher's score": ("of_teacher", "share", interval),
        f"minus {against}": ("against", "difference", lambda found: interval(found, "+")),
        "times as fast, batch 1": ("speed", "latency", ratio),
        "times as fast, batch 32": ("speed", "throughput", ratio),
    }
    for title, (group, name, form) in beside.items():
        values = [(row.get(group) or {}).get(name) for row in rows.values()]
        if any(values):
            lines.append([title, *(form(value) if value else "–" for value in values)])
    return lines


def table(rows: dict[str, dict[str, Any]]) -> Table:
    """The figures of several runs for the terminal: a column a run, which fits 80 characters for the demo's four."""
    return tables.terminal(_lines(rows), "held-out masked LM, and dev scores × 100 (medians)")


def mean_of(tasks: Sequence[str]) -> str:
    """Which tasks the mean scores are over."""
    return f"Mean scores are over {', '.join(find_task(name).title for name in tasks)}: what all have, WNLI aside."


def markdown(rows: dict[str, dict[str, Any]], counted: Sequence[str]) -> str:
    """The same as a Markdown table with a column for the majority class, and what has to be known of the tasks.

    Args:
        counted: tasks that the mean scores are over.
    """
    lines = _lines(rows)
    if floor := {name: score for row in rows.values() for name, score in row["majority"].items()}:
        titles = {_title(name): score for name, score in floor.items()}
        if counted:
            titles[_MEAN] = statistics.fmean(floor[name] for name in counted)
        for line in lines:
            line.append(f"{titles[line[0]]:.1f}" if line[0] in titles else "–" if line[0] else "majority")
    said: dict[str, list[str]] = {}
    for name, row in rows.items():
        for remark in row["remarks"]:
            said.setdefault(remark, []).append(name)
    tuned = [name for name, row in rows.items() if row["tasks"]]
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
            (entry["step"], entry["loss_mlm"]) for entry in entries if entry["kind"] == "train" and "loss_mlm" in entry
        ]
        held = [(entry["step"], entry["mlm_loss"]) for entry in entries if entry["kind"] == "eval"]
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


def differences(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Mean score of each run minus that of the run they are compared with, with 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = {name: row["against"] for name, row in rows.items() if row["against"]}
    intervals = [one["difference"] for one in found.values()]
    places = range(len(found))
    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.42 * len(found)), layout="constrained")
    middle = [one["value"] for one in intervals]
    # Percentiles of resampled medians need not have the median of the sample between them.
    spread = [
        [max(one["value"] - one["low"], 0.0) for one in intervals],
        [max(one["high"] - one["value"], 0.0) for one in intervals],
    ]
    axes.errorbar(middle, places, xerr=spread, fmt="o", capsize=3)
    axes.axvline(0.0, color="0.5", linewidth=1)
    axes.set_yticks(places, list(found))
    axes.invert_yaxis()
    against = next(iter(found.values()))["name"]
    axes.set(
        xlabel=f"mean dev score × 100, minus {against}",
        title="differences with 95 % intervals (dev rows; seeds where several)",
    )
    axes.grid(axis="x", alpha=0.25)
    save_figure(figure, path)
