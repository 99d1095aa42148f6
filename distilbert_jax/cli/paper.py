"""Tables of the DistilBERT paper: `distilbert-jax paper`."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from distilbert_jax.base import runtime, signals, tables
from distilbert_jax.base.config_io import to_values
from distilbert_jax.base.files import check_writable
from distilbert_jax.cli.arguments import directory_called_out, print_json, running, training_together
from distilbert_jax.config import Activations, Dtype, FinetuneConfig, MeshConfig
from distilbert_jax.errors import DivergedError, InputError, few

_OF_TABLE_2 = ("teacher", "tasks", "seeds", "epochs", "max_train_rows", "accumulate", "mesh", "out")


@dataclass(frozen=True)
class PaperCommand:
    """Tables of the DistilBERT paper, of models of your own, with its rows beside them.

    distilbert-jax paper --table 2 --model DIR --teacher SQUAD_DIR: fine-tuned on IMDb (three epochs at 2e-5, batch 32, 512 tokens)
    and SQuAD (two at 3e-5, batch 12, 384 tokens), and on SQuAD once more beside a teacher that was fine-tuned on it, the paper's
    second distillation step. Interrupted, the same command goes on.

    distilbert-jax paper --table 3 --model DIR DIR: the time of one pass over STS-B's dev set at batch 1, of models side by side.
    """

    model: tuple[str, ...]  # HF directories or hub ids; of table 3 the others are compared with the first
    table: Literal[2, 3] = 3  # of the paper
    # folder with imdb/ and squad/ (table 2) or stsb/ (table 3) and their .parquet files; empty: from the hub
    data: str = ""
    # table 3: tokens that every pair is padded or cut to; default: its own, padded to 16, 32, 64 …
    length: int | None = None
    teacher: str = ""  # table 2: HF directory of a model fine-tuned on SQuAD; empty: without the second step
    tasks: tuple[Literal["imdb", "squad"], ...] = ("imdb", "squad")  # table 2
    seeds: tuple[int, ...] = (0,)  # table 2
    epochs: int | None = None  # table 2; default: the task's own
    max_train_rows: int | None = None  # table 2: the first so many rows only
    accumulate: int = 1  # table 2: micro-batches a step: the same, in less memory
    mesh: MeshConfig = field(default_factory=MeshConfig)  # table 2
    out: str = "runs/paper"  # table 2: directory of the runs
    dtype: Dtype = "float32"  # of the matmuls
    activations: Activations = "auto"  # between layers; auto: bfloat16 on accelerators where dtype is
    json: bool = False  # one JSON object a model

    def run(self) -> None:
        plain = PaperCommand(self.model)
        for name in ("length",) if self.table == 2 else _OF_TABLE_2:
            if getattr(self, name) != getattr(plain, name):
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} is not of table {self.table}: leave it out", field=option)
        if self.table == 2:
            with training_together() as together:
                self._scores(together=together)
        else:
            self._speed()

    def _scores(self, *, together: bool) -> None:
        out = check_writable(self.out, "--out", directory=True)
        plain = FinetuneConfig()
        config = dataclasses.replace(
            plain,
            epochs=self.epochs,
            max_train_rows=self.max_train_rows,
            mesh=self.mesh,
            optimizer=dataclasses.replace(plain.optimizer, accumulate=self.accumulate),
            run=dataclasses.replace(plain.run, dtype=self.dtype, activations=self.activations),
        )
        with signals.leaving_at_ctrl_c():
            from distilbert_jax.finetuning.paper_scores import lines, paper_scores, remarks, title

        with signals.leaving_when_asked(together=together), runtime.compiling_once(), directory_called_out():
            results = paper_scores(
                self.model,
                config,
                out=Path(out),
                data=self.data,
                tasks=self.tasks,
                teacher=self.teacher,
                seeds=self.seeds,
            )
        if self.json:
            for one in results:
                print_json(to_values(one))
        else:
            tables.show(tables.terminal(lines(results), title(results)))
            print("\n".join(remarks(results)))
        if diverged := [one.model for one in results if any(spread.is_diverged for spread in one.scores.values())]:
            raise DivergedError(f"{out}: each seed diverged of {few(diverged, ', ')}", path=out)

    def _speed(self) -> None:
        from distilbert_jax.probes.paper_speed import lines, paper_passes, title

        passes = paper_passes(self.model, self.data, length=self.length, dtype=self.dtype, activations=self.activations)
        if self.json:
            for one in passes:
                print_json(to_values(one))
        else:
            tables.show(tables.terminal(lines(passes), title(passes)))


COMMANDS = {"paper": running(PaperCommand)}
