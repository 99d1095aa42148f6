"""Laboratory: distillation losses on the miniature's encoder and text at equal FLOPs, screened before one of them is run for long.

    distilbert-jax experiment laboratory --text wikipedia.txt.xz novels.txt.xz --heldout-text heldout.txt.xz --data GLUE_FOLDER
    distilbert-jax train laboratory:minilmv2             # one of its models; laboratory:triple needs laboratory:teacher before

`laboratory:long` has ten times the FLOPs, four tasks and five seeds of fine-tuning; each student also with a second and a third
seed of pre-training (`minilmv2-2`, `minilmv2-3`). `laboratory:toy` runs every part of it, too briefly to learn anything. The
teacher is MiniLM as it is; students begin with its layers 0, 2, 5.

    teacher          MiniLM with a masked-LM head, for what needs logits; its FLOPs are counted to those that use it
    triple           KL at the masked tokens, masked LM, cosine: 5, 2, 1
    mlm              masked LM alone
    minilmv2         relations between queries, keys and values of the last layers
    minilm           attention and relations between values of the last layers
    tinybert         hidden states, embeddings, attention scores of every layer
    minilmv2_mlm     relations, and masked LM
    minilmv2_hidden  relations, and the hidden states of every layer
    mlm-layers       the best of these, `mlm`, that begins with layers 1, 3, 5
    mlm-masking      … with masking that falls from 30 to 15 %
    mlm-documents    … with rows of documents in the place of lines
    cut              MiniLM's layers 0, 2, 5 without a step
    encoder          MiniLM as it is

The rule, written before anything ran: the best mean of CoLA and STS-B on selection splits of train (`glue/choice/*/choice.json`,
the better of two rates, one seed) is run for long; of two within half a point the one that trains a masked-LM head. Dev decides
nothing. It came to `mlm`, a fifth of a point before `minilmv2_mlm`: docs/results/laboratory.md.

Cost: 0.1 PFLOP a student (a tenth of an hour to two tenths on two idle cores), as much again for its fine-tuning; 1 PFLOP a
student in `long`, which is for an accelerator.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from distilbert_jax.config import (
    AttentionScoresConfig,
    CosConfig,
    EmbeddingsConfig,
    ExperimentConfig,
    HiddenConfig,
    InitConfig,
    KLConfig,
    LossConfig,
    MiniLMConfig,
    MiniLMv2Config,
    MLMConfig,
    PretrainConfig,
    Schedule,
    SweepConfig,
    Variant,
)
from distilbert_jax.configs import miniature

PFLOP = {"screen": 0.1, "long": 1.0}  # of a student, with what its teacher took to get a head
_LAYERS = (0, 2, 5)
_RELATIONS = MiniLMv2Config(1.0, relation_heads=12)  # 48 are slow on a CPU, where they are eight wide


def _alone(**terms: Any) -> LossConfig:
    """A loss of these terms and no other."""
    return LossConfig(**{"kl": KLConfig(0.0), "mlm": MLMConfig(0.0), "cos": CosConfig(0.0), **terms})


LOSSES = {
    "triple": LossConfig(kl=KLConfig(tokens="masked")),
    "minilmv2": _alone(minilmv2=_RELATIONS),
    "minilm": _alone(minilm=MiniLMConfig(1.0)),
    "tinybert": _alone(
        hidden=HiddenConfig(1.0), embeddings=EmbeddingsConfig(1.0), attention_scores=AttentionScoresConfig(1.0)
    ),
    "minilmv2_mlm": _alone(minilmv2=_RELATIONS, mlm=MLMConfig(1.0)),
    "minilmv2_hidden": _alone(minilmv2=_RELATIONS, hidden=HiddenConfig(1.0)),
}
# What a student may begin or train with besides its loss: `model("minilmv2-masking-2", "long")`, of seed 2.
CHANGES: dict[str, Callable[[PretrainConfig], PretrainConfig]] = {
    "layers": lambda config: dataclasses.replace(config, init=dataclasses.replace(config.init, layers=(1, 3, 5))),
    "masking": lambda config: dataclasses.replace(
        config, masking=dataclasses.replace(config.masking, probability=Schedule("linear", 0.3, 0.15))
    ),
    "documents": lambda config: dataclasses.replace(
        config, data=dataclasses.replace(config.data, sequences="document")
    ),
}
# Of 32 rows of 128 tokens: as many as make 0.1 PFLOP, which a test counts; ten times as many in `long`.
STEPS = {
    "teacher": 94,
    "triple": 241,
    "mlm": 546,
    "minilmv2": 533,
    "minilm": 538,
    "tinybert": 436,
    "minilmv2_mlm": 373,
    "minilmv2_hidden": 427,
    "cut": 0,
    # Twice the tokens drawn are room for twice the logits.
    "triple-masking": 201,
    "mlm-masking": 441,
    "minilmv2_mlm-masking": 321,
}
TRAINED = ("triple", "mlm", *(name for name in LOSSES if name != "triple"))  # the students that differ by their seed
_MODELS = ("teacher", *TRAINED, "cut")
TIERS = ("screen", "long", "toy")
BEST = "mlm"  # of the losses, by the rule: what is changed besides
# A student's name with a number behind it: of another seed of pre-training than the first, 1.
MODELS = {
    "screen": (*_MODELS, *(f"{BEST}-{change}" for change in CHANGES)),
    "toy": (*_MODELS, *(f"{BEST}-{change}" for change in CHANGES)),
    "long": (*_MODELS, *(f"{name}-{seed}" for seed in (2, 3) for name in TRAINED)),
}
VARIANTS = ("experiment", *TIERS, *MODELS["screen"], *(f"{tier}/{name}" for tier in TIERS for name in MODELS[tier]))


def get_config(variant: str = "experiment") -> ExperimentConfig | PretrainConfig:
    if variant == "experiment" or variant in TIERS:
        return experiment("screen" if variant == "experiment" else variant)
    tier, _, name = variant.rpartition("/")
    return model(name, tier or "screen")


def model(title: str, tier: str) -> PretrainConfig:
    """One of the models, in a directory of its own."""
    name, *changes = title.split("-")
    seed = changes.pop() if changes and changes[-1].isdecimal() else ""
    size = "toy" if tier == "toy" else "cpu"
    source = miniature.encoder()
    if name == "teacher":
        config = miniature.teacher(size)
    elif name == "triple":
        made = f"runs/laboratory/{tier}/teacher/model"
        config = dataclasses.replace(miniature.triple(size), teacher=made, loss=LOSSES[name])
        config = dataclasses.replace(config, init=InitConfig(source=made, layers=_LAYERS))
    else:
        config = dataclasses.replace(
            miniature.mlm(size), init=InitConfig(source=source, layers=_LAYERS, unigram_bias=True)
        )
        if loss := LOSSES.get(name):
            config = dataclasses.replace(config, objective="distillation", teacher=source, loss=loss)
    for change in changes:
        config = CHANGES[change](config)
    screened = STEPS.get(title.removesuffix(f"-{seed}"), STEPS[name])
    steps = {"toy": min(screened, 20), "screen": screened, "long": 10 * screened}[tier]
    run = dataclasses.replace(
        config.run,
        directory=f"runs/laboratory/{tier}/{title}",
        seed=int(seed) if seed else config.run.seed,
        eval_every=-(-steps // 4),
        save_every=1000 if tier == "long" else 100,
    )
    return dataclasses.replace(config, steps=steps, run=run)


def experiment(tier: str) -> ExperimentConfig:
    config = miniature.experiment("toy" if tier == "toy" else "cpu")
    rates = {"toy": (1e-4,), "screen": (1e-4, 2e-4), "long": (5e-5, 1e-4, 2e-4)}[tier]
    tasks = {"toy": ("rte", "mrpc"), "screen": ("cola", "stsb"), "long": ("cola", "stsb", "mrpc", "rte")}[tier]
    seeds = (0, 1, 2, 3, 4) if tier == "long" else (0,)  # of fine-tuning
    return dataclasses.replace(
        config,
        directory=f"runs/laboratory/{tier}",
        variants=(
            *(Variant(name, seeds, pretrain=model(name, tier)) for name in MODELS[tier]),
            Variant("encoder", seeds, model=miniature.encoder()),
        ),
        teacher="encoder",
        student="triple",
        tasks=tasks,
        sweep=SweepConfig(learning_rate=rates, epochs=(1,) if tier == "toy" else (3,)),
        vmap_seeds=tier == "long",
    )
