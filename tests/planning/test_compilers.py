"""What a TPU's own compiler makes of the step: bytes that cross the network and the memory, temporaries, share of the peak.

One layer of student and teacher, with the widths and the vocabulary of the base models. `make plan-test`; skipped where libtpu is
missing. Figures are of jax 0.10.2 with libtpu 0.0.42; a ceiling stands a little above, a floor a little below what they were.
"""

import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from distilbert_jax.base.config_io import load_config
from distilbert_jax.config import MeshConfig, ModelConfig, PretrainConfig
from distilbert_jax.planning.compile import Compiled, Job, _variables, compile_step
from distilbert_jax.planning.estimate import Plan, Work, plan_of
from distilbert_jax.planning.runs import Pretraining
from distilbert_jax.planning.targets import parse_target
from tests.runs import ROOT

pytestmark = [
    pytest.mark.plan,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed; make plan-test"),
]
MB, GB = 10**6, 10**9
LONG = pytest.param("chip, long", marks=pytest.mark.slow)
TABLE = 30592 * 768 * 4  # bytes of a vocabulary, padded
LAYER = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
PARAMETERS = TABLE + 4 * (512 * 768 + 2 * 768 + LAYER + 768 * 768 + 768 + 2 * 768 + 30592)  # of the student, in bytes


@dataclass(frozen=True)
class Case:
    """A machine, rows of a step over all its chips, and the mesh."""

    target: str
    rows: int
    length: int
    mesh: tuple[int, int, int]


CASES = {
    "chip": Case("v5e:1x1", 64, 128, (1, 1, 1)),
    "chip, long": Case("v5e:1x1", 16, 512, (1, 1, 1)),
    "data": Case("v5e:2x2", 256, 128, (4, 1, 1)),
    "fsdp": Case("v5e:2x2", 256, 128, (1, 4, 1)),
    "data × fsdp": Case("v5e:2x2", 256, 128, (2, 2, 1)),
    "tensor": Case("v5e:2x2", 128, 128, (2, 1, 2)),
}


def planned(case: Case) -> tuple[Plan, Compiled]:
    base = load_config("distilbert_base", PretrainConfig)
    config = replace(
        base,
        model=ModelConfig.distilbert_base(num_hidden_layers=1),
        data=replace(base.data, length=case.length, batch_size=case.rows),
        mesh=MeshConfig(*case.mesh),
    )
    run = Pretraining(config=config, teacher=ModelConfig.bert_base(num_hidden_layers=1))
    compiled = compile_step(Job.of(case.target, run))
    work = Work(mesh="", batch_size=case.rows, length=case.length, accumulate=1, steps=1, model_flops=run.flops())
    return plan_of(compiled, parse_target(case.target), work), compiled


@pytest.fixture(scope="module")
def plans(request):
    """The plans of the cases that are asked for, two compilers at a time."""
    params = (getattr(item, "callspec", None) for item in request.session.items)
    asked = {one.params["case"] for one in params if one and "case" in one.params}
    flags = os.environ.pop("XLA_FLAGS", None)  # those of the tests are for a CPU
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(planned, case) for name, case in CASES.items() if name in asked}
    if flags is not None:
        os.environ["XLA_FLAGS"] = flags


@pytest.fixture
def plan(plans, case) -> Plan:
    return plans[case].result()[0]


@pytest.fixture
def compiled(plans, case) -> Compiled:
    return plans[case].result()[1]


def sent(plan: Plan, *kinds: str) -> float:
    """Bytes of the larger sides of these collectives (none named: of all), of one device."""
    return sum(one.bytes for one in plan.collectives if one.kind in kinds or not kinds)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["data"])
def test_data_parallel_chips_reduce_every_gradient_once_and_exchange_nothing_else(plan):
    assert sent(plan) == sent(plan, "all-reduce", "reduce-scatter")
    assert sent(plan) < 1.01 * PARAMETERS  # the tied table's two gradients are added before


@pytest.mark.slow
@pytest.mark.parametrize("case", ["fsdp"])
def test_fully_sharded_chips_gather_two_models_and_scatter_the_gradients(plan):
    assert sent(plan, "all-gather") < 2 * 1.01 * PARAMETERS
    assert sent(plan) < 410 * MB


@pytest.mark.parametrize("case", ["data × fsdp"])
def test_on_two_axes_models_are_gathered_once_and_gradients_reduced_once(plan):
    assert sent(plan) == sent(plan, "all-gather", "all-reduce", "reduce-scatter")
    assert sent(plan, "all-gather") < 1.01 * 2 * PARAMETERS  # student and teacher
    assert (
        sent(plan, "all-reduce", "reduce-scatter") < 1.01 * 1.5 * PARAMETERS
    )  # along fsdp all, along data the half that stays


