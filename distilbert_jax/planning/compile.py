"""Ahead-of-time compilation of a step for a target that is not here, in a process of its own.

The variables with which libtpu and XLA's GPU plugin compile without a device would change what every other command sees. `main` is
that process; its arguments name files, of `Job` and of `Compiled` as JSON, and the process that waits for it.
"""

import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilbert_jax.base.config_io import ConfigFile, read_config, run_file, write_config
from distilbert_jax.errors import InputError, Interrupted, one_line_errors
from distilbert_jax.planning.hlo import Operation, operations
from distilbert_jax.planning.runs import Features, Finetuning, Pretraining, Run
from distilbert_jax.planning.targets import Chip, Target, parse_target

# The smallest slice of each TPU that libtpu describes; fewer chips are some of its.
_SMALLEST = {2: "2x2", 3: "2x2x1"}  # by the dimensions of its network
_GPU_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
_MATMUL = 8192  # rows and columns of the lone matmul that tells a clock
# Of the peak, which it reaches by the cycles of the chips whose clock is known: v4 and v5p 0.90, v5e 0.88.
_MATMUL_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to compile.

    Attributes:
        pretraining, finetuning, features: the run, one of them.
        files: Python files to run before, which may bring terms, objectives and families.
    """

    target: str
    pretraining: Pretraining | None = None
    finetuning: Finetuning | None = None
    features: Features | None = None
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, target: str, run: Run, files: tuple[str, ...] = ()) -> "Job":
        return cls(
            target=target,
            pretraining=run if isinstance(run, Pretraining) else None,
            finetuning=run if isinstance(run, Finetuning) else None,
            features=run if isinstance(run, Features) else None,
            files=files,
        )

    @property
    def run(self) -> Run:
        (run,) = (one for one in (self.pretraining, self.finetuning, self.features) if one)
        return run


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What a compiler says of a step, of one device.

    Attributes:
        clock: Hz of the operations' cycles; None of a GPU, whose compiler counts none.
        clock_calibrated: the clock was told by a lone matmul, not by a data sheet.
    """

    operations: tuple[Operation, ...]
    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    aliased_bytes: int
    clock: float | None
    clock_calibrated: bool
    trace_seconds: float
    compile_seconds: float
    versions: str

    @property
    def total_bytes(self) -> int:
        return self.argument_bytes + self.output_bytes + self.temporary_bytes - self.aliased_bytes


class DoesNotFitError(InputError):
    """The compiler found no program that the memory of a device has room for.

    Attributes:
        needed: bytes that it would take.
    """

    def __init__(self, message: str, *, needed: float):
        super().__init__(message, field="--target", hint="--data.batch-size auto")
        self.needed = needed


def compile_step(job: Job) -> Compiled:
    """`Compiled` of a job, by a process of its own.

    Raises:
        DoesNotFitError: it takes more memory than there is.
        InputError: what it needs is not installed, or the step cannot be made or compiled for the target; in one line.
    """
    target = parse_target(job.target)
    check_installed(target.chip)
    run = job.run
    rows = f"{run.rows:,} rows of {run.length} tokens" + (
        f" in {run.accumulate} micro-batches" if run.accumulate > 1 else ""
    )
    print(f"compiling {rows} for {target}, which takes a minute or more", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "job.json", Path(folder) / "compiled.json"
        write_config(job, given)
        environment = {**os.environ, **_variables(target)}
        command = [sys.executable, "-c", f"from {__name__} import main; main()", str(given), str(out), str(os.getpid())]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, errors="replace", check=False
            )
        except KeyboardInterrupt:
            raise Interrupted("nothing of a plan is kept; the same command begins anew") from None
        if done.returncode or not out.is_file():
            raise _refusal(done.stderr, target)
        return read_config(Compiled, out)


