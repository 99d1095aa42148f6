"""Tables and plots of a report, from the figures of several pre-training runs."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from rich.table import Table

from distilbert_jax.base import tables
from distilbert_jax.base.files import save_figure
from distilbert_jax.config import FinetuneConfig, PretrainConfig
from distilbert_jax.experiments.figures import RunFigures, SeedFigures
from distilbert_jax.experiments.variants import leaves
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.glue.references import TEST_REMARK, TEST_SCORES
from distilbert_jax.glue.results import Interval
from distilbert_jax.training import run_directory
from distilbert_jax.training.cost import RelativeSpeed
from distilbert_jax.training.logging import MEASURED, Entry, Kind, read_metrics

T = TypeVar("T")


def _title(task: str) -> str:
    return f"{task}, {' + '.join(find_task(task).metrics)}"


def _interval(one: Interval, sign: str = "") -> str:
    value, low, high = (round(number, 1) + 0.0 for number in (one.value, one.low, one.high))  # no -0.0
    return f"{value:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def _ratio(one: RelativeSpeed) -> str:
    return f"{one.ratio:.2f} ({one.ratio_min:.2f} to {one.ratio_max:.2f})"


def _lines(
    rows: Mapping[str, RunFigures], counted: Sequence[str], *, spread: bool = False, majority: bool = False
) -> list[list[str]]:
    """A line a figure: its title, then its value in every run; what no run has is left out. The first line names the runs, and
    behind them whose published test scores stand beside them.

    Args:
        counted: tasks that the mean scores are over.
        spread: the lowest and the highest seed in the cells of a task.
        majority: the scores of the majority class in a last column.
    """
    others = {f"{name}, test": TEST_SCORES[name] for name in _published(rows)}
    if majority and (floor := {name: score for row in rows.values() for name, score in row.majority.items()}):
        others["majority"] = floor
    runs, lines = list(rows.values()), [["", *rows, *others]]

    def line(title: str, values: Sequence[T | None], say: Callable[[T], str], beside: Sequence[str] = ()) -> None:
        if any(value is not None for value in values):
            cells = ("–" if value is None else say(value) for value in values)
            lines.append([title, *cells, *(beside or ["–"] * len(others))])

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
    ):
        line(title, [getattr(row, name) for row in runs], lambda value, form=form, by=scale: form.format(value * by))
    line("mean score", [row.score for row in runs], "{:.1f}".format, [_mean(one, counted) for one in others.values()])
    for name in dict.fromkeys(name for row in runs for name in row.heldout_parts):
        title = f"{name.removeprefix('loss_')}, held out in the run"
        line(title, [row.heldout_parts.get(name) for row in runs], "{:.4g}".format)
    for task in dict.fromkeys(task for row in runs for task in row.tasks):
        cells = [_score(row, task, spread=spread) if task in row.tasks else None for row in runs]
        line(_title(task), cells, str, [f"{one[task]:.1f}" if task in one else "–" for one in others.values()])
    against = next((row.against.name for row in runs if row.against), "")
    line("% of the teacher's score", [row.of_teacher and row.of_teacher.share for row in runs], _interval)
    line(f"minus {against}", [row.against and row.against.difference for row in runs], lambda one: _interval(one, "+"))
    line("times as fast, batch 1", [row.speed and row.speed.latency for row in runs], _ratio)
    line("times as fast, batch 32", [row.speed and row.speed.throughput for row in runs], _ratio)
    return lines


def _score(row: RunFigures, task: str, *, spread: bool) -> str:
    seeds = row.seeds.get(task, ())
    return f"{row.tasks[task]:.1f}" + (f" [{min(seeds):.1f}–{max(seeds):.1f}]" if spread and len(seeds) > 1 else "")


def _mean(scores: Mapping[str, float], tasks: Sequence[str]) -> str:
    """The mean over tasks; "–" where the score of one is missing."""
    whole = tasks and all(name in scores for name in tasks)
    return f"{statistics.fmean(scores[name] for name in tasks):.1f}" if whole else "–"


def _published(rows: Mapping[str, RunFigures]) -> list[str]:
    return list(dict.fromkeys(row.published for row in rows.values() if row.published))


def beside_test(rows: Mapping[str, RunFigures]) -> list[str]:
    """What a comparison with published test scores can say; nothing where there are none."""
    return [TEST_REMARK] if _published(rows) else []


def _narrow(lines: list[list[str]]) -> list[list[str]]:
    """The lines; runs as rows where they are more than the figures."""
    return [list(column) for column in zip(*lines, strict=True)] if len(lines[0]) > len(lines) else lines


def table(rows: Mapping[str, RunFigures], counted: Sequence[str] = ()) -> Table:
    """The figures of several runs for the terminal: a column a run, which fits 80 characters for the demo's four; of many a row.

    Args:
        counted: tasks that the mean scores are over.
    """
    return tables.terminal(_narrow(_lines(rows, counted)), "held-out masked LM, and dev scores × 100 (medians)")


def mean_of(tasks: Sequence[str]) -> str:
    """Which tasks the mean scores are over."""
    return f"Mean scores are over {', '.join(find_task(name).title for name in tasks)}: what all have, WNLI aside."


def markdown(
    rows: Mapping[str, RunFigures],
    counted: Sequence[str],
    configs: Mapping[str, PretrainConfig | None] | None = None,
    alike: Mapping[str, SeedFigures] | None = None,
    tunings: Mapping[str, Sequence[FinetuneConfig]] | None = None,
) -> str:
    """The same as a Markdown table with a column for the majority class, what has to be known of the tasks, what runs come to over
    their seeds of pre-training, and the settings in which the runs differ.

    Args:
        counted: tasks that the mean scores are over.
        configs: of the runs, as far as they have some.
        alike: of the runs that differ in their seed alone.
        tunings: of the runs, how each was fine-tuned for its tasks.
    """
    apart = settings(configs or {}, tunings or {})
    lines = _narrow(_lines(rows, counted, spread=True, majority=True))
    several = any(len(scores) > 1 for row in rows.values() for scores in row.seeds.values())
    said: dict[str, list[str]] = {}
    for name, row in rows.items():
        for remark in row.remarks:
            said.setdefault(remark, []).append(name)
    tuned = [name for name, row in rows.items() if row.tasks]
    return (
        tables.markdown(lines)
        + "\n"
        + (f"- {mean_of(counted)}\n" if counted else "")
        + ("- In brackets: the lowest and the highest seed.\n" if several else "")
        + "".join(f"- {one}\n" for one in beside_test(rows))
        + "".join(f"- {'' if names == tuned else ', '.join(names) + ': '}{remark}\n" for remark, names in said.items())
        + (f"\n## Over seeds of pre-training\n\n{tables.markdown(over_seeds(alike))}" if alike else "")
        + (f"\n## Settings that differ\n\n{tables.markdown(apart)}" if apart else "")
    )


def over_seeds(alike: Mapping[str, SeedFigures]) -> list[list[str]]:
    """A line for the runs that are alike but for their seed: mean score, share of the teacher's, and how far they are ahead, with
    intervals over dev rows, seeds of fine-tuning and of pre-training."""
    against = next((one.against.name for one in alike.values() if one.against), "")
    tasks = list(dict.fromkeys(task for one in alike.values() if one.against for task in one.against.tasks))
    lines = [["", "mean score", "% of the teacher's", *([f"minus {against}", *tasks] if against else [])]]
    for one in alike.values():
        share = _interval(one.of_teacher.share) if one.of_teacher and one.of_teacher.share else "–"
        differences = [one.against.difference, *map(one.against.tasks.get, tasks)] if one.against else []
        cells = [_interval(value, "+") if value else "–" for value in differences] or ["–"] * (len(lines[0]) - 3)
        lines.append([", ".join(one.runs), f"{one.score:.1f}", share, *cells])
    return lines


def settings(
    runs: Mapping[str, PretrainConfig | None],
    tunings: Mapping[str, Sequence[FinetuneConfig]] = MappingProxyType({}),
) -> list[list[str]]:
    """In what the configs of runs differ, but for where they write and how often they report: a line a field, its value in every
    run; "–" of a run without a config. The first line names the runs; nothing where none differs.

    Args:
        tunings: how each was fine-tuned, a config a task and seed; fields that these have in common are named `glue.…`.
    """
    trained = {name: _texts(config) if config else {} for name, config in runs.items()}
    tuned = {name: _in_common(tunings.get(name, ())) for name in runs}
    return [["", *runs], *lines] if (lines := [*_differing(trained), *_differing(tuned)]) else []


def _differing(fields: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """A line of each field that is not the same in all runs that have fields."""
    there = [values for values in fields.values() if values]
    names = dict.fromkeys(name for values in there for name in values)
    differ = [name for name in names if len({values.get(name, "–") for values in there}) > 1]
    return [[name, *(values.get(name, "–") for values in fields.values())] for name in differ]


_OF_ONE_TASK = ("task", "model", "run.seed")


def _in_common(configs: Sequence[FinetuneConfig]) -> dict[str, str]:
    """The fields of a run's fine-tuning; "several": another value for another task."""
    texts = [_texts(config) for config in configs]
    names = [name for name in (texts[0] if texts else ()) if name not in _OF_ONE_TASK]
    values = {name: {one.get(name, "–") for one in texts} for name in names}
    return {f"glue.{name}": "several" if len(found) > 1 else found.pop() for name, found in values.items()}


