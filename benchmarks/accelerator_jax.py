"""The sides of `accelerator.py` that compute with JAX; each call of this file is one of them, in a process of its own."""

import collections
import functools
import gzip
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sides import AbsentError, Asked, Report, Sizes, main, one_line, timed

from distilbert_jax.config import (
    DataConfig,
    FinetuneConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
    student_config,
)
from distilbert_jax.finetuning.batches import RandomBatches, packed_shape
from distilbert_jax.finetuning.kinds.sentences import SentenceExamples
from distilbert_jax.models import EncoderModel, MaskedLM
from distilbert_jax.models.attention import attention_bias, softmax
from distilbert_jax.models.layers import activations_dtype, einsum
from distilbert_jax.models.params import Params, held_weights, split
from distilbert_jax.pipelines.base import compiled_call
from distilbert_jax.pipelines.features import FeatureExtraction
from distilbert_jax.pipelines.fill_mask import FillMask
from distilbert_jax.planning.runs import Finetuning, Pretraining
from distilbert_jax.planning.steps import step_of
from distilbert_jax.planning.targets import chip_of
from distilbert_jax.pretraining.setup import optimizer_of
from distilbert_jax.text.tokenizer import Row
from distilbert_jax.training import cost, sharding
from distilbert_jax.training.optimizer import adamw
from distilbert_jax.training.step import init_state, stack_states

DTYPE = "bfloat16"
SEEDS = 5


def device() -> Any:
    return jax.devices()[0]


def start(asked: Asked, report: Report) -> None:
    """Says what the device is.

    Raises:
        AbsentError: there is only a CPU.
    """
    one = device()
    if one.platform == "cpu" and not asked.toy:
        raise AbsentError("JAX sees no accelerator; --toy tries everything at tiny sizes on a CPU")
    chip = chip_of(one.device_kind)
    stats = one.memory_stats() or {}
    report(
        start_seconds=time.time() - asked.begun,
        device={
            "platform": one.platform,
            "kind": one.device_kind,
            "devices": jax.device_count(),
            "memory_limit": stats.get("bytes_limit"),
            "sheet": chip and chip.title,
            "sheet_flops_per_second": chip and chip.peak / chip.cores,
            "sheet_bytes_per_second": chip and chip.bandwidth / chip.cores,
        },
    )


def mesh_of_one() -> jax.sharding.Mesh:
    return sharding.make_mesh(MeshConfig(), jax.devices()[:1])


def share_of_sheet(flops_per_second: float) -> float | None:
    chip = chip_of(device().device_kind)
    return chip and flops_per_second * chip.cores / chip.peak


def peak_memory() -> int | None:
    """Bytes that the process has held at most on its device, weights and the search for kernels included; None: not known."""
    return (device().memory_stats() or {}).get("peak_bytes_in_use")


def percent(share: float | None) -> str:
    return "peak unknown" if share is None else f"{share:.1%} of the data sheet's peak"


def compile_(
    step: Callable[..., Any], arguments: tuple[Any, ...], asked: Asked, called: str
) -> tuple[Any, dict[str, Any]]:
    """The compiled program, the seconds that it took, and what it says of itself."""
    begun = time.perf_counter()
    lowered = step.lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    took = {"trace_seconds": traced - begun, "compile_seconds": time.perf_counter() - traced}
    if asked.programs:
        with gzip.open(Path(asked.programs) / f"{called}.hlo.gz", "wt", compresslevel=4) as file:
            file.write(compiled.as_text())
    return compiled, took | {"program": says_of_itself(compiled)}


def says_of_itself(compiled: Any) -> dict[str, float | None]:
    """What the compiler would allocate, in bytes, and its count of work: the figures of `distilbert-jax plan`."""
    says: dict[str, float | None] = dict.fromkeys(
        ("bytes", "temporary_bytes", "argument_bytes", "bytes_accessed", "flops")
    )
    try:
        needs = compiled.memory_analysis()
        says["bytes"] = cost.memory(compiled)[0]
        says["temporary_bytes"], says["argument_bytes"] = needs.temp_size_in_bytes, needs.argument_size_in_bytes
        counts = compiled.cost_analysis()
        counts = counts[0] if isinstance(counts, list) else counts
        says["bytes_accessed"], says["flops"] = counts.get("bytes accessed"), counts.get("flops")
    except Exception as error:  # not every backend counts
        print(f"no count: {one_line(error)}")
    return says


