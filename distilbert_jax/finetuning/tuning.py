"""Training of one task and setting, ready for any seed: the step is compiled once, and what comes out is scored and kept."""

import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from optax import GradientTransformation

from distilbert_jax.config import FinetuneConfig
from distilbert_jax.errors import DivergedError, InputError, NotFiniteError
from distilbert_jax.finetuning import datasets, objective, preparation
from distilbert_jax.finetuning.batches import RandomBatches, packed_shape, wide_enough
from distilbert_jax.finetuning.checkpoints import Run, goes_on
from distilbert_jax.finetuning.examples import Examples
from distilbert_jax.finetuning.identity import BATCHES
from distilbert_jax.finetuning.kinds import kind_of
from distilbert_jax.finetuning.optimizer import held_of, optimizer_of
from distilbert_jax.finetuning.predictions import write_predictions
from distilbert_jax.finetuning.predictor import Outputs, packed_outputs, predictor
from distilbert_jax.finetuning.preparation import NO_TEACHER, Teacher
from distilbert_jax.finetuning.results import RunResult
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.models.params import Params, merge, split
from distilbert_jax.text.tokenizer import load_tokenizer, special_ids
from distilbert_jax.training import cost, distributed, sharding
from distilbert_jax.training.loop import Evaluate, fit
from distilbert_jax.training.optimizer import schedule
from distilbert_jax.training.projections import draw_projections, of_model
from distilbert_jax.training.step import TrainState, init_state, make_train_step, stack_states
from distilbert_jax.training.terms import all_reads

_NO_SCORE = -1000.0  # of an epoch: less than any metric × 100


class Stage(NamedTuple):
    """Steps of a run, from `start` up to `stop`, in which one thing is learned."""

    learned: objective.Stage
    start: int
    stop: int


