"""Training of one task and setting, ready for any seed: the step is compiled once, and what comes out is scored and kept."""

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distilbert_jax.config import FinetuneConfig
from distilbert_jax.errors import DivergedError, InputError
from distilbert_jax.finetuning import datasets, objective, preparation
from distilbert_jax.finetuning.batches import RandomBatches, packed_shape, wide_enough
from distilbert_jax.finetuning.identity import BATCHES
from distilbert_jax.finetuning.kinds import kind_of
from distilbert_jax.finetuning.predictions import write_predictions
from distilbert_jax.finetuning.predictor import predictor
from distilbert_jax.finetuning.preparation import NO_TEACHER, Teacher
from distilbert_jax.finetuning.results import RunResult
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.models.params import Params, merge, split
from distilbert_jax.text.tokenizer import load_tokenizer, special_ids
from distilbert_jax.training import cost, sharding
from distilbert_jax.training.callbacks import callbacks_of
from distilbert_jax.training.logging import RunLog
from distilbert_jax.training.loop import fit
from distilbert_jax.training.optimizer import adamw, schedule
from distilbert_jax.training.projections import draw_projections, of_model
from distilbert_jax.training.step import TrainState, init_state, make_train_step, stack_states


class Stage(NamedTuple):
    """Steps of a run, from `start` up to `stop`, in which one thing is learned."""

    learned: objective.Stage
    start: int
    stop: int


