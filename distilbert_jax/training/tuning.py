"""What the seeds of one task and setting share: the data, the compiled step, and how logits are made."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from distilbert_jax.base.files import write_array
from distilbert_jax.base.hub import locate
from distilbert_jax.config import FinetuneConfig
from distilbert_jax.data import glue
from distilbert_jax.data.tasks import Task, find_task
from distilbert_jax.errors import DivergedError, InputError
from distilbert_jax.finetuning import objective
from distilbert_jax.finetuning.batches import LengthBucketedBatches, bucket_lengths
from distilbert_jax.models import SequenceClassification
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.params import Params, merge, split
from distilbert_jax.text.tokenizer import check_fit, load_tokenizer, special_ids
from distilbert_jax.training import cost, sharding
from distilbert_jax.training.logging import RunLog
from distilbert_jax.training.loop import fit
from distilbert_jax.training.optimizer import adamw, schedule
from distilbert_jax.training.step import TrainState, init_state, make_train_step, stack_states


class Evaluation(Protocol):
    """What fine-tuning needs of `evaluation.glue`, which stands above it."""

    def predictor(
        self, graphdef: nnx.GraphDef, buckets: tuple[int, ...], batch_size: int, pad_id: int, mesh: Mesh
    ) -> Callable[[Params, glue.Examples], np.ndarray]:
        """A function from parameters and examples to logits float32 [n, labels]."""

    def score(self, task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Every metric of the task × 100, and `score`, their mean."""


def guide_of(config: FinetuneConfig) -> str:
    """The directory of a run's teacher, or ""."""
    return config.guide.teacher.replace("{task}", config.task).replace("{seed}", str(config.run.seed))


