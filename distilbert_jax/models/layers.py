"""The parts every layer is made of: matmuls under the one precision rule, Linear, row-keyed dropout, activations.

The precision rule (stated here once) has two dtypes. *Compute*: of both operands of a matmul, which accumulates float32; with
float32 it runs at `Precision.HIGHEST`, else a GPU would use TF32 and a TPU bfloat16. *Activations*: of what lies between layers.
The embeddings give it, and whatever comes after returns the dtype that it was given: a matmul that of its left operand; biases
(and their gradients), residual sums, LayerNorm, activation functions, softmax and dropout, too, but all of them compute in float32
(on NVIDIA's GPUs a bias is rounded before it is added: `einsum`). Parameters and their gradients are float32.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import cast, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Key, Num, UInt32

from distilbert_jax.config import Activations

Array = jax.Array
RowKeys = Key[Array, " B"]


def _gelu(x: Array) -> Array:
    # Written with erf rather than erfc, which XLA expands to about twice the work.
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.7071067811865476))


_gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)
# `config.Activation` by name. Left out are those of the reference that have parameters of their own (prelu, xielu).
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_accurate": _gelu_tanh,
    "gelu_10": lambda x: jnp.clip(_gelu(x), -10.0, 10.0),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "hardswish": jax.nn.hard_swish,
    "mish": jax.nn.mish,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "laplace": lambda x: 0.5 * (1.0 + jax.lax.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0)))),
    "sqrtsoftplus": lambda x: jnp.sqrt(jax.nn.softplus(x)),
    "linear": lambda x: x,
}


def activations_dtype(activations: DTypeLike | Activations, dtype: DTypeLike, platform: str | None = None) -> jnp.dtype:
    """The dtype of activations that `auto` means beside the compute dtype `dtype`: bfloat16 where that is bfloat16, but for a CPU,
    whose bfloat16 matmuls are fast with float32 results only; else float32. Any other value stays.

    platform: of the devices, such as "tpu"; None: those at hand.
    """
    if activations != "auto":
        return jnp.dtype(activations)
    narrow = jnp.dtype(dtype) == jnp.bfloat16 and (platform or jax.default_backend()) != "cpu"
    return jnp.dtype(jnp.bfloat16 if narrow else jnp.float32)


def _contract(spec: str, a: Array, b: Array, dtype: DTypeLike, result: DTypeLike) -> Array:
    if jnp.dtype(dtype) == jnp.float32:  # also for the name "float32", which alone is not equal to it
        return _contract_float32(spec, a.astype(dtype), b.astype(dtype)).astype(result)
    return jnp.einsum(spec, a.astype(dtype), b.astype(dtype), preferred_element_type=result)


def _contract_float32(spec: str, a: Array, b: Array) -> Array:
    """With the rows of [B, T, ...] as one axis: within a float32 matmul XLA:CPU transposes one axis for free, two by a slow copy.
    (Its bfloat16 matmuls are the other way round.)"""
    left, right, result = parts = spec.replace("->", ",").split(",")
    size = dict(zip(left + right, a.shape + b.shape, strict=True))
    for pair in map("".join, itertools.pairwise(left)):
        if all(pair in part or not set(pair) & set(part) for part in parts):
            a, b = (
                jax.lax.collapse(x, part.index(pair), part.index(pair) + 2) if pair in part else x
                for x, part in ((a, left), (b, right))
            )
            spec = spec.replace(pair, pair[0])
            break
    out = jnp.einsum(spec, a, b, precision=jax.lax.Precision.HIGHEST)
    return out.reshape([size[index] for index in result])


def _einsum_forward(
    spec: str, a: Array, b: Array, dtype: DTypeLike, result: DTypeLike
) -> tuple[Array, tuple[Array, Array]]:
    return _contract(spec, a, b, dtype, result), (a, b)


def _einsum_backward(
    spec: str, dtype: DTypeLike, result_dtype: DTypeLike, saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    a, b = saved
    operands, result = spec.split("->")
    left, right = operands.split(",")
    grad_a = _contract(f"{result},{right}->{left}", g, b, dtype, a.dtype)
    # Either operand may come first here, and gets transposed: the one with the shorter axis. XLA:CPU knows batched bfloat16
    # matmuls only in the order of their result.
    own = [index for index in right if index not in left or index not in result]
    batched = len(own) < len(right)
    first = own[0] if batched else min(own, key=lambda index: b.shape[right.index(index)])
    if first in left:
        grad_b = _contract(f"{left},{result}->{right}", a, g, dtype, b.dtype)
    else:
        grad_b = _contract(f"{result},{left}->{right}", g, a, dtype, b.dtype)
    return grad_a, grad_b


_einsum = jax.custom_vjp(_contract, nondiff_argnums=(0, 3, 4))
_einsum.defvjp(_einsum_forward, _einsum_backward)


def _fused_bias(spec: str, a: Array, b: Array, bias: Array, dtype: DTypeLike) -> Array:
    """As cuBLAS adds a bias: to the float32 sums, before they are rounded, but in their dtype."""
    return _contract(spec, a, b, dtype, a.dtype) + bias.astype(a.dtype)


def _rounded_once(spec: str, a: Array, b: Array, bias: Array, dtype: DTypeLike) -> Array:
    return (_contract(spec, a, b, dtype, jnp.float32) + bias).astype(a.dtype)


def _biased(spec: str, a: Array, b: Array, bias: Array, dtype: DTypeLike) -> Array:
    if jnp.dtype(dtype) == jnp.float32:
        return _rounded_once(spec, a, b, bias, dtype)
    given = {"default": _rounded_once, "cuda": _fused_bias}
    branches = {name: lambda a, b, bias, make=make: make(spec, a, b, bias, dtype) for name, make in given.items()}
    return jax.lax.platform_dependent(a, b, bias, **branches)


def _biased_forward(spec: str, a: Array, b: Array, bias: Array, dtype: DTypeLike) -> tuple[Array, tuple[Array, Array]]:
    return _biased(spec, a, b, bias, dtype), (a, b)


def _biased_backward(spec: str, dtype: DTypeLike, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    """The bias' gradient by a matmul with ones, which accumulates float32: a TPU's vector unit takes seven times as long for it."""
    rows = g.reshape(-1, g.shape[-1])
    ones = jnp.ones((8, len(rows)), g.dtype)  # of one row XLA would make a sum again
    summed = jnp.matmul(ones, rows, preferred_element_type=jnp.float32)
    return *_einsum_backward(spec, dtype, jnp.float32, saved, g), summed[0]


_biased_einsum = jax.custom_vjp(_biased, nondiff_argnums=(0, 4))
_biased_einsum.defvjp(_biased_forward, _biased_backward)


def einsum(
    spec: str,
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    dtype: DTypeLike,
    *,
    bias: Float[Array, " K"] | None = None,
) -> Float[Array, "..."]:
    """`jnp.einsum(spec, a, b)` under the precision rule: operands in `dtype`; the result has the dtype of `a`, the activations, and
    each gradient that of its operand. A bias [K] of the last axis is added in float32, before the result is rounded, and its
    gradient summed so: sums over all rows in bfloat16 would be cut short. On an NVIDIA GPU a narrow result is never written in
    float32: its bias is rounded to the same dtype, and cuBLAS adds it before the sums are.

    Every index of `a` and of `b` has to stand in the other operand or in the result (no sums inside one operand), so that the
    gradients are two einsums of the same kind. The cotangent is cast to `dtype` before them: JAX's own transpose of a
    bfloat16 → float32 matmul would run float32 × bfloat16, and give a kernel's gradient in bfloat16.
    """
    if bias is None:
        return _einsum(spec, a, b, dtype, a.dtype)
    if a.dtype != jnp.float32:
        return _biased_einsum(spec, a, b, bias, dtype)
    return _einsum(spec, a, b, dtype, jnp.float32) + bias


class Linear(nnx.Module):
    """y = x · kernel + bias, kernel [in, out] ~ N(0, std), bias [out] zero."""

    def __init__(self, features_in: int, features_out: int, *, std: float, dtype: DTypeLike, rngs: nnx.Rngs):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros((features_out,)))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*rows {self.kernel.shape[0]}"]) -> Float[Array, "*rows {self.kernel.shape[1]}"]:
        """[..., in] → [..., out], in the dtype of `x`."""
        lead = "abcdefgh"[: x.ndim - 1]
        return einsum(f"{lead}i,io->{lead}o", x, self.kernel[...], self.dtype, bias=self.bias[...])


def activate(name: str, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The activation function `name` (of `ACTIVATIONS`) of `x`, computed in float32, in the dtype of `x`."""
    return ACTIVATIONS[name](x.astype(jnp.float32)).astype(x.dtype)