class Tuning:
    """One task and setting, ready for any seed.

    Args:
        config: the setting; its seed, directory and model are those of the first run.

    Raises:
        InputError: model, data or teacher do not fit; nothing is trained yet.
    """

    def __init__(self, config: FinetuneConfig):
        self.config, self.task = config, find_task(config.task)
        self.kind = kind_of(self.task)
        if self.task.trained_by:
            raise InputError(
                f"task {self.task.name!r} has no training data; the model of {self.task.trained_by} predicts it (--submit)",
                field="task",
            )
        self.mesh = sharding.make_mesh(config.mesh)
        sharding.check_batch(config.batch_size, config.optimizer.accumulate, self.mesh)
        self.tokenizer = load_tokenizer(config.model)
        self.pad_id = special_ids(self.tokenizer).pad
        splits = preparation.read_splits(config, self.task)
        self.data = preparation.encode_splits(splits, self.task, self.tokenizer, config.length)
        model = preparation.load_model(config, self.task)
        preparation.check_sizes(config, model, self.tokenizer, self.data)
        self.model_config = model.config
        self.graphdef, _ = split(model)
        self.train_rows = self.data.train
        if config.augment.copies:
            self._load_teacher(config.teacher)  # what is wrong with it is told before copies are made
            self.train_rows = preparation.with_copies(self.data.train, config, self.tokenizer)
        self.shape = packed_shape(self.train_rows.lengths, config.batch_size)
        shared_by = self.mesh.shape["data"] * self.mesh.shape["fsdp"] * config.optimizer.accumulate
        self.placed_shape = self.shape.for_mesh(shared_by)
        self.epochs = config.epochs or self.task.epochs
        per_epoch = self._batches(config).batches_per_epoch
        self.stages = [Stage("together", 0, self.epochs * per_epoch)]
        if layers := config.distill.layer_epochs * per_epoch:
            self.stages = [Stage("layers", 0, layers), Stage("answers", layers, layers + self.epochs * per_epoch)]
        self.steps = self.stages[-1].stop
        places = self.placed_shape.rows * self.placed_shape.length * self._batches(config).batches_per_epoch
        self.padding = 1.0 - int(self.train_rows.lengths.sum()) / places
        predicted = np.concatenate(
            [split.lengths for split in (*self.data.scored.values(), *self.data.unlabelled.values())]
        )
        self.predict = predictor(self.kind, self.graphdef, wide_enough(self.shape, predicted), self.pad_id, self.mesh)
        # By the number of seeds that train together, the teacher's shape, and what is learned.
        self._steps: dict[tuple[int, nnx.GraphDef | None, Stage], Callable[..., Any]] = {}

    @property
    def added(self) -> int:
        """Copies of rows that training has beside them."""
        return len(self.train_rows) - len(self.data.train)

    def _batches(self, config: FinetuneConfig) -> RandomBatches:
        return RandomBatches(self.train_rows.lengths, config.batch_size, config.run.seed, self.shape)

    def _teacher_of(self, configs: Sequence[FinetuneConfig]) -> str:
        """The directory of the teacher of these runs, or ""."""
        names = {config.teacher for config in configs}
        if len(names) > 1:
            raise InputError(
                f"distill.teacher = {self.config.distill.teacher}: seeds of one program share their teacher; "
                "leave out --vmap-seeds",
                field="distill.teacher",
            )
        return names.pop()

    @functools.lru_cache(maxsize=1)  # noqa: B019 (both end with the runs of a task)
    def _load_teacher(self, name: str) -> Teacher:
        if not name:
            return NO_TEACHER
        return preparation.load_teacher(name, self.config, self.task, self.tokenizer, self.data, self.mesh)

    def train(self, configs: Sequence[FinetuneConfig], directories: Sequence[Path]) -> list[RunResult]:
        """Train these runs, side by side when there is more than one, and score them: the results of `finetune_seeds`."""
        teacher = self._load_teacher(self._teacher_of(configs))
        self._announce(configs, directories)
        every, begun, why = self.config.run.log_every, time.perf_counter(), {}
        with contextlib.ExitStack() as stack:
            logs = [
                stack.enter_context(contextlib.closing(RunLog(path, 0, every, callbacks_of(self.config.run, path, 0))))
                for path in directories
            ]
            try:
                trained = self._fit(configs, teacher, logs, why)
            except DivergedError:  # each of them has its reason in `why`
                trained = [None] * len(configs)
            seconds = time.perf_counter() - begun
            return [
                self._result(*run, why.get(place, ""), seconds=round(seconds, 2), together=len(configs))
                for place, run in enumerate(zip(configs, directories, trained, logs, strict=True))
            ]

    def _announce(self, configs: Sequence[FinetuneConfig], directories: Sequence[Path]) -> None:
        added = f" and {self.added} copies of them" if self.config.augment.copies else ""
        for config, directory in zip(configs, directories, strict=True):
            print(
                f"{directory}: {self.task.name}, seed {config.run.seed}: {len(self.data.train)} rows{added}, {self.steps} steps of "
                f"{config.batch_size}; {self.data.train.cut / len(self.data.train):.1%} of the rows cut at {config.length} "
                f"tokens; {self.padding:.0%} of the places padding",
                file=sys.stderr,
            )
        for name, examples in self.data.scored.items():
            if said := self.kind.remark(examples):
                print(f"{self.task.name}, {name}: {said}", file=sys.stderr)

    def _fit(
        self,
        configs: Sequence[FinetuneConfig],
        teacher: Teacher,
        logs: Sequence[RunLog],
        diverged: dict[int, str],
    ) -> list[Params | None]:
        """The parameters of each run after its last step, None of one that diverged; why is put into `diverged`."""
        params = [self._initial_params(one, teacher) for one in configs]
        for stage in self.stages:
            trained = of_model(self._fit_stage(stage, params, configs, teacher, logs, diverged).params)
            apart = lambda place, trained=trained: jax.tree.map(lambda leaves: leaves[place], trained)
            params = [trained] if len(configs) == 1 else list(map(apart, range(len(configs))))
        return [None if place in diverged else one for place, one in enumerate(params)]

    def _fit_stage(
        self,
        stage: Stage,
        params: Sequence[Params],
        configs: Sequence[FinetuneConfig],
        teacher: Teacher,
        logs: Sequence[RunLog],
        diverged: dict[int, str],
    ) -> TrainState:
        """The state at a stage's end, of several runs with an axis of theirs. params: of each run as the stage begins."""
        config, several, steps = self.config, len(configs) > 1, stage.stop - stage.start
        optimizer, rate = adamw(config.optimizer, steps), schedule(config.optimizer, steps)
        pairs = zip(configs, params, strict=True)
        states = [init_state(begun, optimizer, one.run.seed, self.mesh) for one, begun in pairs]
        if stage.start:
            states = [dataclasses.replace(one, step=jnp.asarray(stage.start, jnp.int32)) for one in states]
        state = stack_states(states, self.mesh) if several else states[0]
        key = len(configs), teacher.graphdef, stage
        if key not in self._steps:
            learned = objective.supervised(
                self.kind,
                self.graphdef,
                teacher.graphdef,
                config.distill,
                dtype=jnp.dtype(config.run.dtype),
                stage=stage.learned,
                steps=steps,
            )
            self._steps[key] = make_train_step(
                learned, optimizer, state, teacher.params, self.mesh, config.optimizer.accumulate, stacked=several
            )
        return fit(
            state,
            self._steps[key],
            teacher.params,
            functools.partial(self._placed, [self._batches(one) for one in configs]),
            config.run,
            self.steps,
            lambda step: rate(step - stage.start),
            title=f"{self.task.name}-{','.join(str(one.run.seed) for one in configs)}",
            unit="examples",
            logs=logs,
            diverged=diverged,
            until=stage.stop,
        )

    def _initial_params(self, config: FinetuneConfig, teacher: Teacher) -> Params:
        """The model's, and projections of the teacher's terms."""
        params = sharding.pad_vocabulary(split(preparation.load_model(config, self.task))[1])
        if not teacher.config:
            return params
        asked = objective.layer_terms(config.distill)
        return params | draw_projections(asked, self.model_config, teacher.config, config.run.seed)

    def _placed(self, batches: Sequence[RandomBatches], start: int, stop: int) -> Iterator[dict[str, jax.Array]]:
        where = sharding.batch_sharding(self.mesh, stacked=len(batches) > 1)
        for k in range(start, stop):
            rows = [self.train_rows.packed(one.batch(k), self.placed_shape, self.pad_id) for one in batches]
            whole = rows[0] if len(rows) == 1 else {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            yield jax.device_put(whole, where)

    def _result(
        self,
        config: FinetuneConfig,
        directory: Path,
        params: Params | None,
        log: RunLog,
        why: str,
        *,
        seconds: float,
        together: int,
    ) -> RunResult:
        """Evaluate a trained run and keep what it predicts. params: None of a run that diverged, and `why` it did."""
        if params and not all(bool(jnp.isfinite(value).all()) for value in params.values()):
            params, why = None, "the weights are not finite; try a lower learning rate"
        if why:
            print(f"{directory}: diverged, its score counts as 0: {why}", file=sys.stderr)
        if params:
            scores = self._evaluate(params, directory, log)
            if config.save_model:
                trained = sharding.cut_vocabulary(params, self.model_config.vocab_size)
                merge(self.graphdef, trained).save_pretrained(directory / "model", self.tokenizer)
        else:
            scores = {
                name: dict.fromkeys((*self.task.metrics, *self.task.beside, "score"), 0.0) for name in self.data.scored
            }
            for name, examples in self.data.scored.items():
                write_predictions(directory, name, self.kind.files(None, examples.targets))
        tests = datasets.test_splits(self.task, config.data) if config.predict_test else ()
        return RunResult(
            task=self.task.name,
            model=config.model,
            seed=config.run.seed,
            score=next(iter(scores.values()))["score"],
            scores=scores,
            steps=self.steps,
            train_rows=len(self.data.train),
            added_rows=self.added if config.augment.copies else None,
            dev_rows={name: len(examples) for name, examples in self.data.scored.items()},
            cut_share=self.data.train.cut / len(self.data.train),
            padding_share=self.padding,
            batches=BATCHES,
            flops=self.steps * cost.tuning_flops(self.model_config, self.placed_shape.rows, self.placed_shape.length),
            tested={file: datasets.fingerprint_of_test(of, name, config.data) for of, name, file in tests},
            diverged=why,
            train_seconds=seconds,
            together=together,
        )

    def _evaluate(self, params: Params, directory: Path, log: RunLog) -> dict[str, dict[str, float]]:
        """Scores of every split that has labels; what is predicted of all is kept."""
        scores = {}
        for name, examples in self.data.scored.items():
            outputs = self.predict(params, examples)
            write_predictions(directory, name, self.kind.files(outputs, examples.targets))
            scores[name] = self.kind.score(self.task, outputs, examples.targets)
            log.write("eval", self.steps, {f"{name}/{metric}": value for metric, value in scores[name].items()})
        for name, examples in self.data.unlabelled.items():
            write_predictions(directory, name, self.kind.files(self.predict(params, examples), None))
        return scores
