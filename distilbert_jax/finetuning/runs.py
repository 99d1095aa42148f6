"""Fine-tuning runs of one task, with one seed or several. The last step is what is scored: no best epoch, no early stop."""

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

from distilbert_jax.base.config_io import write_config
from distilbert_jax.base.files import read_json
from distilbert_jax.base.hub import locate
from distilbert_jax.config import FinetuneConfig, ModelConfig
from distilbert_jax.errors import DivergedError, InputError, few, warn_once
from distilbert_jax.finetuning import datasets, objective
from distilbert_jax.finetuning.augment import augmented, load_proposer
from distilbert_jax.finetuning.batches import RandomBatches, packed_shape, wide_enough
from distilbert_jax.finetuning.labels import label_order
from distilbert_jax.finetuning.metrics import score
from distilbert_jax.finetuning.predictions import has_predictions, predictor, write_predictions
from distilbert_jax.finetuning.results import RunResult, read_result
from distilbert_jax.finetuning.tasks import find_task, sources
from distilbert_jax.models import SequenceClassification, hf_format
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.layers import dropout_bits
from distilbert_jax.models.params import Params, merge, split
from distilbert_jax.models.ranges import check_rows
from distilbert_jax.text.tokenizer import check_fit, load_tokenizer, same_ids, special_ids
from distilbert_jax.training import cost, run_directory, sharding
from distilbert_jax.training.callbacks import callbacks_of, check_callbacks
from distilbert_jax.training.logging import RunLog
from distilbert_jax.training.loop import fit
from distilbert_jax.training.optimizer import adamw, schedule
from distilbert_jax.training.projections import draw_projections, of_model
from distilbert_jax.training.step import TrainState, init_state, make_train_step, stack_states
from distilbert_jax.training.terms import check_terms

BATCHES = "random"  # of what is trained now; scores of other batches are of another way of training


def directory_of(config: FinetuneConfig) -> Path:
    """`run.directory`, or runs/glue/<model>/<task>-<seed> when that is empty."""
    return Path(config.run.directory or sweep_directory(config) / f"{config.task}-{config.run.seed}")


def sweep_directory(config: FinetuneConfig) -> Path:
    """Where the runs of one model stand side by side when nobody names a place: runs/glue/<model>."""
    return Path("runs/glue") / "-".join(
        part for part in Path(config.model).parts[-2:] if part not in ("/", "model", "..")
    )


def finetune(config: FinetuneConfig) -> RunResult:
    """Fine-tune with one seed and score on every dev split, see `finetune_seeds`.

    Raises:
        DivergedError: the loss or a gradient is not finite.
    """
    (result,) = finetune_seeds([config])
    if result.diverged:
        raise DivergedError(f"{directory_of(config)}: {result.diverged}", path=directory_of(config))
    return result


