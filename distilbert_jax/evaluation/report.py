"""Several pre-training runs side by side: one table, results.json, and their curves as a PNG."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from distilbert_jax.config import DataConfig, ModelConfig, PretrainConfig
from distilbert_jax.config_json import from_json
from distilbert_jax.data.files import atomic_file, read_json, write_json
from distilbert_jax.directory import locate
from distilbert_jax.errors import InputError
from distilbert_jax.evaluation import bootstrap
from distilbert_jax.evaluation.glue_summary import choices, mean_score, read, read_runs, remarks, summary
from distilbert_jax.evaluation.mlm import evaluate_mlm
from distilbert_jax.evaluation.report_views import curves, differences, markdown, mean_of, table
from distilbert_jax.evaluation.speed import encoder_speed, relative_speed
from distilbert_jax.models import MaskedLM, PreTraining, hub
from distilbert_jax.models.hub import read_config
from distilbert_jax.models.params import count, split
from distilbert_jax.training.cost import step_flops
from distilbert_jax.training.logging import read_metrics
from distilbert_jax.training.results import read_result


def measure(
    run: Path, *, heldout: str, teacher: str, length: int, sequences: str = "line", max_rows: int | None = None
) -> dict[str, Any]:
    """One run's figures: `layers`, `parameters`, `mlm_loss`, `mlm_accuracy`, `perplexity`, `kl_to_teacher` (0 for the teacher
    itself, null without one; none of these for a model without a masked-LM head), `tokens_per_second` of the encoder at batch 32,
    `steps`, `train_seconds` and `train_flops` (null without a log), `tasks` {name: median score}, `majority` {name: score of the
    most frequent label}, `tuning_seconds` and `tuning_flops` of all runs of fine-tuning, those that settings were chosen from
    included, and `remarks` on the tasks.
    """
    model = run / "model"
    config = read_config(model)
    trained = [entry for entry in read_metrics(run / "metrics.jsonl") if entry["kind"] == "train"]
    figures: dict[str, Any] = {
        "layers": config.num_hidden_layers,
        "parameters": count(split(_widest(model).from_pretrained(model))[1]),
        "steps": trained[-1]["step"] if trained else None,
        "train_seconds": round(sum(entry["seconds"] for entry in trained), 1) if trained else None,
        "train_flops": _train_flops(run) if trained else None,
        "kl_to_teacher": None,
    }
    if heldout and MaskedLM.is_whole(model):
        guide = str(Path(teacher) / "model") if teacher else ""
        figures |= evaluate_mlm(
            str(model), heldout, teacher=guide, length=length, sequences=sequences, max_rows=max_rows
        )
        figures["heldout_tokens"] = int(figures.pop("tokens"))
    length = min(length, config.max_position_embeddings)
    figures["tokens_per_second"] = round(encoder_speed(str(model), batch_size=32, length=length)["tokens_per_second"])
    every = [read_result(path) for path in sorted((run / "glue").rglob("results.json"))]
    figures["tuning_seconds"] = round(sum(one["train_seconds"] / one["together"] for one in every), 1)
    figures["tuning_flops"] = sum(one.get("flops", 0.0) for one in every)
    found = summary(_tuned(run))
    for figure, name in {"tasks": "median", "majority": "majority"}.items():
        figures[figure] = {task: row[name] for task, row in found.items()}
    figures["remarks"] = [*choices(found), *remarks(found)] if found else []
    return figures


def _tuned(run: Path) -> list[dict[str, Any]]:
    """The results of fine-tuning that `evaluate.py glue` left in a run.

    Raises:
        InputError: they are of another model than the run's, by the fingerprint that each was trained from.
    """
    found = read_runs(str(run / "glue")) if any((run / "glue").glob("*/results.json")) else []
    for result in found:
        inputs = Path(result["directory"]) / "inputs.json"
        begun_with = read_json(inputs).get("model") if inputs.is_file() else None
        if begun_with not in (None, hub.fingerprint(run / "model"), *_mnli_models(run)):
            raise InputError(
                f"{result['directory']}: was not fine-tuned from {run / 'model'} as it is now; remove it and run evaluate.py glue "
                "again"
            )
    return found


def _mnli_models(run: Path) -> list[str]:
    """Fingerprints of the MNLI models of a run, which other tasks may have started at (--from-mnli)."""
    return [hub.fingerprint(path.parent) for path in (run / "glue").glob("mnli-*/model/model.safetensors")]


def common_means(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Set `score` of every run to its mean over the tasks that all tuned runs have, WNLI aside (null where there is none), and
    return these tasks."""
    tuned = [row["tasks"] for row in rows.values() if row["tasks"]]
    common = [name for name in (tuned[0] if tuned else ()) if name != "wnli" and all(name in tasks for tasks in tuned)]
    for row in rows.values():
        row["score"] = mean_score({name: row["tasks"][name] for name in common}) if row["tasks"] else None
    return common


