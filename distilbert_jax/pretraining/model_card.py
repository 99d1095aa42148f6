"""Model card of a pre-trained or distilled model: README.md of a run's model, from its config, its log and its corpora."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from distilbert_jax.base.config_io import Difference, differences
from distilbert_jax.base.hub import is_from_hub
from distilbert_jax.config import InitConfig, PretrainConfig, ends
from distilbert_jax.errors import counted
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.evaluate import MASKING, HeldoutFigures
from distilbert_jax.training import run_directory
from distilbert_jax.training.logging import read_metrics
from distilbert_jax.training.model_card import (
    Card,
    Score,
    number,
    place_name,
    plain,
    table,
    weighted,
    weighted_terms,
    write_card,
)

# Settings that a card has words for; of a name with a dot at its end all below it.
_SAID = (
    *("objective", "teacher", "steps", "data.corpus", "data.heldout", "data.length", "data.batch_size"),
    *("init.source", "init.layers", "run.dtype", "run.seed"),
    *(f"masking.{name}" for name in ("probability", "mask", "random", "weighting")),
    *(
        f"optimizer.{name}"
        for name in ("learning_rate", "warmup", "weight_decay", "clip_norm", "beta1", "beta2", "eps")
    ),
)
_SAID_OF = ("model.", "loss.")
_SOURCES = 20  # files of a corpus that a card names
_FIGURES = {
    "mlm_loss": "cross-entropy of a masked token, in nats",
    "perplexity": "perplexity, e to the power of that",
    "mlm_accuracy": "share of masked tokens whose likeliest word is the true one",
    "kl_to_teacher": "KL divergence from the teacher at a masked token, in nats",
    "loss_nsp": "cross-entropy of next-sentence prediction, in nats",
    "nsp_accuracy": "share of pairs that are told right",
}


def write_run_card(config: PretrainConfig, run: Path, model: Path, *, replaced: Path | None = None) -> None:
    """Write the README.md of a run's model, as `write_card` does.

    Args:
        run: its directory, with its log and `inputs.json`.
        model: where the model's files lie.
        replaced: where they are about to go, if elsewhere.
    """
    write_card(card_of(config, run), model, replaced=replaced)


def card_of(config: PretrainConfig, run: Path) -> Card:
    """What a run that has taken its last step says of its model. Of a corpus that is gone it names the digest alone."""
    figures = _last_figures(config, run)
    heldout = place_name(config.data.heldout) if config.data.heldout else ""
    sources = dict.fromkeys(name for name in (config.teacher, config.init.source) if name)
    return Card(
        name=place_name(str(run.absolute())),
        about=_about(config),
        sections={
            "Training data": [*_corpus("Trained on", config.data.corpus, "data.corpus", run)],
            "Training": [*_training(config, run)],
            "Evaluation": [*_evaluation(config, figures, run)],
            "Limits and bias": [*_limits(config, figures)],
        },
        scores=[
            Score(
                data=heldout, split="held out", metric=name.removeprefix("mlm_"), value=figures[name], hub_data=heldout
            )
            for name in ("mlm_loss", "perplexity", "mlm_accuracy")
            if name in figures
        ],
        base_models=[name for name in sources if is_from_hub(name)],
        tags=["distillation"] if config.teacher else [],
    )


def _last_figures(config: PretrainConfig, run: Path) -> dict[str, float]:
    """What was measured on held-out text at the last step, by the names of `HeldoutFigures`."""
    names = [field.name for field in dataclasses.fields(HeldoutFigures)]
    entries = [entry for entry in read_metrics(run / run_directory.METRICS) if entry.kind == "eval"]
    values = entries[-1].values if entries and entries[-1].step == config.steps else {}
    return {name: float(values[name]) for name in names if name in values}


def _about(config: PretrainConfig) -> list[str]:
    family = config.model.family.title
    teacher = f"the teacher {plain(place_name(config.teacher))}" if config.teacher else ""
    what = {
        "masked_lm": f"A {family} encoder with a masked-LM head, trained to fill in masked words.",
        "masked_lm_nsp": f"A {family} encoder, trained to fill in masked words and to tell whether one text follows another.",
        "distillation": f"A {family} encoder with a masked-LM head, distilled from {teacher}.",
    }
    own = f"A {family} encoder, trained with an objective of its maker's own, {plain(config.objective)}"
    return [
        what.get(config.objective, f"{own}{f' and {teacher}' if teacher else ''}."),
        "It fills in `[MASK]`, or is the start of fine-tuning on a task.",
    ]


def _corpus(said: str, place: str, name: str, run: Path) -> Iterator[str]:
    digest = run_directory.recorded_inputs(run).get(name, "")
    known = f", SHA-256 of its tokens `{digest}`" if digest else ""
    corpus = Corpus.open(place) if (Path(place) / "manifest.json").is_file() else None
    if corpus is None or corpus.fingerprint != digest:
        yield f"{said} the corpus {plain(place_name(place))}{known}."
        return
    manifest = corpus.manifest
    yield (
        f"{said} the corpus {plain(place_name(place))}: {manifest.documents:,} documents, {manifest.lines:,} lines, "
        f"{manifest.tokens:,} tokens of {counted(len(manifest.sources), 'file')}{known}."
    )
    shown = manifest.sources[:_SOURCES]
    yield table(("File", "Bytes", "SHA-256"), [(plain(one.file), f"{one.bytes:,}", f"`{one.sha256}`") for one in shown])
    if left := len(manifest.sources) - len(shown):
        yield f"And {left:,} more."


def _training(config: PretrainConfig, run: Path) -> Iterator[str]:
    inputs, data, optimizer = run_directory.recorded_inputs(run), config.data, config.optimizer
    if config.teacher:
        digest = f", SHA-256 of its weights `{inputs['teacher']}`" if "teacher" in inputs else ""
        yield f"Teacher: {plain(place_name(config.teacher))}{digest}."
    yield f"Loss: {_loss(config)}."
    masking = config.masking
    drawn = "at random" if masking.weighting == "uniform" else "rare ones more often"
    yield table(
        ("Setting", "Value"),
        [
            ("steps", f"{config.steps:,} of {data.batch_size} rows of {data.length} tokens"),
            ("tokens seen", f"{config.steps * data.batch_size * data.length:,} at most, padding included"),
            ("began with", _start(config.init)),
            (
                "masking",
                f"{masking.probability} of the tokens, chosen {drawn}; {number(100 * masking.mask)} % of them become `[MASK]`, "
                f"{number(100 * masking.random)} % another token",
            ),
            (
                "optimiser",
                f"AdamW, β {optimizer.beta1} and {optimizer.beta2}, ε {optimizer.eps}, weight decay {optimizer.weight_decay}, "
                f"gradients clipped at {optimizer.clip_norm}",
            ),
            (
                "learning rate",
                f"{optimizer.learning_rate} at its highest, {number(100 * optimizer.warmup)} % warm-up, then linear to 0",
            ),
            ("dropout", f"{config.model.hidden_dropout}, of attention {config.model.attention_dropout}"),
            ("matmuls in", config.run.dtype),
            ("seed", str(config.run.seed)),
            *(
                (f"`{one.field}`", plain(one.new))
                for one in differences(PretrainConfig(), config)
                if _is_told_here(one)
            ),
        ],
    )


def _is_told_here(setting: Difference) -> bool:
    """Whether a setting that is not as unless said changes what comes out, and has no words of its own in the card."""
    return not (setting.field in _SAID or setting.field.startswith(_SAID_OF) or run_directory.is_free(setting.field))


def _loss(config: PretrainConfig) -> str:
    """The terms of distillation with their weights and options; else the objective's name."""
    if config.objective != "distillation":
        names = {"masked_lm": "masked LM", "masked_lm_nsp": "masked LM and next-sentence prediction"}
        return names.get(config.objective, f"of the objective {plain(config.objective)}")
    own = [weighted(weight, plain(name)) for name, weight in config.loss.own.items() if any(ends(weight))]
    return " + ".join([*weighted_terms(config.loss), *own])