def finetune_seeds(configs: Sequence[FinetuneConfig], *, together: bool = False) -> list[RunResult]:
    """Fine-tune one task with one setting from several seeds. What they share is prepared and compiled once.

    A run that has ended is found, not repeated; one that was interrupted begins anew and gives the same bits. A run that diverges
    scores 0 and says so.

    Args:
        configs: they differ in run.seed, run.directory and model (a start of its own for each seed) alone.
        together: all seeds in one vmapped step, for accelerators; else one after the other.

    Returns:
        What each run came to; it also stands in its directory as results.json, with logits and labels of each split in
        predictions/.

    Raises:
        InputError: also when model, data or teacher are not those that a run began with.
    """
    configs = [dataclasses.replace(config, epochs=config.epochs or find_task(config.task).epochs) for config in configs]
    check_callbacks(configs[0].run)
    directories = [directory_of(config) for config in configs]
    results: dict[int, RunResult] = {}
    tuning = functools.cache(lambda: Tuning(configs[0]))
    inputs = list(map(_inputs, configs))  # before a directory is made
    with contextlib.ExitStack() as stack:
        for config, directory, given in zip(configs, directories, inputs, strict=True):
            # First the lock: what is refused must not write its config into another process' run.
            stack.enter_context(run_directory.alone(directory))
            run_directory.enter(config, directory)
            _check_batches(directory)
            proposer = config.augment.model if config.augment.copies else ""
            models = {"model": config.model, "distill.teacher": config.teacher, "augment.model": proposer}
            known = {name: hf_format.known_fingerprints(model) for name, model in models.items() if model}
            bits, has_results = _dropout_bits(config), (directory / "results.json").is_file()
            drawn = {} if has_results else {"batches": BATCHES}
            run_directory.check_inputs(directory, given | drawn, known, _by_name(config), dropout=bits)
            if not has_results:
                run_directory.check_dropout(directory, bits)
        for i in range(len(configs)):
            if ended := _ended(configs[i], directories[i]):
                print(f"{directories[i]}: finished before", file=sys.stderr)
                results[i] = ended
        left = [i for i in range(len(configs)) if i not in results]
        for config, directory in zip(configs, directories, strict=True) if left else ():
            _check_batches(directory, ended=True)
            run_directory.check_dropout(directory, _dropout_bits(config))
        for group in [left] if together and left else [[i] for i in left]:
            trained = tuning().train([configs[i] for i in group], [directories[i] for i in group])
            for i, result in zip(group, trained, strict=True):
                places = {name: directories[i] / name for name in ("predictions", "model")}
                run_directory.record_outputs(directories[i], places)
                write_config(result, directories[i] / "results.json")
                results[i] = result
    return [results[i] for i in range(len(configs))]


def _dropout_bits(config: FinetuneConfig) -> str:
    model = read_config(locate(config.model))
    return dropout_bits(model.hidden_dropout, model.attention_dropout, model.classifier_dropout)


def _inputs(config: FinetuneConfig) -> dict[str, str]:
    """Fingerprints of what a run trains with and is scored on."""
    if not config.model:
        raise InputError("model is not set: name an HF directory with --model", field="model", hint="--model")
    task = find_task(config.task)
    _check_distill(config)
    inputs = {"model": hf_format.fingerprint(config.model), **sources(task)}
    if not task.trained_by:
        inputs |= {_data(split): datasets.fingerprint(task, split, config.data) for split in _splits(config)}
    if config.augment.copies:
        inputs["augment.model"] = hf_format.fingerprint(config.augment.model)
    if config.distill.teacher:
        inputs["distill.teacher"] = hf_format.fingerprint(config.teacher)
    return inputs


def _check_distill(config: FinetuneConfig) -> None:
    """Raise InputError where what is asked of a teacher lacks one, or a term does not fit the two models."""
    asked = objective.layer_terms(config.distill)
    if asked and config.distill.teacher:
        check_terms(asked, 0, *(read_config(locate(name)) for name in (config.model, config.teacher)))
    elif asked:
        field = asked[0].field
        raise InputError(
            f"{field} = {asked[0].weight}: compares layers with those of a teacher, and none is named: --distill.teacher DIR, or "
            f"--{field.replace('_', '-')} 0",
            field="distill.teacher",
            hint="--distill.teacher",
        )
    if config.distill.layer_epochs and not asked:
        raise InputError(
            f"distill.layer_epochs = {config.distill.layer_epochs}: no term of layers has a weight: --distill.hidden.weight 1, or "
            "--distill.layer-epochs 0",
            field="distill.layer_epochs",
            hint="--distill.layer-epochs 0",
        )
    if not config.augment.copies:
        return
    said = f"augment.copies = {config.augment.copies}: "
    if not config.distill.teacher:
        raise InputError(
            f"{said}copies have no labels but a teacher's, and none is named: --distill.teacher DIR, or --augment.copies 0",
            field="distill.teacher",
            hint="--distill.teacher",
        )
    if not config.augment.model:
        raise InputError(
            f"{said}names no masked LM that proposes words: --augment.model DIR, such as what the teacher was fine-tuned from",
            field="augment.model",
            hint="--augment.model",
        )
    if not config.distill.alpha and not asked:
        raise InputError(
            f"{said}with distill.alpha = 0 nothing is learned from copies: --distill.alpha 0.5",
            field="distill.alpha",
            hint="--distill.alpha",
        )


