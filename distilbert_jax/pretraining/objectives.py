"""Pre-training objectives: masked LM, masked LM with next-sentence prediction, distillation with the triple loss."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distilbert_jax.config import LossConfig, MaskingConfig
from distilbert_jax.models.layers import at_positions, fold_rows
from distilbert_jax.models.params import Params, merge
from distilbert_jax.pretraining.chunks import in_chunks
from distilbert_jax.pretraining.masking import corrupt
from distilbert_jax.training import losses
from distilbert_jax.training.objective import DROPOUT, MASKING, Batch, Metrics, Objective


def _prepare_packed(
    weights: np.ndarray, mask_id: int, masking: MaskingConfig
) -> Callable[[jax.Array, Batch], tuple[Batch, Metrics]]:
    def prepare(rngs: jax.Array, batch: Batch) -> tuple[Batch, Metrics]:
        is_token = batch["segment_ids"] > 0
        masked = corrupt(fold_rows(rngs, MASKING), batch["input_ids"], is_token, jnp.asarray(weights), mask_id, masking)
        prepared = {
            **batch,
            "input_ids": masked.input_ids,
            "positions": masked.positions,
            "labels": masked.labels,
            "masked_weights": masked.weights,
            "rngs": fold_rows(rngs, DROPOUT),
        }
        totals = {
            "tokens": is_token.sum().astype(jnp.float32),
            # A batch without a single masked token (all of it special) has a loss of 0, not 0/0.
            "masked": jnp.maximum(masked.weights.sum(), 1.0),
        }
        if "next_sentence_label" in batch:
            totals["rows"] = jnp.float32(len(is_token))
        return prepared, totals

    return prepare


def encode(model: Any, batch: Batch, rngs: jax.Array | None) -> jax.Array:
    """The last hidden states [B, T, D] of packed rows."""
    inputs = {name: batch[name] for name in ("position_ids", "segment_ids", "token_type_ids") if name in batch}
    return model.encoder(batch["input_ids"], **inputs, rngs=rngs).last_hidden_state


def masked_lm(graphdef: nnx.GraphDef, weights: np.ndarray, mask_id: int, masking: MaskingConfig) -> Objective:
    """Cross-entropy at the masked positions; logits are computed there only.

    Args:
        graphdef: of a `MaskedLM`.
        weights: float32 [V] from `masking.log_weights`.
    """

    def loss(params: Params, frozen: Params, batch: Batch, totals: Metrics) -> tuple[jax.Array, Metrics]:
        model = merge(graphdef, params)
        hidden = at_positions(encode(model, batch, batch["rngs"]), batch["positions"])
        value = losses.cross_entropy(model.logits(hidden), batch["labels"], batch["masked_weights"]) / totals["masked"]
        return value, {"loss_mlm": value}

    return Objective(_prepare_packed(weights, mask_id, masking), loss, {"loss_mlm": "masked"})


def pretraining(graphdef: nnx.GraphDef, weights: np.ndarray, mask_id: int, masking: MaskingConfig) -> Objective:
    """Masked LM and next-sentence prediction of a `PreTraining`, the sum of two means (Devlin et al. 2019), on rows of pairs.

    `nsp_accuracy` is reported beside the parts.
    """

    def loss(params: Params, frozen: Params, batch: Batch, totals: Metrics) -> tuple[jax.Array, Metrics]:
        model = merge(graphdef, params)
        hidden = encode(model, batch, batch["rngs"])
        masked = model.logits(at_positions(hidden, batch["positions"]))
        mlm = losses.cross_entropy(masked, batch["labels"], batch["masked_weights"]) / totals["masked"]
        logits, label = model.next_sentence(hidden), batch["next_sentence_label"]
        there = jnp.any(batch["segment_ids"] > 0, axis=1).astype(jnp.float32)
        nsp = losses.cross_entropy(logits, label, there) / totals["rows"]
        right = jnp.sum(there * (logits.argmax(-1) == label)) / totals["rows"]
        return mlm + nsp, {"loss_mlm": mlm, "loss_nsp": nsp, "nsp_accuracy": right}

    over = {"loss_mlm": "masked", "loss_nsp": "rows", "nsp_accuracy": "rows"}
    return Objective(_prepare_packed(weights, mask_id, masking), loss, over)


def distillation(
    student: nnx.GraphDef,
    teacher: nnx.GraphDef,
    weights: np.ndarray,
    mask_id: int,
    masking: MaskingConfig,
    config: LossConfig,
) -> Objective:
    """The triple loss: student and teacher see the same corrupted ids, the teacher without dropout.

    L = α_ce·L_ce + α_mlm·L_mlm + α_cos·L_cos + α_mse·L_mse, where L_ce and L_mse are means over all tokens of the global
    batch or over the masked ones (`ce_tokens`), L_mlm over the masked ones, L_cos over all. A term of weight 0 is not computed.
    With `chunk`, the logits of all tokens are never held at once; L_mlm then computes those of the masked ones a second time.
    """

    everywhere_or_masked = "tokens" if config.ce_tokens == "all" else "masked"
    over = {
        "loss_ce": everywhere_or_masked,
        "loss_mlm": "masked",
        "loss_cos": "tokens",
        "loss_mse": everywhere_or_masked,
    }

    def weighted(parts: Metrics, total: jax.Array | float = 0.0) -> jax.Array | float:
        for name, value in parts.items():
            total = total + getattr(config, name.replace("loss", "alpha")) * value
        return total

    def between(s_logits: jax.Array, t_logits: jax.Array, at: jax.Array, totals: Metrics) -> Metrics:
        parts: Metrics = {}
        if config.alpha_ce:
            parts["loss_ce"] = losses.distillation(s_logits, t_logits, at, config.temperature)
        if config.alpha_mse:
            parts["loss_mse"] = losses.logit_mse(s_logits, t_logits, at)
        return {name: value / totals[over[name]] for name, value in parts.items()}

    def piece(decoder: Params, s_hidden: jax.Array, beside: Any, whole: Any) -> tuple[jax.Array, Metrics]:
        (t_hidden, at), (params, frozen, totals) = beside, whole
        s_logits, t_logits = (
            merge(student, {**params, **decoder}).logits(s_hidden),
            merge(teacher, frozen).logits(t_hidden),
        )
        parts = between(s_logits, t_logits, at, totals)
        return weighted(parts), parts

    def loss(params: Params, frozen: Params, batch: Batch, totals: Metrics) -> tuple[jax.Array, Metrics]:
        model, taught_by = merge(student, params), merge(teacher, frozen)
        s_hidden = encode(model, batch, batch["rngs"])
        t_hidden = jax.lax.stop_gradient(encode(taught_by, batch, None))
        everywhere = (batch["segment_ids"] > 0).astype(jnp.float32)
        at_masked = functools.partial(at_positions, positions=batch["positions"])
        if not config.takes_all_logits:
            s_masked = model.logits(at_masked(s_hidden))
            parts = between(s_masked, taught_by.logits(at_masked(t_hidden)), batch["masked_weights"], totals)
            value = weighted(parts)
        elif config.chunk:
            s_masked = model.logits(at_masked(s_hidden)) if config.alpha_mlm else None
            decoder = {name: array for name, array in params.items() if name.startswith(model.DECODER)}
            value, parts = in_chunks(
                piece, config.chunk, decoder, s_hidden, (t_hidden, everywhere), (params, frozen, totals)
            )
        else:
            s_logits = model.logits(s_hidden)
            s_masked = at_masked(s_logits) if config.alpha_mlm else None
            parts = between(s_logits, taught_by.logits(t_hidden), everywhere, totals)
            value = weighted(parts)
        rest: Metrics = {}
        if config.alpha_mlm:
            rest["loss_mlm"] = losses.cross_entropy(s_masked, batch["labels"], batch["masked_weights"])
        if config.alpha_cos:
            rest["loss_cos"] = losses.cosine_distance(s_hidden, t_hidden, everywhere)
        rest = {name: part / totals[over[name]] for name, part in rest.items()}
        return weighted(rest, value), {**parts, **rest}

    return Objective(_prepare_packed(weights, mask_id, masking), loss, over)
