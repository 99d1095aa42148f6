"""Training of one task and setting, ready for any seed: the step is compiled once, and what comes out is scored and kept."""

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from optax import GradientTransformation

from distilbert_jax.config import FinetuneConfig
from distilbert_jax.errors import DivergedError, InputError
from distilbert_jax.finetuning import datasets, objective, preparation
from distilbert_jax.finetuning.batches import RandomBatches, packed_shape, wide_enough
from distilbert_jax.finetuning.examples import Examples
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
from distilbert_jax.training.optimizer import adamw, layer_shares, schedule
from distilbert_jax.training.projections import draw_projections, of_model
from distilbert_jax.training.step import init_state, make_train_step, stack_states


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
        self.train_rows = preparation.weighted(self.data.train, config, self.task)
        if config.augment.copies:
            self._load_teacher(config.teacher)  # what is wrong with it is told before copies are made
            self.train_rows = preparation.with_copies(self.data.train, config, self.tokenizer)
        self.shape = packed_shape(self.train_rows.lengths, config.batch_size)
        shared_by = self.mesh.shape["data"] * self.mesh.shape["fsdp"] * config.optimizer.accumulate
        self.placed_shape = self.shape.for_mesh(shared_by)
        self.epochs = config.epochs or self.task.epochs
        self.per_epoch = per_epoch = self._batches(config).batches_per_epoch
        self.stages = [Stage("together", 0, self.epochs * per_epoch)]
        if layers := config.distill.layer_epochs * per_epoch:
            self.stages = [Stage("layers", 0, layers), Stage("answers", layers, layers + self.epochs * per_epoch)]
        self.steps = self.stages[-1].stop
        places = self.placed_shape.rows * self.placed_shape.length * self._batches(config).batches_per_epoch
        self.padding = 1.0 - int(self.train_rows.lengths.sum()) / places
        predicted = np.concatenate([split.lengths for split in self.data.every() if split is not self.data.train])
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
        train = self.data.train
        for config, directory in zip(configs, directories, strict=True):
            print(
                f"{directory}: {self.task.name}, seed {config.run.seed}: {train.count} rows{added}, {self.steps} steps of "
                f"{config.batch_size}; {train.cut / train.count:.1%} of the rows cut at {config.length} tokens; "
                f"{self.padding:.0%} of the places padding",
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
            selects = self.config.select and stage is self.stages[-1]
            params = self._fit_stage(stage, params, configs, teacher, logs, diverged, selects=selects)
        return [None if place in diverged else one for place, one in enumerate(params)]

    def _fit_stage(
        self,
        stage: Stage,
        params: Sequence[Params],
        configs: Sequence[FinetuneConfig],
        teacher: Teacher,
        logs: Sequence[RunLog],
        diverged: dict[int, str],
        *,
        selects: bool = False,
    ) -> list[Params]:
        """The parameters of each run at a stage's end.

        Args:
            params: of each run as the stage begins.
            selects: take those at the end of the epoch that is best on the selection split, the first of equal ones.
        """
        config, several, steps = self.config, len(configs) > 1, stage.stop - stage.start
        optimizer, rate = self._optimizer(params[0], steps), schedule(config.optimizer, steps)
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
        best: list[tuple[float, Any]] = []
        ends = range(stage.start + self.per_epoch, stage.stop + 1, self.per_epoch) if selects else (stage.stop,)
        for epoch, end in enumerate(ends, 1):
            state = fit(
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
                until=end,
            )
            trained = of_model(state.params)
            of_run = lambda place, trained=trained: jax.tree.map(lambda leaves: leaves[place], trained)
            params = [*map(of_run, range(len(configs)))] if several else [trained]
            if not selects:
                break
            # Copies: the next epoch takes the memory of these.
            scored = [(self._selected(one), {name: np.array(value) for name, value in one.items()}) for one in params]
            best = [max(pair, key=lambda one: one[0]) for pair in zip(best, scored, strict=True)] if best else scored
            for log, (value, _) in zip(logs, scored, strict=True):
                log.write("eval", end, {"selection/score": value, "selection/epoch": epoch})
        return [jax.device_put(one, sharding.shardings(one, self.mesh)) for _, one in best] if selects else list(params)

    def _selected(self, params: Params) -> float:
        """The score on the selection split."""
        examples = self.data.selection
        assert examples is not None
        return self.kind.score(self.task, self._predicted(params, examples), examples.targets)["score"]

    def _optimizer(self, names: Iterable[str], steps: int) -> GradientTransformation:
        """AdamW for parameters of these names, as far as they are trained and each at its rate."""
        config, layers = self.config, self.model_config.num_hidden_layers
        frozen = [name for name in names if name.startswith("encoder.")] if config.freeze == "encoder" else ()
        shares = layer_shares(names, layers, config.layer_decay) if config.layer_decay < 1.0 else None
        return adamw(config.optimizer, steps, frozen, shares)

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
            train_rows=self.data.train.count,
            added_rows=self.added if config.augment.copies else None,
            dev_rows={name: examples.count for name, examples in self.data.scored.items()},
            cut_share=self.data.train.cut / self.data.train.count,
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
            predicted = self._predicted(params, examples)
            write_predictions(directory, name, self.kind.files(predicted, examples.targets))
            scores[name] = self.kind.score(self.task, predicted, examples.targets)
            log.write("eval", self.steps, {f"{name}/{metric}": value for metric, value in scores[name].items()})
        for name, examples in self.data.unlabelled.items():
            write_predictions(directory, name, self.kind.files(self._predicted(params, examples), None))
        return scores

    def _predicted(self, params: Params, examples: Examples) -> Any:
        return self.kind.decoded(self.predict(params, examples), examples)
