"""What an experiment compares: models, pre-trained or taken as they are, and how they are fine-tuned."""

import dataclasses
from pathlib import Path

from distilbert_jax.config import FinetuneConfig, GridConfig, PretrainConfig
from distilbert_jax.config_checks import require
from distilbert_jax.errors import nearest


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the models that are compared: pre-trained from a config, or an HF directory as it is."""

    name: str
    seeds: tuple[int, ...]  # of fine-tuning
    pretrain: PretrainConfig | None = None
    model: str = ""  # HF directory or hub id

    def __post_init__(self) -> None:
        plain = self.name not in ("", ".", "..") and self.name.isprintable() and "/" not in self.name
        require(plain, self, "name", "expected a name that a directory can have, without /")
        require((self.pretrain is None) != (self.model == ""), self, "model", "expected it or pretrain, one of the two")
        require(len(self.seeds) == len(set(self.seeds)) > 0, self, "seeds", "expected one or more, each once")
        require(all(0 <= seed < 2**32 for seed in self.seeds), self, "seeds", "expected 0 ≤ seed < 2³²")


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """Arms, in the order in which they are made, and how they are compared. An arm's run stands in <directory>/<name>."""

    directory: str
    arms: tuple[Arm, ...]
    teacher: str  # the arm whose score the others retain a share of
    student: str  # the arm that the others are compared with
    tokenizer: str  # of the corpora; HF directory or hub id
    tasks: tuple[str, ...]
    grid: GridConfig = dataclasses.field(default_factory=GridConfig)
    glue: FinetuneConfig = dataclasses.field(default_factory=FinetuneConfig)
    vmap_seeds: bool = False  # the seeds of a task in one vmapped step, for accelerators
    heldout_rows: int = 2048  # rows of held-out text that every arm is asked in the end

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        require(len(names) == len(set(names)), self, "arms", "two have the same name")
        for field in ("teacher", "student"):
            require(getattr(self, field) in names, self, field, nearest(getattr(self, field), names))
        require(len(self.tasks) == len(set(self.tasks)) > 0, self, "tasks", "expected one or more, each once")
        require(self.heldout_rows > 0, self, "heldout_rows", "expected 1 or more")
        for arm in self.arms:
            if arm.pretrain:
                place = f"{self.directory}/{arm.name}"
                require(arm.pretrain.run.directory == place, arm, "pretrain", f"its run.directory is not {place}")

    def run_of(self, arm: Arm) -> Path:
        return Path(self.directory) / arm.name