def weights(shapes: Params, vocabulary: int, seed: int) -> Params:
    """Random parameters of these shapes on the host: biases 0, scales 1; the vocabulary padded as in training."""
    random = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith(".bias"):
            return np.zeros(shape, np.float32)
        if name.endswith(".scale"):
            return np.ones(shape, np.float32)
        return 0.02 * random.standard_normal(shape, np.float32)

    drawn: Any = {name: draw(name, leaf.shape) for name, leaf in shapes.items()}
    return sharding.pad_vocabulary(sharding.cut_vocabulary(drawn, vocabulary))


# Ceilings


def ceilings(asked: Asked, report: Report) -> None:
    """FLOP/s of a large matmul, bytes/s (read and written) of x + 1 in place on a large array."""
    start(asked, report)
    sizes = asked.sizes
    n = sizes.matmul
    for name, dtype, precision in (
        ("bfloat16", jnp.bfloat16, None),
        ("float32_default", jnp.float32, "default"),
        ("float32_highest", jnp.float32, "highest"),
    ):
        left, right = (jax.random.normal(jax.random.key(seed), (n, n), dtype) for seed in range(2))
        run = jax.jit(functools.partial(jnp.matmul, precision=precision))
        times = timed(functools.partial(run, left, right), jax.block_until_ready, sizes, sizes.brief)
        report(**{f"matmul_{name}": times | {"flops_per_second": 2 * n**3 / times["ms"] * 1e3}})
    held = [jnp.zeros(sizes.copied // 4, jnp.float32)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def copy() -> jax.Array:
        held[0] = add(held[0])
        return held[0]

    times = timed(copy, jax.block_until_ready, sizes, sizes.brief)
    report(copy=times | {"bytes_per_second": 2 * sizes.copied / times["ms"] * 1e3})
    found = {
        name: one.get("flops_per_second", one.get("bytes_per_second", 0)) / 1e12
        for name, one in report.found.items()
        if name.startswith(("matmul", "copy"))
    }
    report(summary=", ".join(f"{name} {value:.3g} T/s" for name, value in found.items()))


# Distillation


def teacher_of(sizes: Sizes) -> ModelConfig:
    return ModelConfig.bert_base(**sizes.shape())


def student_of(sizes: Sizes) -> ModelConfig:
    return student_config(teacher_of(sizes), sizes.layers // 2)


def distillation(asked: Asked, report: Report) -> None:
    """The project's own step on full rows of random tokens, with random weights; corruption and dropout are drawn in it."""
    start(asked, report)
    sizes, mesh = asked.sizes, mesh_of_one()
    rows, length = asked.rows, asked.length
    teacher, student = teacher_of(sizes), student_of(sizes)
    config = PretrainConfig(
        model=student,
        objective="distillation",
        teacher="bert-base-uncased",
        data=DataConfig(length=length, batch_size=rows),
        run=RunConfig(dtype=DTYPE),
    )
    run = Pretraining(config=config, teacher=teacher)
    made = step_of(run, mesh)
    report(
        activations=str(activations_dtype("auto", DTYPE, mesh.devices.flat[0].platform)),
        tokens_a_step=rows * length,
        model_flops_a_step=run.flops(),
    )
    compiled, says = compile_(made.step, made.arguments, asked, f"distillation-{rows}x{length}")
    report(**says)
    state, frozen, batch = made.arguments
    params = weights(state.params, sizes.vocabulary, 0)
    state = init_state(params, optimizer_of(config), 0, mesh)
    frozen = jax.device_put(weights(frozen, sizes.vocabulary, 1), sharding.shardings(frozen, mesh))
    ids = np.random.default_rng(0).integers(sizes.vocabulary // 16, sizes.vocabulary, (rows, length)).astype(np.int32)
    given = {
        "input_ids": ids,
        "segment_ids": np.ones_like(ids),
        "position_ids": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    }
    batch = sharding.place({name: given[name] for name in batch}, rows, mesh)
    del params
    step = train(compiled, state, frozen, batch, report, sizes)
    per_second = rows * length / report.found["ms"] * 1e3
    flops = run.flops() / report.found["ms"] * 1e3
    report(tokens_per_second=per_second, model_flops_per_second=flops, share_of_sheet=share_of_sheet(flops))
    report(
        summary=f"{report.found['ms']:.1f} ms a step, {per_second:,.0f} tokens/s, {percent(share_of_sheet(flops))}, "
        f"{gigabytes(report.found['peak_memory'])} at most, loss {report.found['loss']:.4}, "
        f"compiled in {says['trace_seconds'] + says['compile_seconds']:.0f} s"
    )
    if asked.profile:
        try:
            report(kernels=kernels(step))
        except Exception as error:  # the figures above stand
            report(kernels=one_line(error))


def kernels(step: Callable[[], Any], count: int = 3, most: int = 80) -> list[dict[str, Any]]:
    """What ran on the device in a step, the longest first: its name, operation where that is known, milliseconds and calls."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(count):
                last = step()
            jax.block_until_ready(last)
        (file,) = Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(file)).planes
        spent, calls = collections.Counter(), collections.Counter()
        for plane in planes:
            for line in plane.lines if plane.name.startswith("/device:") else ():
                if "Stream" in line.name or line.name == "XLA Ops":
                    for event in line.events:
                        name = event.name, str(dict(event.stats).get("hlo_op", ""))
                        spent[name] += event.duration_ns
                        calls[name] += 1
    return [
        {"name": name[:120], "operation": operation, "ms": time_ / count / 1e6, "calls": calls[name, operation] / count}
        for (name, operation), time_ in spent.most_common(most)
    ]


def train(step: Any, state: Any, frozen: Any, batch: Any, report: Report, sizes: Sizes, name: str = "") -> Any:
    """Times chained steps, each of which consumes the state of the one before. Returns the call that does one more."""
    held = [state]
    del state

    def call() -> Any:
        held[0], metrics = step(held[0], frozen, batch)
        return metrics

    times = timed(call, jax.block_until_ready, sizes)
    loss = float(np.mean(jax.device_get(call()["loss"])))
    found = {**times, "loss": loss if np.isfinite(loss) else str(loss), "peak_memory": peak_memory()}
    report(**({name: found} if name else found))
    return call


def gigabytes(count: float | None) -> str:
    return "memory unknown" if count is None else f"{count / 1e9:.1f} GB"


def losses(asked: Asked, report: Report) -> None:
    """The loss of a given batch without dropout, from weights that the other side reads too."""
    start(asked, report)
    import jax_work

    sizes, folder = asked.sizes, Path(asked.folder)
    teacher, student = folder / "teacher", folder / "student"
    jax_work.save_models(teacher_of(sizes), teacher, student)
    batch = jax_work.make_batch(asked.rows, asked.length, sizes.vocabulary, first=sizes.vocabulary // 16)
    np.savez(folder / "batch.npz", **batch)
    ours = jax_work.Distillation(teacher, student, batch, DTYPE, LossConfig(), OptimizerConfig())
    loss = ours.loss_without_dropout()
    report(loss=loss, summary=f"loss {loss:.4f}")


# Inference


def inference(asked: Asked, report: Report) -> None:
    """Mean-pooled features and fill-mask at one position, as the pipelines compute them, results left on the device."""
    start(asked, report)
    sizes, length = asked.sizes, asked.length
    config = student_of(sizes)
    precision = {"dtype": jnp.dtype(DTYPE)}
    heads: dict[str, tuple[Any, Any, tuple[Any, ...]]] = {
        "features": (
            lambda: EncoderModel.of_family("distilbert")(
                config, add_pooling_layer=False, rngs=nnx.Rngs(0), **precision
            ),
            FeatureExtraction.compute,
            (config.num_hidden_layers, "mean"),
        ),
        "fill_mask": (
            lambda: MaskedLM.of_family("distilbert")(config, rngs=nnx.Rngs(0), **precision),
            FillMask.compute,
            (),
        ),
    }
    for name, (make, compute, options) in heads.items():
        model: Any = nnx.eval_shape(make)
        graphdef, shapes = split(model)
        params = held_weights(model, jax.device_put(weights(shapes, sizes.vocabulary, 0), device()))
        call = compiled_call(graphdef, compute)
        for rows in (1, asked.rows):
            ids = np.random.default_rng(0).integers(sizes.vocabulary // 16, sizes.vocabulary, (rows, length))
            batch = {
                "input_ids": ids.astype(np.int32),
                "token_type_ids": np.zeros((rows, length), np.int32),
                "attention_mask": np.ones((rows, length), np.int32),
                **({"positions": np.full((rows, 1), length // 2, np.int32)} if name == "fill_mask" else {}),
            }
            batch = jax.device_put(batch, device())
            report_calls(report, f"{name}_{rows}", functools.partial(call, params, batch, options), rows, sizes)
    report(peak_memory=peak_memory())
    summarise(report)


def report_calls(report: Report, name: str, call: Callable[[], Any], rows: int, sizes: Sizes) -> None:
    """Throughput of calls in a row, and the time of one that is waited for."""
    try:
        times = timed(call, jax.block_until_ready, sizes, sizes.brief)
        alone = timed(lambda: jax.block_until_ready(call()), lambda _: None, sizes, sizes.brief)
    except Exception as error:  # the others may do
        report(**{name: {"error": one_line(error)}})
        return
    report(**{name: times | {"waited_for_ms": alone["ms"], "sequences_per_second": rows / times["ms"] * 1e3}})


def summarise(report: Report) -> None:
    figures = {name: one for name, one in report.found.items() if isinstance(one, dict) and name != "device"}
    said = [f"{name} {one['ms']:.3f} ms" if "ms" in one else f"{name}: {one['error']}" for name, one in figures.items()]
    report(summary=", ".join(said))


# GLUE


def glue(asked: Asked, report: Report) -> None:
    """A fine-tuning step of DistilBERT-base on packed rows of as many examples, of such lengths, as MRPC's batches have."""
    start(asked, report)
    sizes, mesh, random = asked.sizes, mesh_of_one(), np.random.default_rng(0)
    # MRPC's pairs have 53 tokens on average, 103 at most.
    longest = min(103, sizes.positions)
    lengths = np.clip(random.normal(53, 13, sizes.glue).round(), 20, longest).astype(int)
    config = FinetuneConfig(
        model="distilbert-base-uncased", task="mrpc", batch_size=32, run=RunConfig(directory="", dtype=DTYPE)
    )
    shape = packed_shape(lengths, config.batch_size)
    ids = lambda count: random.integers(sizes.vocabulary // 16, sizes.vocabulary, count).astype(np.int32)
    rows = [Row(ids(length), (np.arange(length) >= length // 2).astype(np.int32)) for length in lengths]
    examples = SentenceExamples(rows, random.integers(0, 2, len(rows)).astype(np.int32), cut=0)
    packings = [RandomBatches(lengths, config.batch_size, seed, shape).batch(0) for seed in range(SEEDS)]
    batches = [examples.packed(packing, shape, 0) for packing in packings]
    model = student_of(sizes)
    report(rows=shape.rows, length=shape.length, segments=shape.segments, examples=len(packings[0].indices))
    for seeds in (1, SEEDS):
        run = Finetuning(config=config, model=model, seeds=seeds, steps=575, **shape._asdict())
        made = step_of(run, mesh)
        compiled, says = compile_(made.step, made.arguments, asked, f"glue-{seeds}")
        state, frozen, _ = made.arguments
        several = seeds > 1
        shapes = {name: jax.ShapeDtypeStruct(leaf.shape[several:], leaf.dtype) for name, leaf in state.params.items()}
        optimizer = adamw(config.optimizer, run.steps)
        begun = weights(shapes, sizes.vocabulary, 0)
        states = [init_state(begun, optimizer, seed, mesh) for seed in range(seeds)]
        state = stack_states(states, mesh) if several else states[0]
        del begun, states
        given = {name: np.stack([one[name] for one in batches]) for name in batches[0]} if several else batches[0]
        batch = jax.device_put(given, sharding.batch_sharding(mesh, stacked=several))
        name = "five_seeds" if several else "one_seed"
        train(compiled, state, frozen, batch, report, sizes, name)
        del state, batch
        flops = run.flops() / report.found[name]["ms"] * 1e3
        report(
            **{
                name: report.found[name]
                | says
                | {"model_flops_per_second": flops, "share_of_sheet": share_of_sheet(flops)}
            }
        )
    ratio = SEEDS * report.found["one_seed"]["ms"] / report.found["five_seeds"]["ms"]
    report(
        ratio=ratio,
        summary=f"one seed {report.found['one_seed']['ms']:.2f} ms, five {report.found['five_seeds']['ms']:.2f} ms, "
        f"ratio {ratio:.2f}",
    )


# Attention


def core(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None) -> jax.Array:
    """What `SelfAttention` computes between its projections, without dropout: [B, T, N, H] each."""
    scores = einsum(
        "bqnh,bknh->bnqk", (query.astype(jnp.float32) * query.shape[-1] ** -0.5).astype(query.dtype), key, DTYPE
    )
    return einsum("bnqk,bknh->bqnh", softmax(scores, bias), value, DTYPE)


def attention(asked: Asked, report: Report) -> None:
    """Milliseconds of an attention, its results the operands of the next one so that none is left out: several in a program."""
    start(asked, report)
    sizes = asked.sizes
    N, H = sizes.heads, sizes.hidden // sizes.heads
    shapes = ((4, 16),) if asked.toy else ((64, 128), (16, 512))
    # What is most likely to crash comes last.
    for backend, (B, T), packed, backward in itertools.product(
        ("project", "xla", "cudnn"), shapes, *[(False, True)] * 2
    ):
        name = f"{backend}{'_segments' * packed}_{B}x{T}{'_backward' * backward}"
        q, k, v, g = (jax.random.normal(jax.random.key(seed), (B, T, N, H), jnp.dtype(DTYPE)) for seed in range(4))
        segments = jnp.asarray(np.tile(1 + np.arange(T) * 3 // T, (B, 1)), jnp.int32) if packed else None  # three texts
        try:
            run = several(backend, backward, sizes.unrolled)
            times = timed(functools.partial(run, q, k, v, g, segments), jax.block_until_ready, sizes, sizes.brief)
            each = {key: value / sizes.unrolled if key.startswith("ms") else value for key, value in times.items()}
            report(**{name: each})
        except Exception as error:  # the others may do
            report(**{name: {"error": one_line(error)}})
        summarise(report)


def several(backend: str, backward: bool, count: int) -> Callable[..., Any]:
    """A program of `count` attentions, one after the other."""

    def once(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None) -> jax.Array:
        if backend == "project":
            return core(q, k, v, attention_bias(None, segments))
        mask = None if segments is None else segments[:, None, :, None] == segments[:, None, None, :]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=backend)

    def all_(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array, segments: jax.Array | None) -> Any:
        for _ in range(count):
            if backward:
                q, k, v = jax.vjp(lambda *operands: once(*operands, segments), q, k, v)[1](g)
            else:
                q = once(q, k, v, segments)
        return q, k, v

    return jax.jit(all_)


if __name__ == "__main__":
    main(
        {
            "ceilings": ceilings,
            "distillation": distillation,
            "losses": losses,
            "inference": inference,
            "glue": glue,
            "attention": attention,
        }
    )
