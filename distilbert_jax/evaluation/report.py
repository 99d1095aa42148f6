"""Several pre-training runs side by side: one table, results.json, and their curves as a PNG."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from distilbert_jax.data.files import write_json
from distilbert_jax.data.tasks import find_task
from distilbert_jax.errors import InputError
from distilbert_jax.evaluation.glue_table import medians, read_runs
from distilbert_jax.evaluation.mlm import evaluate_mlm
from distilbert_jax.evaluation.speed import encoder_speed
from distilbert_jax.models import MaskedLM
from distilbert_jax.models.hub import read_config
from distilbert_jax.models.params import count, split
from distilbert_jax.training.logging import read_metrics


def measure(run: Path, *, heldout: str, teacher: str, length: int) -> dict[str, Any]:
    """One run's figures: `layers`, `parameters`, `mlm_loss`, `mlm_accuracy`, `perplexity`, `kl_to_teacher` (0 for the teacher
    itself, null without one), `tokens_per_second` of the encoder at batch 32, `train_seconds` and `steps` (null without a log),
    `tasks` {name: score}.
    """
    model = run / "model"
    config = read_config(model)
    trained = [entry for entry in read_metrics(run / "metrics.jsonl") if entry["kind"] == "train"]
    figures: dict[str, Any] = {
        "layers": config.num_hidden_layers,
        "parameters": count(split(MaskedLM.from_pretrained(model))[1]),
        "steps": trained[-1]["step"] if trained else None,
        "train_seconds": round(sum(entry["seconds"] for entry in trained), 1) if trained else None,
        "kl_to_teacher": None,
    }
    if heldout:
        figures |= evaluate_mlm(
            str(model), heldout, teacher=str(Path(teacher) / "model") if teacher else "", length=length
        )
        figures["heldout_tokens"] = int(figures.pop("tokens"))
    length = min(length, config.max_position_embeddings)
    figures["tokens_per_second"] = round(encoder_speed(str(model), batch_size=32, length=length)["tokens_per_second"])
    tuned = run / "glue"
    results = read_runs(str(tuned)) if any(tuned.glob("*/results.json")) else []
    figures["tasks"] = medians(results)
    return figures


def table(rows: dict[str, dict[str, Any]]) -> Table:
    """`measure` of several runs for the terminal: a column a run, which fits 80 characters for the demo's four."""
    view = Table("", title="held-out masked LM, and dev scores × 100 (medians)", title_justify="left")
    for name in rows:
        view.add_column(name, justify="right")
    figures = {
        "layers": ("layers", "{:d}"),
        "parameters": ("parameters", "{:,d}"),
        "steps": ("steps", "{:,d}"),
        "training, seconds": ("train_seconds", "{:.0f}"),
        "masked-LM loss, nats": ("mlm_loss", "{:.3f}"),
        "masked-LM accuracy": ("mlm_accuracy", "{:.1%}"),
        "KL to the teacher, nats": ("kl_to_teacher", "{:.3f}"),
        "encoder, tokens/s": ("tokens_per_second", "{:,d}"),
    }
    for title, (name, form) in figures.items():
        values = [row.get(name) for row in rows.values()]
        view.add_row(title, *("–" if value is None else form.format(value) for value in values))
    for task in dict.fromkeys(task for row in rows.values() for task in row["tasks"]):
        scores = [row["tasks"].get(task) for row in rows.values()]
        title = f"{task}, {' + '.join(find_task(task).metrics)}"
        view.add_row(title, *("–" if score is None else f"{score:.1f}" for score in scores))
    return view


def curves(runs: Sequence[Path], path: Path) -> None:
    """Training loss (masked LM, smoothed) and held-out loss of each run over its steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for i, run in enumerate(runs):
        entries = read_metrics(run / "metrics.jsonl")
        train = [(entry["step"], entry["loss_mlm"]) for entry in entries if "loss_mlm" in entry]
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
        axes.legend()
    axes.grid(alpha=0.25)
    partial = path.with_name(f".{path.stem}.partial.png")
    figure.savefig(partial, dpi=130)
    pyplot.close(figure)
    partial.replace(path)


def report(runs: Sequence[str], out: str, *, heldout: str = "", teacher: str = "", length: int = 128) -> dict[str, Any]:
    """Measure the runs, print the table, write `<out>/results.json` ({run name: figures}) and `<out>/curves.png`.

    Raises:
        InputError: a run's directory has no model yet, its log is damaged, `out` is a file; nothing is measured yet.
    """
    paths = [Path(run) for run in runs]
    if not paths:
        raise InputError("no run given; name directories that train.py made")
    if len({path.name for path in paths}) < len(paths):
        raise InputError(
            f"{', '.join(runs)}: two runs have the same name; the figures of a run go by its directory's name"
        )
    for path in paths:
        if not (path / "model" / "model.safetensors").is_file():
            raise InputError(f"{path}: has no model/model.safetensors; finish the run first")
        if not read_metrics(path / "metrics.jsonl"):
            print(f"{path}: has no metrics.jsonl; its steps, seconds and curves are left out", file=sys.stderr)
    if Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"--out {out}: is a file, expected a directory")
    Path(out).mkdir(parents=True, exist_ok=True)
    rows = {path.name: measure(path, heldout=heldout, teacher=teacher, length=length) for path in paths}
    write_json(Path(out) / "results.json", rows)
    curves(paths, Path(out) / "curves.png")
    console = Console(markup=False)  # a run's name may have brackets
    if not console.is_terminal:
        console.width = 160  # in a log nothing forces figures to be cut
    console.print(table(rows))
    print(f"{out}/results.json and {out}/curves.png written")
    return rows