def _config(run: Path) -> PretrainConfig:
    return from_json(PretrainConfig, (run / "config.json").read_text(encoding="utf-8"), str(run / "config.json"))


def _widest(model: Path) -> type[MaskedLM | PreTraining]:
    """What a run has trained: with next-sentence prediction where the files have its head."""
    whole = read_config(model).model_type == "bert" and PreTraining.is_whole(model)
    return PreTraining if whole else MaskedLM


def _data(runs: Sequence[Path]) -> list[DataConfig]:
    """How those of the runs that were trained read their text."""
    return [_config(run).data for run in runs if (run / "config.json").is_file()]


def _train_flops(run: Path) -> float:
    """Of all steps that a run's config asks for."""
    config = _config(run)
    return config.steps * step_flops(config, read_config(locate(config.teacher)) if config.teacher else None)


def compared(run: Path, other: Path, tasks: Sequence[str]) -> dict[str, Any] | None:
    """`bootstrap.compare` of what fine-tuning left in two runs, of these tasks; None where they have none of them in common, or are
    the same."""
    ours, theirs = (
        {name: runs for name, runs in _by_task(_tuned(path)).items() if name in tasks} for path in (run, other)
    )
    if run.resolve() == other.resolve() or not set(ours) & set(theirs):
        return None
    sides = ({name: list(map(read, runs)) for name, runs in side.items()} for side in (ours, theirs))
    return bootstrap.as_json(bootstrap.compare(*sides))


def _by_task(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        found.setdefault(result["task"], []).append(result)
    return found


def speeds(runs: Sequence[Path], teacher: Path, length: int) -> dict[str, dict[str, dict[str, Any]]]:
    """{run: {"latency": `speed.relative_speed` at batch 1, "throughput": at batch 32}} beside the teacher. Runs of one architecture
    share what was measured, and the teacher's own has none."""
    known: dict[ModelConfig, dict[str, dict[str, Any]]] = {read_config(teacher / "model"): {}}
    found = {}
    for run in runs:
        config = read_config(run / "model")
        if config not in known:
            models = str(run / "model"), str(teacher / "model")
            sizes = {"latency": 1, "throughput": 32}
            known[config] = {
                name: relative_speed(*models, batch_size=size, length=length) for name, size in sizes.items()
            }
        found[run.name] = known[config]
    return found


def report(
    runs: Sequence[str],
    out: str,
    *,
    heldout: str = "",
    teacher: str = "",
    against: str = "",
    length: int | None = None,
    max_rows: int | None = None,
) -> dict[str, Any]:
    """Measure the runs, print the table, write results.json ({run name: figures}), report.md and curves.png into `out`.

    Args:
        heldout: a corpus; empty: no held-out figures.
        teacher: run that KL divergence, share of the score and speed are relative to.
        against: run that scores are compared with in pairs; then differences.png is drawn, too.
        length: tokens in a row, for held-out text and speed; None: that of the first run that says.
        max_rows: of held-out text.

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
    for path in (*paths, *map(Path, filter(None, (teacher, against)))):
        if not (path / "model" / "model.safetensors").is_file():
            raise InputError(f"{path}: has no model/model.safetensors; finish the run first")
    for path in paths:
        if not read_metrics(path / "metrics.jsonl"):
            print(f"{path}: has no metrics.jsonl; its steps, seconds and curves are left out", file=sys.stderr)
    if Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"--out {out}: is a file, expected a directory")
    for name, value in (("--length", length), ("--max-rows", max_rows)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: expected 1 or more")
    Path(out).mkdir(parents=True, exist_ok=True)
    trained = _data(paths)
    if length is None:
        length = trained[0].length if trained else 128
    kinds = {data.sequences for data in trained}
    asked = {"heldout": heldout, "teacher": teacher, "length": length, "max_rows": max_rows}
    # Packed in another way a run of pairs and a run of lines are asked the same.
    sequences = kinds.pop() if len(kinds) == 1 else "line"
    rows = {path.name: measure(path, **asked, sequences=sequences) for path in paths}
    counted = common_means(rows)
    fast = speeds(paths, Path(teacher), length) if teacher else {}
    for path in paths:
        other = compared(path, Path(against), counted) if against else None
        rows[path.name] |= {
            "of_teacher": compared(path, Path(teacher), counted) if teacher else None,
            "against": other and {"name": Path(against).name, **other},
            "speed": fast.get(path.name),
        }
    write_json(Path(out) / "results.json", rows)
    with atomic_file(Path(out) / "report.md") as file:
        file.write(markdown(rows, counted).encode())
    curves(paths, Path(out) / "curves.png")
    if any(row["against"] for row in rows.values()):
        differences(rows, Path(out) / "differences.png")
    console = Console(markup=False)  # a run's name may have brackets
    if not console.is_terminal:
        console.width = 160  # in a log nothing forces figures to be cut
    console.print(table(rows))
    if counted:
        console.print(mean_of(counted), soft_wrap=True)
    print(f"{out}/results.json, report.md and the plots written")
    return rows