@pytest.mark.parametrize("case", ["data × fsdp"])
def test_no_activation_is_gathered_over_the_batch(case, compiled):
    hidden = CASES[case].rows * CASES[case].length * 768
    of_activations = {
        width * hidden / devices for width in (2, 4) for devices in (1, 2)
    }  # of all rows, of half of them
    gathered = {one.sent / one.count for one in compiled.operations if one.collective == "all-gather"}
    assert gathered
    assert not gathered & of_activations


@pytest.mark.parametrize("case", ["tensor"])
def test_tensor_parallel_chips_exchange_no_more_than_sums(plan):
    assert sent(plan) == sent(plan, "all-reduce", "reduce-scatter")
    assert sent(plan) < 290 * MB


@pytest.mark.parametrize(
    ("case", "temporaries", "traffic", "share"),
    [
        ("chip", 2.0 * GB, 9.6 * GB, 0.34),
        pytest.param("chip, long", 2.1 * GB, 10.5 * GB, 0.32, marks=pytest.mark.slow),
    ],
)
def test_one_chip_stays_below_the_ceilings_of_memory_and_above_the_floor_of_speed(plan, temporaries, traffic, share):
    assert plan.temporary_bytes < temporaries
    assert plan.hbm_bytes < traffic
    assert plan.share_of_peak > share


@pytest.mark.parametrize("case", ["chip", LONG])
def test_dropout_takes_next_to_nothing(plan):
    assert sum(part.share for part in plan.parts if part.name == "dropout") < 0.02


@pytest.mark.xfail(strict=True, reason="vocabulary and losses take three times as long as their matmuls")
@pytest.mark.parametrize("case", ["chip"])
def test_a_step_that_is_mostly_vocabulary_reaches_half_of_the_peak(plan):
    assert plan.share_of_peak > 0.5


@pytest.mark.parametrize("case", ["chip", LONG])
def test_the_operations_of_a_step_belong_to_its_parts(plan):
    assert sum(part.share for part in plan.parts if part.name == "other") < 0.05


_KL = """
import jax, jax.numpy as jnp
from distilbert_jax.planning.compile import _devices
from distilbert_jax.planning.targets import parse_target
from distilbert_jax.training.losses import distillation, logit_mse

def loss(student, table, teacher):
    s, t = (jnp.einsum("btd,vd->btv", one, table, preferred_element_type=jnp.bfloat16) for one in (student, teacher))
    weights = jnp.ones(s.shape[:2])
    return distillation(s, t, weights, 2.0) + logit_mse(s, t, weights)

where = jax.sharding.SingleDeviceSharding(_devices(parse_target("v5e:1x1"))[0])
given = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((16, 128, 256), (4096, 256), (16, 128, 256))]
print(jax.jit(jax.grad(loss, (0, 1)), in_shardings=where, out_shardings=where).lower(*given).compile().as_text())
"""


def test_of_logits_in_bfloat16_no_float32_array_reaches_the_memory():
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        **_variables(parse_target("v5e:1x1")),
    }
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run([sys.executable, "-c", _KL], env=environment, capture_output=True, text=True, check=True)
    program = done.stdout.partition("\nENTRY ")[2]  # what is fused never leaves the chip
    wide = re.findall(r"= \(?(?:[^=]*[ (])?(f32|bf16)\[(?:16,128,4096|2048,4096)\]", program)
    assert "bf16" in wide
    assert "f32" not in wide


# What starts JAX says nothing of an installed compiler: the same bytes as without it.
_RUN = "import sys; sys.path[:] = [one for one in sys.path if one not in {hidden!r}]; from distilbert_jax.cli.main import entry; "


@pytest.mark.parametrize(
    "command",
    [
        ["fill-mask", "reda [MASK] goes", "--model", "{teacher}", "--json"],
        ["features", "reda goes", "--model", "{teacher}", "--json"],
        ["train", "demo:student", "--data.corpus", "no/such/corpus"],
        ["train", "distilbert_base", "--mesh.fsdp", "3"],
        ["--help"],
    ],
    ids=lambda command: command[0],
)
def test_no_other_command_sees_an_installed_compiler(command, world, tmp_path):
    given = [word.format(teacher=world.teacher) for word in command]
    where = {str(Path(importlib.util.find_spec("libtpu").origin).parents[1])}  # of libtpu and what goes with it
    environment = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

    def said(hidden: set[str]) -> tuple[int, bytes, bytes]:
        code = _RUN.format(hidden=hidden) + f"sys.argv[1:] = {given!r}; entry()"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    with ThreadPoolExecutor(2) as pool:  # a process takes one core
        seen, unseen = pool.map(said, (set(), where))
    assert seen == unseen