def _start(init: InitConfig) -> str:
    if not init.source:
        return "random weights"
    layers = "layers evenly spaced" if init.layers is None else init.layers
    chosen = layers if isinstance(layers, str) else f"layers {', '.join(map(str, layers))}"
    return f"weights of {plain(place_name(init.source))}, {chosen}"


def _evaluation(config: PretrainConfig, figures: dict[str, float], run: Path) -> Iterator[str]:
    if not figures:
        yield "Nothing was measured on held-out text."
        return
    yield from _corpus("Measured on", config.data.heldout, "data.heldout", run)
    yield table(
        ("What", "Value"), [(said, number(figures[name])) for name, said in _FIGURES.items() if name in figures]
    )
    yield (
        f"Of {figures.get('tokens', 0.0):,.0f} masked tokens in up to 512 rows of that text, {number(100 * _share())} % of the "
        "tokens, the same for every model, without dropout, after the last step. Of one run with one seed: its spread over seeds "
        "was not measured."
    )


def _share() -> float:
    return ends(MASKING.probability)[0]


def _limits(config: PretrainConfig, figures: dict[str, float]) -> Sequence[str]:
    measured = "how well it fills in masked words of the held-out text above" if figures else "nothing"
    teacher = ", and from its teacher what that has learned" if config.teacher else ""
    return [
        f"This run has measured {measured}. It has not measured: any task, other kinds of text or other languages than those that "
        "it was trained on, how it treats groups of people, or whether what it fills in is true.",
        f"A masked LM learns from its text which words go with which{teacher}, prejudices among them: what it puts in the place of "
        "`[MASK]` in a sentence about a man and in the same one about a woman may differ, and models that are fine-tuned from it "
        "may carry that on. `distilbert-jax bias --model DIR` sets such prompts side by side; "
        "a look at the pairs that matter to a use belongs before that use.",
    ]