def _refusal(errors: str, target: Target) -> InputError:
    """Why there is no program, of what the compiler's process said."""
    if used := re.search(r"([\d.]+)([KMGT])\)? (?:of|exceeds available HBM) \(?([\d.]+)([KMGT])", errors):
        needed, there = (float(used[i]) * 1024 ** (1 + "KMGT".index(used[i + 1])) for i in (1, 3))
        return DoesNotFitError(
            f"--target {target}: the step needs at least {needed / 1e9:.1f} GB of a device's {there / 1e9:.1f}, says its compiler: "
            "fewer rows (--data.batch-size auto), more micro-batches (--optimizer.accumulate auto), more --mesh.fsdp or chips",
            needed=needed,
        )
    if "libtpu" in errors and re.search(r"lockfile|already in use|in use by", errors):
        hint = "end that process, or set ALLOW_MULTIPLE_LIBTPU_LOAD=1"
        return InputError(f"--target {target}: another process holds libtpu: {hint}", field="--target", hint=hint)
    lines = [line for line in errors.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = told[-1] if told else (lines[-1][:300] if lines else "no word of why")
    return InputError(said if told else f"--target {target}: its compiler ended: {said}", field="--target")


def check_installed(chip: Chip) -> None:
    """Raise InputError unless the compiler of a chip is there, in the version that the installed JAX asks for."""
    if chip.kind == "tpu":
        if not (there := _version("libtpu")):
            hint = "pip install 'distilbert_jax[plan]'"
            raise InputError(f"planning for a {chip.title} needs libtpu: {hint}", field="--target", hint=hint)
        wanted = next((line for line in importlib.metadata.requires("jax") or () if line.startswith("libtpu")), "")
        series = re.search(r"==(\d+\.\d+\.\d+)", wanted)
        if series and not f"{there}.".startswith(f"{series[1]}."):
            hint = f"pip install 'libtpu=={series[1]}.*'"
            raise InputError(
                f"libtpu {there} does not go with jax {importlib.metadata.version('jax')}: {hint}",
                field="--target",
                hint=hint,
            )
    elif not any(map(_version, _GPU_PLUGINS)):
        hint = "pip install 'distilbert_jax[plan-gpu]'"
        raise InputError(f"planning for a {chip.title} needs XLA's GPU plugin: {hint}", field="--target", hint=hint)


def _variables(target: Target) -> dict[str, str]:
    """The environment in which a target's compiler works without a device."""
    variables = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    if target.chip.kind == "tpu":
        counted = max(target.chips, 4) * (2 if target.chip.dimensions == 3 else 1)  # of these Google counts cores
        variables |= {
            "TPU_ACCELERATOR_TYPE": f"{target.chip.generation}-{counted}",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_WORKER_ID": "0",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
    return variables


def _devices(target: Target) -> Sequence[Any]:
    """The devices of a target, of a description of it."""
    from jax.experimental import topologies

    chip = target.chip
    if chip.kind == "gpu":
        from jax._src import xla_bridge

        # What JAX does before it asks for its devices; without this it does not know of the plugin.
        with contextlib.suppress(Exception):
            xla_bridge.discover_pjrt_plugins()
        options: dict[str, Any] = {"target_config": _gpu(chip), "topology": f"1x1x{target.chips}"}
        return topologies.get_topology_desc(platform="cuda", topology_name="x", **options).devices
    shape = "x".join(map(str, target.shape))
    if target.chips == 1:
        shape = _SMALLEST[chip.dimensions]
    options = {"chip_config_name": "megacore"} if chip.name == "v4" else {}
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip.name}:{shape}", **options)
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise InputError(f"--target {target}: no such slice, says libtpu ({said})", field="--target") from None
    return described.devices[: target.devices]


def _gpu(chip: Chip) -> str:
    """A GPU as XLA's compiler wants it described: NVIDIA's figures of its multiprocessors."""
    ampere = chip.name == "a100"
    major, cores, clock, shared, block = (8, 108, 1.41, 167936, 166912) if ampere else (9, 132, 1.98, 233472, 232448)
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {shared} shared_memory_per_block_optin: {block}
  core_count: {cores} fpus_per_core: {64 if ampere else 128} clock_rate_ghz: {clock}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {round(chip.bandwidth)} device_memory_size: {round(chip.memory)}
  l2_cache_size: {40 << 20 if ampere else 50 << 20}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {major} minor: 0 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
device_description_str: "{chip.title}"
"""


def clock_of(chip: Chip, device: Any) -> float:
    """Hz of the cycles that a TPU's compiler counts, by those of a lone matmul, which reaches 0.9 of the peak."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    where = SingleDeviceSharding(device)
    square = jax.ShapeDtypeStruct((_MATMUL, _MATMUL), jnp.bfloat16)
    multiply = jax.jit(jnp.matmul, in_shardings=where, out_shardings=where)
    cycles = sum(one.cycles for one in operations(multiply.lower(square, square).compile().as_text() or ""))
    return cycles * _MATMUL_SHARE * (chip.peak / chip.cores) / (2 * _MATMUL**3)


def _compile(job: Job) -> Compiled:
    import jax

    from distilbert_jax.planning.steps import step_of
    from distilbert_jax.training import sharding

    for name in job.files:
        run_file(ConfigFile(name, Path(name)))
    target = parse_target(job.target)
    devices = _devices(target)
    mesh = sharding.make_mesh(job.run.mesh, devices)
    begun = time.perf_counter()
    step = step_of(job.run, mesh)
    lowered = step.step.lower(*step.arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    took = time.perf_counter()
    memory = compiled.memory_analysis()
    clock = target.chip.clock
    calibrated = target.chip.kind == "tpu" and clock is None
    return Compiled(
        operations=tuple(operations(compiled.as_text() or "")),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
        clock=clock_of(target.chip, devices[0]) if calibrated else clock,
        clock_calibrated=calibrated,
        trace_seconds=traced - begun,
        compile_seconds=took - traced,
        versions=_versions(target.chip, jax.__version__),
    )


def _version(package: str) -> str:
    """The version of an installed package, or ""."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _versions(chip: Chip, jax_version: str) -> str:
    names = ("libtpu",) if chip.kind == "tpu" else _GPU_PLUGINS
    return ", ".join([f"jax {jax_version}", *(f"{name} {there}" for name in names if (there := _version(name)))])


def _end_with(parent: int, folder: Path) -> None:
    """Leave when the process that has asked is gone (a signal that it cannot answer), its folder removed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def main() -> None:
    given, out, parent = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    threading.Thread(target=_end_with, args=(parent, given.parent), daemon=True).start()
    with one_line_errors():
        write_config(_compile(read_config(Job, given)), out)
