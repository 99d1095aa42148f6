"""Masked LM on held-out text: loss, accuracy, perplexity and the KL divergence from a teacher.

Uniform 15 %, 80/10/10, the mask of each packed row drawn from the row's index: every model, at whatever batch size and on
whatever mesh, is asked the same questions.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from distilbert_jax.base.config_io import LEFT_OUT
from distilbert_jax.base.progress import progress
from distilbert_jax.config import Activations, DataConfig, MaskingConfig, MeshConfig, PretrainConfig, Sequences
from distilbert_jax.errors import InputError
from distilbert_jax.models import MaskedLM, PreTraining
from distilbert_jax.models.hf_format import read_config
from distilbert_jax.models.layers import at_positions
from distilbert_jax.models.params import Params, merge, split
from distilbert_jax.models.ranges import check_finite
from distilbert_jax.pretraining.corpus import Corpus
from distilbert_jax.pretraining.masking import corrupt, log_weights
from distilbert_jax.pretraining.objective_table import MASKED, OBJECTIVES
from distilbert_jax.pretraining.objectives import Given, encode, masked_lm_nsp
from distilbert_jax.pretraining.packing import PackedRows
from distilbert_jax.pretraining.setup import Setup, corpus_rows, load_teacher
from distilbert_jax.text.tokenizer import SpecialIds
from distilbert_jax.training import sharding
from distilbert_jax.training.loop import Evaluate
from distilbert_jax.training.losses import cross_entropy
from distilbert_jax.training.objective import Batch, Metrics, Objective, Sums
from distilbert_jax.training.projections import of_model

MASKING = MaskingConfig(weighting="uniform")
SEED = 0


@dataclass(frozen=True, kw_only=True)
class HeldoutFigures:
    """A model on held-out text: losses in nats, shares from 0 to 1."""

    mlm_loss: float  # a masked token
    mlm_accuracy: float
    kl_to_teacher: float | None = field(default=None, metadata=LEFT_OUT)  # a masked token; None without a teacher
    # Of the objective on pairs, where the model has the head for it.
    loss_mlm: float | None = field(default=None, metadata=LEFT_OUT)
    loss_nsp: float | None = field(default=None, metadata=LEFT_OUT)  # a row
    nsp_accuracy: float | None = field(default=None, metadata=LEFT_OUT)
    perplexity: float
    tokens: int  # masked, which were asked


def mlm_evaluation(
    graphdef: nnx.GraphDef,
    rows: PackedRows,
    specials: SpecialIds,
    batch_size: int,
    mesh: Mesh,
    *,
    teacher: tuple[nnx.GraphDef, Params] | None = None,
    objective: Objective | None = None,
    prepares: bool = False,
    max_rows: int | None = None,
    show_progress: bool = False,
) -> Evaluate:
    """A function of parameters: `mlm_loss` (nats a masked token), `mlm_accuracy`, `perplexity`, `tokens` (how many were masked)
    and, with a teacher that has a masked-LM head, `kl_to_teacher`, the mean of KL(teacher ‖ model) over the masked tokens in nats,
    at temperature 1, of the tokens that both vocabularies have rows for; with an objective the parts of its loss, without dropout.

    Args:
        graphdef: of a `MaskedLM`, or of a `PreTraining`.
        objective: what the model is trained on, together with its teacher.
        prepares: the objective prepares its batches itself; else it is asked about the masked tokens that `mlm_loss` is of.
        max_rows: take so many rows only, evenly spaced: the first of each shard are the long sequences, alone in their rows.
    """
    number = min(len(rows), max_rows or len(rows))
    chosen = np.arange(number) * len(rows) // number
    spread = mesh.shape["data"] * mesh.shape["fsdp"]
    batch_size = -(-min(batch_size, number) // spread) * spread
    weights = log_weights(rows.corpus.token_counts, tuple(vars(specials).values()), MASKING)
    teacher_graphdef, frozen = teacher or (None, {})
    undropped: Any = None  # what an objective takes for no dropout in the place of keys

    def sums(params: Params, frozen: Params, batch: Batch) -> Metrics:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(SEED), batch["row"])
        ids, segments = batch["input_ids"], batch["segment_ids"]
        masked = corrupt(keys, ids, segments > 0, jnp.asarray(weights), specials.mask, MASKING)
        masked_weights = masked.weights * batch["counts"][:, None]

        def logits(graph: nnx.GraphDef, values: Params) -> jax.Array:
            model = merge(graph, of_model(values))
            hidden = encode(model, {**batch, "input_ids": masked.input_ids}, None)
            return model.logits(at_positions(hidden, masked.positions)).astype(jnp.float32)

        ours = logits(graphdef, params)
        result = {
            "tokens": masked_weights.sum(),
            "mlm_loss": cross_entropy(ours, masked.labels, masked_weights),
            "mlm_accuracy": jnp.sum(masked_weights * (ours.argmax(-1) == masked.labels)),
        }
        if teacher_graphdef is not None and has_head(teacher_graphdef, frozen):
            theirs = logits(teacher_graphdef, frozen)
            common = min(ours.shape[-1], theirs.shape[-1])  # the rows that pad one of the vocabularies are no tokens
            theirs, student = (jax.nn.log_softmax(values[..., :common]) for values in (theirs, ours))
            divergence = jnp.sum(jnp.exp(theirs) * (theirs - student), axis=-1)
            # Rounding takes the divergence of two equal distributions a little below 0.
            result["kl_to_teacher"] = jnp.sum(masked_weights * jnp.maximum(divergence, 0.0))
        if objective is not None:  # what it has in common with the above is computed once
            real = segments * batch["counts"][:, None].astype(jnp.int32)
            given = {**batch, **masked._asdict(), "segment_ids": real, "masked_weights": masked_weights}
            counts = {"masked": result["tokens"], "tokens": jnp.sum(real > 0), "rows": batch["counts"].sum()}
            values = _last_values(objective)
            if prepares:
                given, counts = objective.prepared(keys, {**batch, "segment_ids": real}, values)
            counts = {name: value for name, value in counts.items() if name not in values}
            result |= _sums(objective, params, frozen, {**given, "rngs": undropped}, values)
            result |= {_COUNT + name: value for name, value in counts.items()}
        return result

    jitted = jax.jit(sums)
    local = sharding.local_rows(batch_size, mesh)

    def evaluate(params: Params) -> dict[str, float]:
        totals: dict[str, float] = {}
        with progress("evaluating", number) if show_progress else contextlib.nullcontext(lambda rows: None) as done:
            for start in range(0, number, batch_size):
                place = np.arange(start, start + batch_size)[local]
                row = chosen[np.minimum(place, number - 1)]
                batch = {
                    **rows.batch(row),
                    "row": row.astype(np.int32),
                    "counts": (place < number).astype(np.float32),  # 0 for rows that fill up the last batch
                }
                sharded = sharding.place(batch, batch_size, mesh)
                for name, value in jax.device_get(jitted(params, frozen, sharded)).items():
                    totals[name] = totals.get(name, 0.0) + float(value)
                done(start + batch_size)
        tokens, parts = totals.pop("tokens"), objective.parts if objective else {}
        counts = {name: totals.pop(name) for name in list(totals) if name.startswith(_COUNT)}
        count = lambda name: counts[_COUNT + parts[name].over] if name in parts else tokens
        means = {name: value / max(count(name), 1.0) for name, value in totals.items()}
        return {**means, "perplexity": math.exp(min(means["mlm_loss"], 700.0)), "tokens": tokens}

    return evaluate


def has_head(graphdef: nnx.GraphDef, params: Params) -> bool:
    """Whether a model has a masked-LM head."""
    return isinstance(merge(graphdef, params), MaskedLM | PreTraining)


_COUNT = "count of "  # before the name of a count, beside the sums


def _last_values(objective: Objective) -> Metrics:
    """What the objective schedules, at the end of the run, so that evaluations compare; masked are 15 % always."""
    constant: Any = MASKING.probability
    values = objective.values(jnp.int32(2**31 - 1))
    return {**values, MASKED: constant} if MASKED in values else values


def _sums(objective: Objective, params: Params, frozen: Params, batch: Batch, values: Metrics) -> Metrics:
    ones = {part.over: jnp.float32(1.0) for part in objective.parts.values()}
    result = objective.sums(params, frozen, batch, {**ones, **values})
    return result.parts if isinstance(result, Sums) else result


def heldout(setup: Setup) -> Evaluate:
    """The evaluation that a pre-training run makes of itself: 512 rows of `data.heldout`, evenly spaced. With a teacher that
    has a head it has `kl_to_teacher`; of every objective but masked LM the parts of its loss.

    Raises:
        InputError: the held-out corpus was made with another tokenizer than `data.corpus`.
    """
    config, teacher = setup.config, setup.teacher
    rows, _ = corpus_rows(config.data.heldout, config.data.length, config.data.sequences)
    if rows.corpus.tokenizer_fingerprint != setup.rows.corpus.tokenizer_fingerprint:
        raise InputError(
            f"data.heldout = {config.data.heldout}: made with another tokenizer than {config.data.corpus}",
            field="data.heldout",
        )
    return mlm_evaluation(
        setup.graphdef,
        rows,
        rows.corpus.specials,
        config.data.batch_size,
        setup.mesh,
        teacher=(teacher.graphdef, teacher.params) if teacher else None,
        objective=None if config.objective == "masked_lm" else setup.objective,
        prepares=bool(OBJECTIVES.file(config.objective)),
        max_rows=512,
    )


def evaluate_mlm(
    model: str,
    corpus: str,
    *,
    teacher: str = "",
    length: int = 128,
    sequences: Sequences = "line",
    batch_size: int = 32,
    max_rows: int | None = None,
    dtype: str = "float32",
    activations: Activations = "auto",
) -> HeldoutFigures:
    """`mlm_evaluation` of an HF directory on a corpus directory, with all devices; of pairs also `loss_nsp` (nats a row) and
    `nsp_accuracy`, where the model has the head for it.

    Raises:
        InputError: a number below 1, a length beyond a model's positions, pairs for a model without token types, a tokenizer
            that is not the corpus'.
    """
    for name, value in (("--batch-size", batch_size), ("--max-rows", max_rows)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: expected 1 or more", field=name)
    if corpus:  # before a length that its rows would have is compared with anything
        Corpus.open(corpus)
    for directory in filter(None, (model, teacher)):
        if length > (longest := read_config(directory).max_length):
            raise InputError(f"--length {length} is beyond the {longest} positions of {directory}", field="--length")
        if sequences == "pair" and read_config(directory).type_vocab_size < 2:
            raise InputError(
                f"--sequences pair: {directory} has not the two token types that they take", field="--sequences"
            )
    rows, tokenizer = corpus_rows(corpus, length, sequences)
    mesh = sharding.make_mesh(MeshConfig())
    head = PreTraining if sequences == "pair" and PreTraining.is_whole(model) else MaskedLM
    loaded = load_teacher(model, tokenizer, "--model", jnp.dtype(dtype), activations=activations, head=head)
    given_teacher = None
    if teacher:
        given_teacher = split(load_teacher(teacher, tokenizer, "--teacher", jnp.dtype(dtype), activations=activations))
    graphdef, params = split(loaded)
    specials, objective = rows.corpus.specials, None
    if head is PreTraining:
        weights = log_weights(rows.corpus.token_counts, tuple(vars(specials).values()), MASKING)
        pairs = PretrainConfig(objective="masked_lm_nsp", data=DataConfig(sequences="pair"), masking=MASKING)
        objective = masked_lm_nsp(Given(graphdef, None, weights, specials.mask, pairs))
    evaluate: Callable[[Params], dict[str, float]] = mlm_evaluation(
        graphdef,
        rows,
        specials,
        batch_size,
        mesh,
        teacher=given_teacher,
        objective=objective,
        max_rows=max_rows,
        show_progress=True,
    )
    figures = evaluate(params)
    check_finite(np.array(list(figures.values()), np.float32), model)
    return HeldoutFigures(**{**figures, "tokens": int(figures["tokens"])})