def embedding(rows: int, features: int, *, std: float, rngs: nnx.Rngs) -> nnx.Param:
    """A table [rows, features] ~ N(0, std)."""
    return nnx.Param(std * jax.random.normal(rngs.params(), (rows, features)))


def sinusoids(rows: int, features: int) -> Float[Array, "{rows} {features}"]:
    """The fixed position table [rows, features] of Vaswani et al. 2017, sine and cosine in turn, as the reference has it."""
    angles = np.arange(rows)[:, None] / 10000.0 ** (2 * (np.arange(features) // 2) / features)
    return jnp.asarray(np.where(np.arange(features) % 2, np.cos(angles), np.sin(angles)), jnp.float32)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm over the last axis in float32.

    The variance of float32 activations is taken in two passes, which keeps parity where they are far from zero. That of narrower
    ones is the mean of squares less the square of the mean: one pass less over them, which is a quarter of the norm on a TPU, and
    they are rounded more than that loses.
    """

    def __init__(self, features: int, *, eps: float, rngs: nnx.Rngs):
        super().__init__(features, epsilon=eps, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: Float[Array, "*rows K"]) -> Float[Array, "*rows K"]:
        """[..., K] → [..., K] in the dtype of `x`."""
        return self._norm(x.astype(jnp.float32), x.dtype)

    def of_sum(
        self, x: Float[Array, "B *rows K"], y: Float[Array, "B *rows K"], rate: float, rngs: RowKeys | None
    ) -> Float[Array, "B *rows K"]:
        """LayerNorm of x + dropout(y), in the dtype of `x`: the end of a sublayer. The sum stays float32."""
        return self._norm(x.astype(jnp.float32) + dropout(y, rate, rngs).astype(jnp.float32), x.dtype)

    def _norm(self, x: Float[Array, "*rows K"], dtype: DTypeLike) -> Float[Array, "*rows K"]:
        if jnp.dtype(dtype) == jnp.float32:
            return super().__call__(x)
        mean = jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.maximum(jnp.mean(jnp.square(x), axis=-1, keepdims=True) - jnp.square(mean), 0.0)
        scaled = (x - mean) * (jax.lax.rsqrt(variance + self.epsilon) * cast(nnx.Param, self.scale)[...])
        return (scaled + cast(nnx.Param, self.bias)[...]).astype(dtype)


@overload
def fold_rows(rngs: RowKeys, site: int) -> RowKeys: ...
@overload
def fold_rows(rngs: RowKeys | None, site: int) -> RowKeys | None: ...
def fold_rows(rngs: RowKeys | None, site: int) -> RowKeys | None:
    """Row keys [B] for one site of the model; None stays None."""
    with jax.named_scope("dropout"):
        return None if rngs is None else jax.vmap(jax.random.fold_in, (0, None))(rngs, site)


# Of what `random_words` computes: a run with dropout that began with other words does not go on with these.
DROPOUT_BITS = "hash 1"
_ODD = (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)  # multipliers of 32-bit finalisers with little bias (Wellons, "triple32")


def dropout_bits(*rates: float) -> str:
    """What a run's dropout decides by, for its identity; "" where every rate is 0."""
    return DROPOUT_BITS if any(rates) else ""


def _row_words(rngs: Key[Array, "*rows"]) -> tuple[UInt32[Array, "*rows"], UInt32[Array, "*rows"]]:
    """Two words of each key, in a one-to-one mapping of its (Feistel rounds): a bit of a key changes half of the bits of both."""
    key = jax.random.key_data(rngs).astype(jnp.uint32)
    left, right = jnp.zeros_like(key[..., 0]), jnp.zeros_like(key[..., 0])
    for word in range(0, key.shape[-1], 2):  # two words of a Threefry key, four of an RBG one
        left, right = left ^ key[..., word], right ^ key[..., word + 1]
        for round_constant in (0x9E3779B9, 0x3C6EF372, 0xDAA66D2B, 0x78DDE6E4):
            mixed = (right + jnp.uint32(round_constant)) * jnp.uint32(_ODD[0])
            mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(_ODD[1])
            left, right = right, left ^ mixed ^ (mixed >> 16)
    # Else XLA would compute them for every element of a row.
    return jax.lax.optimization_barrier((left, right))


def random_words(rngs: RowKeys, shape: tuple[int, ...]) -> UInt32[Array, "B ..."]:
    """Random words uint32 [B, *shape]: a hash of (row key, place in the row), elementwise and the same on every device.

    Three rounds of a 32-bit finaliser over the place, one word of the row's before the first and one before the last. Two rounds
    showed their places in 10⁸ words (`benchmarks/dropout.py`). Not for cryptography.
    """
    place = jnp.zeros(shape, jnp.uint32)
    for axis, stride in enumerate(math.prod(shape[axis + 1 :]) for axis in range(len(shape))):
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    first, last = (word.reshape(-1, *[1] * len(shape)) for word in _row_words(rngs))
    x = place ^ first
    x = (x ^ (x >> 17)) * jnp.uint32(_ODD[0])
    x = (x ^ (x >> 11)) * jnp.uint32(_ODD[1])
    x = (x ^ (x >> 15)) + last
    x = (x ^ (x >> 16)) * jnp.uint32(_ODD[2])
    return x ^ (x >> 14)


def dropout(x: Float[Array, " B *rest"], rate: float, rngs: RowKeys | None) -> Float[Array, " B *rest"]:
    """Zero a share `rate` of `x` [B, ...] and scale the rest by its inverse; the dtype stays.

    `rngs` is a key array [B], one key for each row of the global batch (None: no dropout), so that what is dropped depends on
    neither the mesh nor how the batch is cut into micro-batches. Each decision takes 32 random bits: the rate is exact to 2⁻³³.
    """
    if rngs is None or rate == 0.0:
        return x
    drop = round(rate * 2**32)
    if drop == 2**32:  # nothing is left to scale
        return jnp.zeros_like(x)
    with jax.named_scope("dropout"):
        kept = random_words(rngs, x.shape[1:]) >= jnp.uint32(drop)
        # Scaled in float32: in bfloat16 1/0.9 itself is 0.2 % off.
        scaled = (x.astype(jnp.float32) * (1.0 / (1.0 - drop / 2**32))).astype(x.dtype)
        return jnp.where(kept, scaled, jnp.zeros((), x.dtype))


def at_positions(values: Num[Array, "B T K"], positions: Int[Array, "B M"]) -> Num[Array, "B M K"]:
    """values [B, T, K] at positions [B, M] → [B, M, K]."""
    return jnp.take_along_axis(values, positions[..., None], axis=1)
