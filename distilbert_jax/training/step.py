"""The one train step: prepare, gradients over micro-batches, optimiser update; jitted with shardings and donation."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from distilbert_jax.models.params import Params
from distilbert_jax.training.objective import Batch, Company, Metrics, Objective, alone
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
    company: Company,
    params: tuple[Params, ...],
    frozen: Params,
    batch: Batch,
    rngs: jax.Array,
    mesh: Mesh,
    accumulate: int = 1,
    *,
    step: jax.Array | int = 0,
) -> tuple[tuple[Params, Metrics], ...]:
    """Of each model the gradients of its global loss and its parts (with `loss`, their weighted sum), over `accumulate`
    micro-batches.

    Each device of the row axes sums over its own rows, in all micro-batches; then their sums are added up, once. Left to the
    compiler, a table that is used twice would be added up twice, and along fsdp the rows of the whole batch gathered for it.

    Args:
        params, frozen: whole along fsdp (`sharding.gather`).
        batch, rngs: of the global batch, cut along the row axes.
        step: which the objectives' values are of.

    Returns:
        Gradients, cut as the parameters are, and float32 scalars.
    """
    with jax.named_scope("prepare"):
        batch, counts = company.prepare(rngs, batch, jnp.asarray(step, jnp.int32))
    if mesh.shape["data"] * mesh.shape["fsdp"] == 1:
        results = local_gradients(company, params, frozen, batch, counts, accumulate)
    else:

        def local(params: Any, frozen: Params, batch: Batch, counts: Any) -> Any:
            return jax.tree.map(lambda x: x[None], local_gradients(company, params, frozen, batch, counts, accumulate))

        # Replication is not tracked: a loop in a user's loss would have to say which of its values differ among devices.
        summed = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), P(), P(ROWS), P()),
            out_specs=P(ROWS),
            axis_names=set(ROWS),
            check_vma=False,
        )
        results = tuple(reduce(one, mesh) for one in summed(params, frozen, batch, counts))
    return tuple((grads, {**metrics, **of}) for (grads, metrics), of in zip(results, counts, strict=True))


def local_gradients(
    company: Company,
    params: tuple[Params, ...],
    frozen: Params,
    batch: Batch,
    counts: tuple[Metrics, ...],
    accumulate: int = 1,
) -> tuple[tuple[Params, Metrics], ...]:
    """`gradients` of the rows of one device, prepared, and what they add to each loss and its parts.

    Micro-batch a takes rows a, a + A, a + 2A, …, the same of the global batch whatever the number of devices.
    """

    def of(objective: Objective, params: Params, rows: Batch, counts: Metrics) -> tuple[Params, Metrics]:
        (loss, parts), grads = jax.value_and_grad(objective.loss, has_aux=True)(params, frozen, rows, counts)
        return grads, {"loss": loss, **parts}

    def micro(rows: Batch) -> tuple[tuple[Params, Metrics], ...]:
        rows = company.teach(frozen, rows)
        each = zip(company.objectives, params, counts, strict=True)
        return tuple(of(objective, values, rows, one) for objective, values, one in each)

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
    held: Collection[str] = (),
    stacked: bool = False,
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, Metrics]]:
    """step(state, frozen, batch) → (state, metrics); the given state is donated.

    Metrics are float32 scalars: loss, its parts, the counts they were divided by, values that change over the run, and
    grad_norm before clipping, of what is trained.

    Args:
        held: parameters that the optimizer leaves as they are.
        stacked: `state` is one of `stack_states`, batches are [S, B, ...]; the seeds train side by side, each as it would
            alone, and metrics are [S]. `frozen` they share.
    """

    together = _step(alone(objective), (optimizer,), mesh, accumulate, (held,))

    def step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, Metrics]:
        (state,), (metrics,) = together((state,), frozen, batch)
        return state, metrics

    state_shardings = shardings(state, mesh, stacked=stacked)
    return jax.jit(
        jax.vmap(step, in_axes=(0, None, 0)) if stacked else step,
        in_shardings=(state_shardings, shardings(frozen, mesh), batch_sharding(mesh, stacked=stacked)),
        out_shardings=(state_shardings, NamedSharding(mesh, P())),
        donate_argnums=0,
    )


def make_step_together(
    company: Company,
    optimizers: Sequence[optax.GradientTransformation],
    states: tuple[TrainState, ...],
    frozen: Params,
    mesh: Mesh,
    accumulate: int,
    held: Sequence[Collection[str]],
) -> Callable[[tuple[TrainState, ...], Params, Batch], tuple[tuple[TrainState, ...], tuple[Metrics, ...]]]:
    """`make_train_step` of models side by side: states of one seed and one step, which may be of different architectures, and the
    metrics of each."""
    places = shardings(states, mesh)
    return jax.jit(
        _step(company, optimizers, mesh, accumulate, held),
        in_shardings=(places, shardings(frozen, mesh), batch_sharding(mesh)),
        out_shardings=(places, NamedSharding(mesh, P())),
        donate_argnums=0,
    )


def _step(
    company: Company,
    optimizers: Sequence[optax.GradientTransformation],
    mesh: Mesh,
    accumulate: int,
    held: Sequence[Collection[str]],
) -> Callable[[tuple[TrainState, ...], Params, Batch], tuple[tuple[TrainState, ...], tuple[Metrics, ...]]]:
    def update(
        state: TrainState,
        optimizer: optax.GradientTransformation,
        held: Collection[str],
        grads: Params,
        metrics: Metrics,
    ) -> tuple[TrainState, Metrics]:
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = cast(Params, optax.apply_updates(state.params, updates))
        return TrainState(state.step + 1, state.key, params, opt_state), {
            **metrics,
            "grad_norm": optax.tree.norm({name: value for name, value in grads.items() if name not in held}),
        }

    def step(
        states: tuple[TrainState, ...], frozen: Params, batch: Batch
    ) -> tuple[tuple[TrainState, ...], tuple[Metrics, ...]]:
        key, number = states[0].key, states[0].step  # of all the same
        rngs = row_keys(jax.random.wrap_key_data(key), number, len(batch["input_ids"]))
        whole = tuple(gather(state.params, mesh) for state in states), gather(frozen, mesh)
        results = gradients(company, *whole, batch, rngs, mesh, accumulate, step=number)
        each = zip(states, optimizers, held, results, strict=True)
        new = [update(state, optimizer, names, *result) for state, optimizer, names, result in each]
        return tuple(state for state, _ in new), tuple(metrics for _, metrics in new)

    return step