class Tuning:
    """One task and setting, ready for any seed.

    Args:
        config: the setting; its seed, directory and model are those of the first run.

    Raises:
        InputError: model, data or teacher do not fit; nothing is trained yet.
    """

    def __init__(self, config: FinetuneConfig, evaluation: Evaluation):
        self.config, self.evaluation, self.task = config, evaluation, find_task(config.task)
        if self.task.trained_by:
            raise InputError(
                f"task {self.task.name!r} has no training data; the model of {self.task.trained_by} predicts it (--submit)"
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
        self.buckets = bucket_lengths(self.train_rows.lengths, config.shapes, config.length)
        self.steps = config.epochs * self._batches(config).batches_per_epoch
        self.optimizer = adamw(config.optimizer, self.steps)
        self.predict = evaluation.predictor(
            self.graphdef, (*self.buckets, config.length), config.batch_size, self.pad_id, self.mesh
        )
        # By the number of seeds that train together and the teacher's shape.
        self._steps: dict[tuple[int, nnx.GraphDef | None], Callable[..., Any]] = {}

    def _load_data(self) -> None:
        config, task = self.config, self.task
        read = lambda of, split: glue.load_split(of, split, config.data)
        encode = lambda rows, of=task: glue.encode(rows, of, self.tokenizer, config.length)
        train = read(task, "train")
        if config.max_train_rows:
            train = train.select(range(min(config.max_train_rows, len(train))))
        if config.held_out:
            out = glue.is_held_out(train, task)
            if out.all() or not out.any():
                raise InputError(f"{task.name}: {len(train)} training rows are too few to hold a tenth of them out")
            self.scored = {"held_out": encode(train.select(np.flatnonzero(out)))}
            train = train.select(np.flatnonzero(~out))
        else:
            self.scored = {name: encode(read(task, name)) for name in task.dev}
        self.train_rows = encode(train)
        self.unlabelled: dict[str, glue.Examples] = {}
        if config.predict_test:
            for of, name, file in glue.test_splits(task, config.data):
                self.unlabelled[file] = encode(read(of, name), of)

    def _load_model(self, config: FinetuneConfig) -> SequenceClassification:
        """The encoder with the head of a directory, or with a new one where that has other labels or none."""
        known = read_config(locate(config.model)).labels == self.labels
        return SequenceClassification.from_pretrained(
            config.model,
            dtype=jnp.dtype(config.run.dtype),
            seed=config.run.seed,
            redraw=() if known else ("classifier.",),
            labels=self.labels,
        )

    def _check_sizes(self, model: SequenceClassification) -> None:
        config = self.config
        if config.length > model.config.max_position_embeddings:
            raise InputError(
                f"length = {config.length} is beyond the {model.config.max_position_embeddings} positions of {config.model}: "
                f"--length {model.config.max_position_embeddings} is the longest"
            )
        check_fit(self.tokenizer, model.config.vocab_size, config.model)

    def _batches(self, config: FinetuneConfig) -> LengthBucketedBatches:
        return LengthBucketedBatches(self.train_rows.lengths, config.batch_size, config.run.seed, self.buckets)

    def _teacher_of(self, configs: Sequence[FinetuneConfig]) -> str:
        """The directory of the teacher of these runs, or ""."""
        names = set(map(guide_of, configs))
        if len(names) > 1:
            raise InputError(
                f"guide.teacher = {self.config.guide.teacher}: seeds of one program share their teacher; leave out --vmap-seeds"
            )
        return names.pop()

    @functools.lru_cache(maxsize=1)  # noqa: B019 (both end with the runs of a task)
    def _guide(self, name: str) -> tuple[nnx.GraphDef | None, Params]:
        """A teacher: (graphdef, parameters)."""
        if not name:
            return None, {}
        teacher = SequenceClassification.from_pretrained(name, dtype=jnp.dtype(self.config.run.dtype), new_head=False)
        if len(teacher.config.labels) != len(self.labels):
            raise InputError(
                f"guide.teacher = {name}: has {len(teacher.config.labels)} labels, {self.task.name} {len(self.labels)}"
            )
        if load_tokenizer(name).get_vocab() != self.tokenizer.get_vocab():
            raise InputError(
                f"guide.teacher = {name}: its tokenizer is not that of {self.config.model}; ids would differ"
            )
        graphdef, params = split(teacher)
        params = sharding.pad_vocabulary(params)
        return graphdef, jax.device_put(params, sharding.shardings(params, self.mesh))

    def train(self, configs: Sequence[FinetuneConfig], directories: Sequence[Path]) -> list[dict[str, Any]]:
        """Train these runs, side by side when there is more than one, and score them: the results of `finetune_seeds`."""
        guide = self._guide(self._teacher_of(configs))
        self._announce(configs, directories)
        every, begun, why = self.config.run.log_every, time.perf_counter(), {}
        with contextlib.ExitStack() as stack:
            logs = [stack.enter_context(contextlib.closing(RunLog(path, 0, every))) for path in directories]
            try:
                trained = self._fit(configs, *guide, logs, why)
            except DivergedError:  # each of them has its reason in `why`
                trained = [None] * len(configs)
            seconds = time.perf_counter() - begun
            return [
                {**self._result(*run, why.get(place, "")), "train_seconds": round(seconds, 2), "together": len(configs)}
                for place, run in enumerate(zip(configs, directories, trained, logs, strict=True))
            ]

    def _announce(self, configs: Sequence[FinetuneConfig], directories: Sequence[Path]) -> None:
        for config, directory in zip(configs, directories, strict=True):
            print(
                f"{directory}: {self.task.name}, seed {config.run.seed}: {len(self.train_rows)} rows, {self.steps} steps of "
                f"{config.batch_size}; {self.train_rows.cut / len(self.train_rows):.1%} of the rows cut at {config.length} "
                f"tokens; {self._batches(config).padding:.0%} of the places padding",
                file=sys.stderr,
            )

    def _fit(
        self,
        configs: Sequence[FinetuneConfig],
        guide: nnx.GraphDef | None,
        frozen: Params,
        logs: Sequence[RunLog],
        diverged: dict[int, str],
    ) -> list[Params | None]:
        """The parameters of each run after its last step, None of one that diverged; why is put into `diverged`."""
        config, several = self.config, len(configs) > 1
        states = [self._initial_state(one) for one in configs]
        state = stack_states(states, self.mesh) if several else states[0]
        if (len(configs), guide) not in self._steps:
            of_labels = objective.classification(self.graphdef, len(self.labels), guide, config.guide)
            self._steps[len(configs), guide] = make_train_step(
                of_labels, self.optimizer, state, frozen, self.mesh, config.optimizer.accumulate, stacked=several
            )
        state = fit(
            state,
            self._steps[len(configs), guide],
            frozen,
            functools.partial(self._placed, [self._batches(one) for one in configs]),
            config.run,
            self.steps,
            schedule(config.optimizer, self.steps),
            title=f"{self.task.name}-{','.join(str(one.run.seed) for one in configs)}",
            unit="examples",
            logs=logs,
            diverged=diverged,
        )
        if not several:
            return [state.params]
        one = lambda place: jax.tree.map(lambda leaves: leaves[place], state.params)
        return [None if place in diverged else one(place) for place in range(len(configs))]

    def _initial_state(self, config: FinetuneConfig) -> TrainState:
        params = sharding.pad_vocabulary(split(self._load_model(config))[1])
        return init_state(params, self.optimizer, config.run.seed, self.mesh)

    def _placed(
        self, batches: Sequence[LengthBucketedBatches], start: int, stop: int
    ) -> Iterator[dict[str, jax.Array]]:
        where = sharding.batch_sharding(self.mesh, stacked=len(batches) > 1)
        for k in range(start, stop):
            rows = []
            for one in batches:
                indices, length = one.batch(k)
                rows.append(self.train_rows.batch(indices, self.config.batch_size, length, self.pad_id))
            whole = rows[0] if len(rows) == 1 else {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            yield jax.device_put(whole, where)

    def _result(
        self, config: FinetuneConfig, directory: Path, params: Params | None, log: RunLog, why: str
    ) -> dict[str, Any]:
        """Evaluate a trained run and keep what it predicts. params: None of a run that diverged, and `why` it did."""
        where = directory / "predictions"
        where.mkdir(exist_ok=True)
        for name, examples in self.scored.items():
            write_array(where / f"{name}-labels.npy", examples.labels)
        if params and not all(bool(jnp.isfinite(value).all()) for value in params.values()):
            params, why = None, "the weights are not finite; try a lower learning rate"
        if why:
            print(f"{directory}: diverged, its score counts as 0: {why}", file=sys.stderr)
        if params:
            scores = self._evaluate(params, where, log)
            if config.save_model:
                trained = sharding.cut_vocabulary(params, self.model_config.vocab_size)
                merge(self.graphdef, trained).save_pretrained(directory / "model", self.tokenizer)
        else:
            scores = {name: dict.fromkeys((*self.task.metrics, "score"), 0.0) for name in self.scored}
        return {
            "task": self.task.name,
            "model": config.model,
            "seed": config.run.seed,
            "score": next(iter(scores.values()))["score"],
            "scores": scores,
            "steps": self.steps,
            "train_rows": len(self.train_rows),
            "dev_rows": {name: len(examples) for name, examples in self.scored.items()},
            "cut_share": self.train_rows.cut / len(self.train_rows),
            "padding_share": self._batches(config).padding,
            "flops": config.epochs * cost.tuning_flops(self.model_config, self._batches(config).rows_at),
            "tested": {
                file: glue.fingerprint(of, name, config.data)
                for of, name, file in (glue.test_splits(self.task, config.data) if config.predict_test else ())
            },
            "diverged": why,
        }

    def _evaluate(self, params: Params, where: Path, log: RunLog) -> dict[str, dict[str, float]]:
        """Scores of every split that has labels; the logits of all are kept."""
        scores = {}
        for name, examples in self.scored.items():
            logits = self.predict(params, examples)
            write_array(where / f"{name}.npy", logits)
            scores[name] = self.evaluation.score(self.task, logits, examples.labels)
            log.write("eval", self.steps, {f"{name}/{metric}": value for metric, value in scores[name].items()})
        for name, examples in self.unlabelled.items():
            write_array(where / f"{name}.npy", self.predict(params, examples))
        return scores