def _splits(config: FinetuneConfig) -> tuple[str, ...]:
    """The labelled splits that a run reads."""
    return ("train",) if config.selection_split else ("train", *find_task(config.task).dev)


def _data(split: str) -> str:
    """What a run's inputs call a split."""
    return f"data ({split})"


def _by_name(config: FinetuneConfig) -> dict[str, str]:
    """What an earlier version recorded of splits on the hub."""
    task = find_task(config.task)
    return {} if config.data else {_data(split): datasets.hub_name(task, split) for split in _splits(config)}


def _ended(config: FinetuneConfig, directory: Path) -> RunResult | None:
    """The results of a run that has left everything that it is asked for.

    Raises:
        InputError: they are damaged, or of another run.
    """
    if not (directory / "results.json").is_file():
        return None
    result = read_result(directory / "results.json")
    said = {
        "task": (result.task, config.task),
        "seed": (result.seed, config.run.seed),
        "model": (result.model, config.model),
    }
    if other := [name for name, (there, asked) in said.items() if there != asked]:
        raise InputError(
            f"{directory}: its results.json is of {result.task}, seed {result.seed}, model {result.model}; remove the directory to "
            "train it again",
            path=directory,
            field=other[0],
        )
    run_directory.check_outputs(directory)
    run_directory.check_log(directory)
    unsaved = config.save_model and not run_directory.finished(directory)
    if result.diverged or not (unsaved or _unpredicted(config, directory, result)):
        return result
    lacking = "its model was not saved" if unsaved else "there are test splits to predict"
    print(f"{directory}: finished before, but {lacking}: trained once more, to the same scores", file=sys.stderr)
    return None


def _check_batches(directory: Path, *, ended: bool = False) -> None:
    """Raise InputError for a run that took other batches than are taken now: one that has begun, or that has `ended`."""
    result, inputs = directory / "results.json", directory / "inputs.json"
    if ended and result.is_file():
        drawn = read_result(result).batches
    elif not result.is_file() and (directory / "metrics.jsonl").is_file() and inputs.is_file():
        drawn = read_json(inputs, dict).get("batches")
    else:
        return
    if drawn != BATCHES:
        raise InputError(
            f"{directory}: took batches of similar lengths, as an earlier version drew them, and what is to be trained now takes "
            "random ones; name another --run.directory, or remove the run to train it again",
            path=directory,
            field="batches",
        )


def _unpredicted(config: FinetuneConfig, directory: Path, result: RunResult) -> bool:
    """Whether test splits are asked for that are there now and were not predicted."""
    if not config.predict_test:
        return False
    splits = datasets.test_splits(find_task(config.task), config.data)
    asked = {file: datasets.fingerprint_of_test(of, split, config.data) for of, split, file in splits}
    before = {} if config.data else {file: datasets.hub_name(of, split) for of, split, file in splits}
    return result.tested not in (asked, before) or not has_predictions(directory, asked)


def _kept_order(model: str, given: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...] | None:
    """Where the labels of a task stand in the trained head of the model that a run starts from; None: it gets a new head, and where
    it has one of other labels a line says so."""
    if not SequenceClassification.is_whole(model):
        return None
    if len(wanted) > 1:
        with contextlib.suppress(InputError):
            return label_order(given, wanted, model)
    warn_once(f"{model}: its labels are {few(given, ', ')}, the task's {few(wanted, ', ')}: the head is new")
    return None


def _in_order(params: Params, order: Sequence[int]) -> Params:
    """A classifier's parameters, whose logits come in another order."""
    head = {path: value[..., jnp.array(order)] for path, value in params.items() if path.startswith("classifier.")}
    return params | head