def _texts(config: PretrainConfig | FinetuneConfig) -> dict[str, str]:
    """The fields of a config by their dotted names, as text, those aside that change nothing of what is computed."""
    result = {}
    for name, value in leaves(config):
        if run_directory.is_free(name):
            continue
        if isinstance(value, Mapping):
            result |= {f"{name}.{key}": str(one) for key, one in value.items()}
        else:
            result[name] = "–" if value in ("", None) else str(value)
    return result


# What has a panel of its own: its title, its name while training and on held-out text.
_PANELS = (
    ("masked-LM loss, nats a token", "loss_mlm", "mlm_loss"),
    ("KL to the teacher, nats a masked token", "", "kl_to_teacher"),
)
_NO_CURVE = (*MEASURED, "tokens", "masked", "rows")


Ends = Mapping[str, Mapping[str, float | None]]  # {run: {metric on held-out text: its value at the end}}


def curves(runs: Sequence[Path], path: Path, ends: Ends = MappingProxyType({})) -> None:
    """Each metric of the runs over their steps, a panel a metric: of training smoothed, of held-out text as it was measured.

    Args:
        ends: what was measured of all runs in one way when they had ended, as a run logs nothing of what is no part of its loss.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    logs = {run.name: read_metrics(run / "metrics.jsonl") for run in runs}
    panels = _panels(logs.values(), ends)
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    size = (7, 4.2) if len(panels) == 1 else (4.2 * columns, 2.9 * lines + 0.6)
    figure, grid = pyplot.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    for axes, (title, trained, held) in zip(grid.flat, panels, strict=False):
        for i, entries in enumerate(logs.values()):
            if train := _points(entries, "train", trained):
                axes.plot(*zip(*_smoothed(train), strict=True), color=f"C{i}", alpha=0.35, linewidth=1)
            if points := _points(entries, "eval", held):
                axes.plot(*zip(*points, strict=True), color=f"C{i}", marker="o", markersize=3)
        for i, (name, entries) in enumerate(logs.items()):
            if (value := ends.get(name, {}).get(held)) is not None and entries:
                last = max(entry.step for entry in entries)
                axes.plot([last], [value], color=f"C{i}", marker="x", markersize=7, linestyle="none", zorder=3)
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.25)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    marks = "pale: training, moving average · dots: held out" + (" · crosses: held out, at the end" if ends else "")
    figure.suptitle("\n".join(filter(None, (_seen(ends), marks))), fontsize="medium")
    if shown := [name for name, entries in logs.items() if entries]:
        lines_of = [Line2D([], [], color=f"C{list(logs).index(name)}", marker="o", markersize=3) for name in shown]
        figure.legend(lines_of, shown, loc="outside lower center", ncols=4)  # inside it would cover the ends of curves
    save_figure(figure, path)


def _seen(ends: Ends) -> str:
    """Which run stands where at the end, in a line."""
    said = []
    for metric, called in (("mlm_loss", "lowest masked-LM loss"), ("kl_to_teacher", "nearest to the teacher (KL)")):
        values = {name: value for name, of in ends.items() if (value := of.get(metric)) is not None}
        values = {name: value for name, value in values.items() if value or metric == "mlm_loss"}  # a teacher is at 0
        if len(values) > 1:
            best = min(values, key=lambda name: values[name])
            said.append(f"{called}: {best}, {values[best]:.2f}")
    return " · ".join(said)


def _panels(logs: Iterable[Sequence[Entry]], ends: Ends) -> list[tuple[str, str, str]]:
    """The panels for all that the logs hold, and for what all runs were asked at the end."""
    names: dict[Kind, dict[str, None]] = {"train": {}, "eval": {}}
    for entry in (entry for log in logs for entry in log):
        names[entry.kind] |= dict.fromkeys(name for name in entry.values if name not in _NO_CURVE)
    names["eval"] |= dict.fromkeys(name for of in ends.values() for name, value in of.items() if value is not None)
    first = [one for one in _PANELS if one[1] in names["train"] or one[2] in names["eval"]] or [_PANELS[0]]
    # The part of the loss on held-out text is the masked-LM loss there, and is in its panel.
    done = {name for one in first for name in one[1:]}
    rest = [name for name in {**names["train"], **names["eval"]} if name not in done]
    return [*first, *((name.removeprefix("loss_").replace("_", " "), name, name) for name in rest)]


def _points(entries: Sequence[Entry], kind: Kind, name: str) -> list[tuple[int, float]]:
    return [(entry.step, entry.values[name]) for entry in entries if entry.kind == kind and name in entry.values]


def _smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """A moving average."""
    smooth, mean = [], points[0][1]
    for step, value in points:
        mean += 0.02 * (value - mean)
        smooth.append((step, mean))
    return smooth


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
