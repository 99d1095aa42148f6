"""Settings of fine-tuning in words: every field of a run's config that changes what comes out and is not as it is unless said."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from distilbert_jax.base.config_io import Difference, differences
from distilbert_jax.config import AugmentConfig, FinetuneConfig, Scheduled
from distilbert_jax.errors import counted
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.training import run_directory
from distilbert_jax.training.model_card import number
from distilbert_jax.training.terms import weighted_terms

# Said always, of runs of another kind, or where a table has them: model and task, seeds.
_SAID = (
    "model",
    "task",
    "length",
    "batch_size",
    "epochs",
    "optimizer.learning_rate",
    "run.dtype",
    "run.seed",
    "distill.teacher",
    "distill.alpha",
    "distill.temperature",
    "distill.layer_epochs",
    "augment.copies",
    "augment.share",
    "augment.model",
)
_WORDS: Mapping[str, Callable[[Any], str]] = MappingProxyType(
    {
        "max_train_rows": lambda rows: f"the first {rows:,} rows of train",
        "selection_split": lambda _: "scored on a tenth of train that is held out",
        "select": lambda _: "of its epochs the best on a tenth of train that is held out",
        "freeze": lambda _: "the head alone trained",
        "layer_decay": lambda decay: f"{decay:g} of a layer's learning rate for the layer below",
        "class_weights": lambda how: f"classes weighted ({how})",
        "optimizer.warmup": lambda share: f"warm-up {100 * share:g} % of the steps",
        "optimizer.weight_decay": lambda decay: f"weight decay {decay:g}",
        "optimizer.clip_norm": lambda norm: f"gradients clipped at {norm:g}",
        "optimizer.accumulate": lambda number: f"{number} micro-batches a step",
        "optimizer.beta1": lambda beta: f"β1 {beta:g}",
        "optimizer.beta2": lambda beta: f"β2 {beta:g}",
        "optimizer.eps": lambda eps: f"ε {eps:g}",
        "run.activations": lambda dtype: f"{dtype} between layers",
        "augment.candidates": lambda number: f"words drawn from {number}",
    }
)


def in_words(config: FinetuneConfig, *, similar_lengths: bool = False, added_rows: int | None = None) -> str:
    """How a run was fine-tuned: the settings that a reader expects, and those that are not the defaults of `FinetuneConfig`.

    Args:
        similar_lengths: its batches were of these, as an earlier version made them.
        added_rows: copies of rows; None: none.
    """
    rate, epochs = config.optimizer.learning_rate, counted(config.epochs or 0, "epoch")
    said = [f"learning rate {rate:g}, {epochs}, batch {config.batch_size}, length {config.length}, {config.run.dtype}"]
    if similar_lengths:
        said.append("batches of similar lengths (of an earlier version)")
    if begins_at_own_mnli(config.model, Path(config.run.directory), config.run.seed):
        said.append("from the MNLI model of the same seed")
    if config.distill.teacher:
        said.append(_teacher(config))
    if added_rows is not None:
        said.append(_copies(config.augment, added_rows))
    return ", ".join([*said, *others(config)])


def others(config: FinetuneConfig, said: Collection[str] = ()) -> list[str]:
    """The settings that are not the defaults of `FinetuneConfig`, in words, but for those that the reader is told anyway.

    Args:
        said: dotted names of fields that the caller has told besides.
    """
    return [_one(each) for each in _changed(config) if each.field not in said]


def begins_at_own_mnli(model: str, directory: Path, seed: int) -> bool:
    """Whether the model that a run begins with is that of the MNLI run of its seed, beside it in the directory of a sweep."""
    return Path(model).resolve().parent == directory.parent.resolve() / f"mnli-{seed}"


def temperature(config: FinetuneConfig) -> Scheduled | None:
    """Of the teacher's labels; None of a regression, which has none."""
    return None if find_task(config.task).kind == "regression" else config.distill.temperature


def _teacher(config: FinetuneConfig) -> str:
    distill, heat = config.distill, temperature(config)
    terms = "".join(f", {one.term.name} {one.weight}" for one in weighted_terms(distill, "distill"))
    before = f"; {counted(distill.layer_epochs, 'epoch')} of layers first" if distill.layer_epochs else ""
    heated = "" if heat is None else f", T {number(heat)}"
    return f"distilled from {distill.teacher} (α {number(distill.alpha)}{heated}{terms}{before})"


def _copies(augment: AugmentConfig, rows: int) -> str:
    copies = f"with {rows:,} copies of rows, {augment.copies} of each"
    return f"{copies}, in which {augment.model} replaced {augment.share:.0%} of the words"


def _changed(config: FinetuneConfig) -> list[Difference]:
    """The fields that are not the defaults and not said, without those that nothing reads in such a run."""
    unread = (*(() if config.distill.teacher else ("distill.",)), *(() if config.augment.copies else ("augment.",)))
    is_weight = lambda field: field.startswith("distill.") and field.endswith(".weight")  # said with its term
    return [
        each
        for each in differences(FinetuneConfig(), config)
        if each.field not in _SAID
        and not is_weight(each.field)
        and not run_directory.is_free(each.field)
        and not each.field.startswith(unread)
    ]


def _one(setting: Difference) -> str:
    """A setting that has no words of its own goes by its name."""
    in_its_words = _WORDS.get(setting.field, lambda value: f"{setting.field} {value}")
    return in_its_words(setting.new)