class Teacher(NamedTuple):
    """A classifier that is distilled from: its graph (None: there is no teacher), parameters, and config."""

    graphdef: nnx.GraphDef | None
    params: Params
    config: ModelConfig | None


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
        if self.task.trained_by:
            raise InputError(
                f"task {self.task.name!r} has no training data; the model of {self.task.trained_by} predicts it (--submit)",
                field="task",
            )
        self.mesh = sharding.make_mesh(config.mesh)
        sharding.check_batch(config.batch_size, config.optimizer.accumulate, self.mesh)
        self.tokenizer = load_tokenizer(config.model)
        self.pad_id = special_ids(self.tokenizer).pad
        self.labels = self.task.labels or ("score",)
        self._load_data()
        model = self._load_model(config)
        self._check_sizes(model)
        self.model_config = model.config
        self.graphdef, _ = split(model)
        if config.augment.copies:
            self._load_teacher(config.teacher)  # what is wrong with it is told before copies are made
            self.train_rows = self._with_copies()
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
        predicted = np.concatenate([split.lengths for split in (*self.scored.values(), *self.unlabelled.values())])
        self.predict = predictor(self.graphdef, wide_enough(self.shape, predicted), self.pad_id, self.mesh)
        # By the number of seeds that train together, the teacher's shape, and what is learned.
        self._steps: dict[tuple[int, nnx.GraphDef | None, Stage], Callable[..., Any]] = {}

    @property
    def added(self) -> int:
        """Copies of rows that training has beside them."""
        return len(self.train_rows) - len(self.given_rows)

    def _load_data(self) -> None:
        config, task = self.config, self.task
        read = lambda of, split: datasets.load_split(of, split, config.data)
        encode = lambda rows, of=task: datasets.encode(rows, of, self.tokenizer, config.length)
        train = read(task, "train")
        if config.max_train_rows:
            train = train.select(range(min(config.max_train_rows, len(train))))
        if config.selection_split:
            out = datasets.in_selection_split(train, task)
            if out.all() or not out.any():
                raise InputError(
                    f"{task.name}: {len(train)} training rows are too few to hold a tenth of them out",
                    field="selection_split",
                )
            self.scored = {"selection_split": encode(train.select(np.flatnonzero(out)))}
            train = train.select(np.flatnonzero(~out))
        else:
            self.scored = {name: encode(read(task, name)) for name in task.dev}
        self.train_rows = self.given_rows = encode(train)
        self.unlabelled: dict[str, datasets.Examples] = {}
        if config.predict_test:
            for of, name, file in datasets.test_splits(task, config.data):
                self.unlabelled[file] = encode(read(of, name), of)

    def _with_copies(self) -> datasets.Examples:
        run, config = self.config.run, self.config.augment
        precision = {"dtype": jnp.dtype(run.dtype), "activations": run.activations}
        proposer = load_proposer(config, self.tokenizer, int(self.given_rows.lengths.max()), **precision)
        return augmented(self.given_rows, config, proposer, self.tokenizer)

    def _load_model(self, config: FinetuneConfig) -> SequenceClassification:
        """The encoder and head of a directory, its labels in the task's order; a new head where it has none or other labels."""
        given = read_config(locate(config.model)).labels
        order = None if given == self.labels else _kept_order(config.model, given, self.labels)
        model = SequenceClassification.from_pretrained(
            config.model,
            dtype=jnp.dtype(config.run.dtype),
            activations=config.run.activations,
            seed=config.run.seed,
            reinitialise=() if order or given == self.labels else ("classifier.",),
            labels=self.labels,
            problem_type="regression" if self.task.is_regression else None,
        )
        if order:
            graphdef, params = split(model)
            model = merge(graphdef, _in_order(params, order))
        return model

    def _check_sizes(self, model: SequenceClassification) -> None:
        config = self.config
        if config.length > model.config.max_length:
            raise InputError(
                f"length = {config.length} is beyond the {model.config.max_length} positions of {config.model}: "
                f"--length {model.config.max_length} is the longest",
                field="length",
            )
        check_fit(self.tokenizer, model.config.vocab_size, config.model)
        self._check_ranges(model, config.model)

    def _check_ranges(self, model: SequenceClassification, where: str) -> None:
        """Raise InputError for an id of any split that a model has no row for: a compiled program would not."""
        for examples in (self.train_rows, *self.scored.values(), *self.unlabelled.values()):
            ids, types = (np.concatenate([row[place] for row in examples.rows]) for place in (0, 1))
            check_rows({"input_ids": ids, "token_type_ids": types}, model.config, where)

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
            return Teacher(None, {}, None)
        run = self.config.run
        teacher = SequenceClassification.from_pretrained(
            name, dtype=jnp.dtype(run.dtype), activations=run.activations, new_head=False
        )
        where = f"distill.teacher = {name}"
        try:
            order = label_order(teacher.config.labels, self.labels, where)
            check_fit(self.tokenizer, teacher.config.vocab_size, where)
            self._check_ranges(teacher, where)
        except InputError as error:
            raise InputError(str(error), path=name, field="distill.teacher", hint=error.hint) from None
        if not same_ids(load_tokenizer(name), self.tokenizer):
            raise InputError(
                f"{where}: its tokenizer is not that of {self.config.model}; ids would differ", field="distill.teacher"
            )
        if self.config.length > teacher.config.max_length:
            raise InputError(
                f"length = {self.config.length} is beyond the {teacher.config.max_length} positions of {where}",
                field="length",
            )
        graphdef, params = split(teacher)
        params = sharding.pad_vocabulary(_in_order(params, order))
        return Teacher(graphdef, jax.device_put(params, sharding.shardings(params, self.mesh)), teacher.config)

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
                f"{directory}: {self.task.name}, seed {config.run.seed}: {len(self.given_rows)} rows{added}, {self.steps} steps of "
                f"{config.batch_size}; {self.given_rows.cut / len(self.given_rows):.1%} of the rows cut at {config.length} "
                f"tokens; {self.padding:.0%} of the places padding",
                file=sys.stderr,
            )

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
            learned = objective.classification(
                self.graphdef,
                len(self.labels),
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
        params = sharding.pad_vocabulary(split(self._load_model(config))[1])
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
            scores = {name: dict.fromkeys((*self.task.metrics, "score"), 0.0) for name in self.scored}
            for name, examples in self.scored.items():
                write_predictions(directory, name, None, examples.labels)
        tests = datasets.test_splits(self.task, config.data) if config.predict_test else ()
        return RunResult(
            task=self.task.name,
            model=config.model,
            seed=config.run.seed,
            score=next(iter(scores.values()))["score"],
            scores=scores,
            steps=self.steps,
            train_rows=len(self.given_rows),
            added_rows=self.added if config.augment.copies else None,
            dev_rows={name: len(examples) for name, examples in self.scored.items()},
            cut_share=self.given_rows.cut / len(self.given_rows),
            padding_share=self.padding,
            batches=BATCHES,
            flops=self.steps * cost.tuning_flops(self.model_config, self.placed_shape.rows, self.placed_shape.length),
            tested={file: datasets.fingerprint_of_test(of, name, config.data) for of, name, file in tests},
            diverged=why,
            train_seconds=seconds,
            together=together,
        )

    def _evaluate(self, params: Params, directory: Path, log: RunLog) -> dict[str, dict[str, float]]:
        """Scores of every split that has labels; the logits of all are kept."""
        scores = {}
        for name, examples in self.scored.items():
            logits = self.predict(params, examples)
            write_predictions(directory, name, logits, examples.labels)
            scores[name] = score(self.task, logits, examples.labels)
            log.write("eval", self.steps, {f"{name}/{metric}": value for metric, value in scores[name].items()})
        for name, examples in self.unlabelled.items():
            write_predictions(directory, name, self.predict(params, examples), None)
        return scores
