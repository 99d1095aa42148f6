"""The one train step: prepare, gradients over micro-batches, optimiser update; jitted with shardings and donation."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from distilbert_jax.models.params import Params
from distilbert_jax.training.objective import Batch, Metrics, Objective
from distilbert_jax.training.sharding import ROWS, batch_sharding, gather, reduce, shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a run needs to go on: `step` int32 (also the position in the data), the run's key as uint32 data,
    parameters and optimiser state in float32."""

    step: jax.Array
    key: jax.Array
    params: Params
    opt_state: Any


def init_state(params: Params, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh) -> TrainState:
    """The state before step 0, placed on the mesh. `params` are copied: the step may consume its own."""

    build = functools.partial(first_state, optimizer=optimizer, seed=seed)
    return jax.jit(build, out_shardings=shardings(jax.eval_shape(build, params), mesh))(params)


def first_state(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before step 0 (`jax.eval_shape` of it takes no memory)."""
    return TrainState(
        jnp.zeros((), jnp.int32), jax.random.key_data(jax.random.key(seed)), params, optimizer.init(params)
    )


def stack_states(states: Sequence[TrainState], mesh: Mesh) -> TrainState:
    """The states of several seeds as one, with an axis of seeds before every other."""
    stack = lambda *states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    placed = shardings(jax.eval_shape(stack, *states), mesh, stacked=True)
    return jax.jit(stack, out_shardings=placed)(*states)


def row_keys(key: jax.Array, step: jax.Array, rows: int) -> jax.Array:
    """Keys [rows], one for each row of the global batch at `step`."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), jnp.arange(rows))


def gradients(
    objective: Objective,
    params: Params,
    frozen: Params,
    batch: Batch,
    rngs: jax.Array,
    mesh: Mesh,
    accumulate: int = 1,
    *,
    step: jax.Array | int = 0,
) -> tuple[Params, Metrics]:
    """Gradients of the global loss and its parts (with `loss`, their weighted sum), over `accumulate` micro-batches.

    Each device of the row axes sums over its own rows, in all micro-batches; then their sums are added up, once. Left to the
    compiler, a table that is used twice would be added up twice, and along fsdp the rows of the whole batch gathered for it.

    Args:
        params, frozen: whole along fsdp (`sharding.gather`).
        batch, rngs: of the global batch, cut along the row axes.
        step: which the objective's values are of.

    Returns:
        Gradients, cut as the parameters are, and float32 scalars.
    """
    with jax.named_scope("prepare"):
        batch, counts = objective.prepared(rngs, batch, objective.values(jnp.asarray(step, jnp.int32)))
    if mesh.shape["data"] * mesh.shape["fsdp"] == 1:
        grads, metrics = local_gradients(objective, params, frozen, batch, counts, accumulate)
        return grads, {**metrics, **counts}

    def local(params: Params, frozen: Params, batch: Batch, counts: Metrics) -> Any:
        return jax.tree.map(lambda x: x[None], local_gradients(objective, params, frozen, batch, counts, accumulate))

    # Replication is not tracked: a loop in a user's loss would have to say which of its values differ among devices.
    summed = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P(), P(ROWS), P()), out_specs=P(ROWS), axis_names=set(ROWS), check_vma=False
    )
    grads, metrics = reduce(summed(params, frozen, batch, counts), mesh)
    return grads, {**metrics, **counts}


def local_gradients(
    objective: Objective, params: Params, frozen: Params, batch: Batch, counts: Metrics, accumulate: int = 1
) -> tuple[Params, Metrics]:
    """`gradients` of the rows of one device, prepared, and what they add to the loss and its parts.

    Micro-batch a takes rows a, a + A, a + 2A, …, the same of the global batch whatever the number of devices.
    """
    grad = jax.value_and_grad(objective.loss, has_aux=True)

    def micro(rows: Batch) -> tuple[Params, Metrics]:
        (loss, parts), grads = grad(params, frozen, rows, counts)
        return grads, {"loss": loss, **parts}

    if accumulate == 1:
        return micro(batch)
    cut = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(micro, jax.tree.map(lambda x: x[0], cut))
    )
    add = lambda total, rows: (jax.tree.map(jnp.add, total, micro(rows)), None)
    return jax.lax.scan(add, zeros, cut)[0]


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    frozen: Params,
    mesh: Mesh,
    accumulate: int = 1,
    *,
    stacked: bool = False,
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, Metrics]]:
    """step(state, frozen, batch) → (state, metrics); the given state is donated.

    Metrics are float32 scalars: loss, its parts, the counts they were divided by, values that change over the run, and
    grad_norm before clipping.

    Args:
        stacked: `state` is one of `stack_states`, batches are [S, B, ...]; the seeds train side by side, each as it would
            alone, and metrics are [S]. `frozen` they share.
    """

    def step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, Metrics]:
        rngs = row_keys(jax.random.wrap_key_data(state.key), state.step, len(batch["input_ids"]))
        whole = gather(state.params, mesh), gather(frozen, mesh)
        grads, metrics = gradients(objective, *whole, batch, rngs, mesh, accumulate, step=state.step)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = cast(Params, optax.apply_updates(state.params, updates))
        return TrainState(state.step + 1, state.key, params, opt_state), {
            **metrics,
            "grad_norm": optax.tree.norm(grads),
        }

    state_shardings = shardings(state, mesh, stacked=stacked)
    return jax.jit(
        jax.vmap(step, in_axes=(0, None, 0)) if stacked else step,
        in_shardings=(state_shardings, shardings(frozen, mesh), batch_sharding(mesh, stacked=stacked)),
        out_shardings=(state_shardings, NamedSharding(mesh, P())),
        donate_argnums=0,
    )