def shared_teacher(configs: Sequence[FinetuneConfig]) -> str:
    """The directory of the teacher of runs that train in one program, or "".

    Raises:
        InputError: they have several.
    """
    names = {config.teacher for config in configs}
    if len(names) > 1:
        raise InputError(
            f"distill.teacher = {configs[0].distill.teacher}: seeds of one program share their teacher; leave out --vmap-seeds, or "
            "name the teacher of one seed",
            field="distill.teacher",
        )
    return names.pop()


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
        sharding.check_batch(config.batch_size, config.optimizer.accumulate, self.mesh, "batch_size")
        self.tokenizer = load_tokenizer(config.model)
        self.pad_id = special_ids(self.tokenizer).pad
        splits = preparation.read_splits(config, self.task)
        self.data = preparation.encode_splits(splits, self.task, self.tokenizer, config.length)
        model = preparation.load_model(config, self.task)
        preparation.check_sizes(config, model, self.tokenizer, self.data)
        self.model_config = model.config
        self.graphdef, _ = split(model)
        self._teacher = "", NO_TEACHER  # the last one, by its directory, and its answers
        self._outputs: dict[nnx.GraphDef, Outputs] = {}
        self.train_rows = preparation.weighted(self.data.train, config)
        if config.augment.copies:
            self._load_teacher(config.teacher)  # what is wrong with it is told before copies are made
            self.train_rows = preparation.with_copies(self.data.train, config, self.tokenizer)
        self._taught = "", self.train_rows
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
        wide = wide_enough(self.shape, predicted)
        self.predict = predictor(self.kind, self.graphdef, wide, self.pad_id, self.mesh, config.model)
        # By the number of seeds that train together, the teacher's shape, and what is learned.
        self._steps: dict[tuple[int, nnx.GraphDef | None, Stage], Callable[..., Any]] = {}

    @property
    def added(self) -> int:
        """Copies of rows that training has beside them."""
        return len(self.train_rows) - len(self.data.train)

    def _batches(self, config: FinetuneConfig) -> RandomBatches:
        return RandomBatches(self.train_rows.lengths, config.batch_size, config.run.seed, self.shape)

    def _load_teacher(self, name: str) -> Teacher:
        if name != self._teacher[0]:
            self._teacher = "", NO_TEACHER
            teacher = preparation.load_teacher(name, self.config, self.task, self.tokenizer, self.data, self.mesh)
            self._teacher = name, teacher
        return self._teacher[1]

    def _ask(self, name: str) -> None:
        """Let `_taught` be the rows to train on with this teacher's answers to them."""
        if name != self._taught[0]:
            self._taught = "", self.train_rows
            teacher = self._load_teacher(name)
            graphdef = teacher.graphdef
            assert graphdef is not None, "who asks has a teacher"
            if graphdef not in self._outputs:
                self._outputs[graphdef] = packed_outputs(self.kind, graphdef, self.shape, self.pad_id, self.mesh)
            outputs = self._outputs[graphdef]
            self._taught = name, preparation.taught(self.train_rows, self.kind, teacher, outputs, self.mesh, name)

    def train(self, configs: Sequence[FinetuneConfig], directories: Sequence[Path]) -> list[RunResult]:
        """Train these runs, side by side when there is more than one, from where they were interrupted, and score them: the results
        of `finetune_seeds`."""
        name = shared_teacher(configs)
        teacher = self._load_teacher(name)
        started, why = time.perf_counter(), {}
        if any(objective.asks_once(self.config.distill, stage.learned) for stage in self.stages):
            self._ask(name)  # what is wrong with its answers is told before anything is trained
        with goes_on(configs, directories, self.steps, why) as runs:
            self._announce(runs)
            try:
                trained = self._fit(runs, teacher, why)
            except DivergedError:  # each of them has its reason in `why`
                trained = [None] * len(runs)
            seconds = round(time.perf_counter() - started + max(run.seconds for run in runs), 2)
            return [
                self._result(*run, teacher, why.get(place, ""), seconds=seconds, together=len(runs))
                for place, run in enumerate(zip(runs, trained, strict=True))
            ]

    def _announce(self, runs: Sequence[Run]) -> None:
        added = f" and {self.added} copies of them" if self.config.augment.copies else ""
        train, length = self.data.train, self.config.length
        rows = f"of the questions too long and cut, contexts in windows of {length} tokens"
        cut = rows if self.task.kind == "answers" else f"of the rows cut at {length} tokens"
        for run in runs:
            print(
                f"{run.directory}: {self.task.name}, seed {run.config.run.seed}: {train.count} rows{added}, {self.steps} steps of "
                f"{self.config.batch_size}; {train.cut / train.count:.1%} {cut}; "
                f"{self.padding:.0%} of the places padding" + (f"; goes on from step {run.begun}" if run.begun else ""),
                file=sys.stderr,
            )
        for name, examples in self.data.scored.items():
            if said := self.kind.remark(examples):
                print(f"{self.task.name}, {name}: {said}", file=sys.stderr)

    def _fit(self, runs: Sequence[Run], teacher: Teacher, diverged: dict[int, str]) -> list[Params | None]:
        """The parameters of each run after its last step, None of one that diverged; why is put into `diverged`."""
        params, begun = [self._initial_params(one.config, teacher) for one in runs], runs[0].begun
        for stage in self.stages:
            if stage.stop < begun:  # it is over: parameters of the names and shapes that it ended with do
                params = [of_model(one) for one in params]
            else:
                params = self._fit_stage(stage, params, runs, teacher, diverged)
        if self.config.select:
            placed = lambda one: sharding.put(one.params, sharding.shardings(one.params, self.mesh))
            params = [run.best and placed(run.best) for run in runs]
        return [None if place in diverged else one for place, one in enumerate(params)]

    def _fit_stage(
        self, stage: Stage, params: Sequence[Params], runs: Sequence[Run], teacher: Teacher, diverged: dict[int, str]
    ) -> list[Params]:
        """The parameters of each run at a stage's end, without projections.

        Args:
            params: of each run as the stage begins; of one that goes on from within it only their names and shapes count.
        """
        config, several, steps = self.config, len(runs) > 1, stage.stop - stage.start
        asked = objective.asks_once(config.distill, stage.learned)
        rows = self._taught[1] if asked else self.train_rows
        frozen: Params = {} if asked else sharding.put(teacher.params, sharding.shardings(teacher.params, self.mesh))
        optimizer = optimizer_of(config, params[0], self.model_config.num_hidden_layers, steps)
        rate = schedule(config.optimizer, steps)
        pairs = zip(runs, params, strict=True)
        states = [init_state(begun, optimizer, one.config.run.seed, self.mesh) for one, begun in pairs]
        if runs[0].begun > stage.start:
            states = [one.restored(state) for one, state in zip(runs, states, strict=True)]
        elif stage.start:
            states = [dataclasses.replace(one, step=one.step + stage.start) for one in states]
        state = stack_states(states, self.mesh) if several else states[0]
        selects = config.select and stage is self.stages[-1]
        state = fit(
            state,
            self._step_of(stage, len(runs), teacher, optimizer, state, frozen),
            frozen,
            functools.partial(self._placed, rows, [self._batches(one.config) for one in runs]),
            dataclasses.replace(config.run, eval_every=self.per_epoch),
            self.steps,
            lambda step: rate(step - stage.start),
            title=f"{self.task.name}-{','.join(str(one.config.run.seed) for one in runs)}",
            names=[f"{self.task.name}-{one.config.run.seed}" for one in runs],
            unit="examples",
            logs=[one.log for one in runs if one.log],
            checkpoints=runs if config.run.save_every else (),
            evaluate=[self._epoch_ends(one, stage) for one in runs] if selects else (),
            diverged=diverged,
            until=stage.stop,
        )
        trained = of_model(state.params)
        of_run = lambda place: jax.tree.map(lambda leaves: leaves[place], trained)
        return [*map(of_run, range(len(runs)))] if several else [trained]

    def _step_of(
        self,
        stage: Stage,
        seeds: int,
        teacher: Teacher,
        optimizer: GradientTransformation,
        state: TrainState,
        frozen: Params,
    ) -> Callable[..., Any]:
        """The train step of a stage, which is compiled once."""
        key = seeds, teacher.graphdef, stage
        if key not in self._steps:
            learned = objective.supervised(
                self.kind,
                self.graphdef,
                teacher.graphdef,
                self.config.distill,
                dtype=jnp.dtype(self.config.run.dtype),
                stage=stage.learned,
                start=stage.start,
                steps=stage.stop - stage.start,
            )
            accumulate = self.config.optimizer.accumulate
            held, given = held_of(self.config, state.params), (learned, optimizer, state, frozen)
            self._steps[key] = make_train_step(*given, self.mesh, accumulate, held=held, stacked=seeds > 1)
        return self._steps[key]

    def _epoch_ends(self, run: Run, stage: Stage) -> Evaluate:
        """What scores the selection split at the end of each epoch, from where a run goes on, and keeps the best one."""
        epochs = itertools.count(1 + max(run.begun - stage.start, 0) // self.per_epoch)

        def evaluate(params: Params) -> dict[str, float]:
            own = of_model(params)
            score = self._selected(own)
            # Copies: the next step takes the memory of these.
            run.keep(
                score, lambda: {name: np.array(value) for name, value in distributed.whole(own, self.mesh).items()}
            )
            return {"selection/score": score, "selection/epoch": next(epochs)}

        return evaluate

    def _selected(self, params: Params) -> float:
        """The score on the selection split; of outputs that are not finite less than any."""
        examples = self.data.selection
        assert examples is not None
        try:
            predicted = self._predicted(params, examples)
        except NotFiniteError:
            return _NO_SCORE
        return self.kind.score(self.task, predicted, examples.targets)["score"]

    def _initial_params(self, config: FinetuneConfig, teacher: Teacher) -> Params:
        """The model's, and projections of the teacher's terms."""
        params = sharding.pad_vocabulary(split(preparation.load_model(config, self.task))[1])
        if not teacher.config:
            return params
        asked = objective.layer_terms(config.distill)
        return params | draw_projections(asked, self.model_config, teacher.config, config.run.seed)

    def _placed(
        self, examples: Examples, batches: Sequence[RandomBatches], start: int, stop: int
    ) -> Iterator[dict[str, jax.Array]]:
        where = sharding.batch_sharding(self.mesh, stacked=len(batches) > 1)
        for k in range(start, stop):
            rows = [examples.packed(one.batch(k), self.placed_shape, self.pad_id) for one in batches]
            whole = rows[0] if len(rows) == 1 else {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            yield sharding.put(whole, where)

    def _flops(self, teacher: Teacher) -> float:
        """FLOPs of a run's steps. Where layers alone are learned, nothing above them is computed."""
        rows, length, total = self.placed_shape.rows, self.placed_shape.length, 0.0
        for stage in self.stages:
            reads = None
            if stage.learned == "layers" and teacher.config:
                reads = all_reads(objective.layer_terms(self.config.distill), self.model_config, teacher.config)
            asked, frozen = objective.asks_once(self.config.distill, stage.learned), self.config.freeze == "encoder"
            taught_by = None if asked else teacher.config
            step = cost.tuning_flops(self.model_config, rows, length, taught_by, reads, frozen=frozen)
            total += (stage.stop - stage.start) * step
        return total

    def _result(
        self, run: Run, params: Params | None, teacher: Teacher, why: str, *, seconds: float, together: int
    ) -> RunResult:
        """Evaluate a trained run and keep what it predicts. params: None of a run that diverged, and `why` it did."""
        config, directory = run.config, run.directory
        if params and not all(bool(jnp.isfinite(value).all()) for value in params.values()):
            params, why = None, "the weights are not finite; try a lower learning rate"
        scores = {}
        if params:
            try:
                scores = self._evaluate(params, run)
            except NotFiniteError:
                params, why = None, "what it predicts is not finite; try a lower learning rate"
        if why:
            print(f"{directory}: diverged, its score counts as 0: {why}", file=sys.stderr)
        if params:
            if config.save_model:
                trained = sharding.cut_vocabulary(distributed.whole(params, self.mesh), self.model_config.vocab_size)
                distributed.on_main_process(
                    lambda: merge(self.graphdef, trained).save_pretrained(directory / "model", self.tokenizer)
                )
        else:
            scores = {
                name: dict.fromkeys((*self.task.metrics, *self.task.beside, "score"), 0.0) for name in self.data.scored
            }
            for name, examples in self.data.scored.items():
                self._write(directory, name, self.kind.files(None, examples.targets))
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
            flops=self._flops(teacher),
            tested={file: datasets.fingerprint_of_test(of, name, config.data) for of, name, file in tests},
            diverged=why,
            train_seconds=seconds,
            together=together,
        )

    def _evaluate(self, params: Params, run: Run) -> dict[str, dict[str, float]]:
        """Scores of every split that has labels; what is predicted of all is kept."""
        scores = {}
        for name, examples in self.data.scored.items():
            predicted = self._predicted(params, examples)
            self._write(run.directory, name, self.kind.files(predicted, examples.targets))
            scores[name] = self.kind.score(self.task, predicted, examples.targets)
            run.write(self.steps, {f"{name}/{metric}": value for metric, value in scores[name].items()})
        for name, examples in self.data.unlabelled.items():
            self._write(run.directory, name, self.kind.files(self._predicted(params, examples), None))
        return scores

    def _write(self, directory: Path, name: str, files: Mapping[str, Any]) -> None:
        distributed.on_main_process(lambda: write_predictions(directory, name, files))

    def _predicted(self, params: Params, examples: Examples) -> Any:
        return self.kind.decoded(self.predict(params, examples), examples)
