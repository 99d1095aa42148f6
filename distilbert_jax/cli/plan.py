"""Plans of runs: `distilbert-jax plan CONFIG --target v5e:4x4`."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from distilbert_jax.base import signals
from distilbert_jax.base.config_io import to_values
from distilbert_jax.base.files import check_writable
from distilbert_jax.cli.arguments import load_config, parse
from distilbert_jax.config import MeshConfig, PretrainConfig
from distilbert_jax.errors import InputError
from distilbert_jax.planning.targets import EXAMPLES, parse_target

_AUTO = {"--data.batch-size": "data.batch_size", "--optimizer.accumulate": "optimizer.accumulate"}


@dataclass(frozen=True)
class PlanCommand:
    """What a run takes on a machine that is not here: memory, time a step by part, hours, price; by that machine's compiler.

    Needs neither corpus nor weights. --data.batch-size auto: the most rows that fit; --optimizer.accumulate auto: the fewest
    micro-batches that do.
    """

    config: Annotated[PretrainConfig, tyro.conf.arg(name="")]
    target: str = ""  # v5e:4x4, v6e:…, v5p:2x2x2, v4:…, tpu7x:…, h100:8, h200:8, a100:8; v5e:1x1 is one chip
    compare: tuple[str, ...] = ()  # meshes to show side by side, as data,fsdp,tensor: 16,1,1 4,4,1
    price_per_chip_hour: float | None = None  # in any currency
    out: str = ""  # directory for plan.json and roofline.png
    json: bool = False  # print the plan as JSON: share_of_peak is a fraction


def usage(prog: str) -> str:
    return f"""usage: {prog} CONFIG --target v5e:4x4 [--field.sub value …]; `--help` after the config lists all.

CONFIG is one of pre-training or distillation, as `train` takes it. Targets: {EXAMPLES}; v5e:1x1 is one chip."""


def plan(args: list[str], prog: str) -> None:
    """Plan what `args` say: a config, a target, then fields of the config.

    Raises:
        InputError: a mistake in them; what `planning.plan` raises.
    """
    if not args or args[0].startswith("-"):
        asked = args[:1] in (["-h"], ["--help"])
        print(usage(prog), file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    name, *overrides = args
    default = load_config(name, PretrainConfig)
    auto, overrides = _without_auto(overrides)
    command = parse(PlanCommand, overrides, prog=f"{prog} {name}", default=PlanCommand(default))
    if not command.target:
        raise InputError(f"{prog} {name}: --target is missing: one of {EXAMPLES}", field="--target", hint=EXAMPLES)
    target = parse_target(command.target)
    configs = [_on_mesh(command.config, mesh) for mesh in command.compare] or [command.config]
    if command.out:
        check_writable(command.out, "--out", directory=True)
    with signals.leaving_at_ctrl_c():
        from distilbert_jax.planning import plan as planning
        from distilbert_jax.planning import report
    make = {"data.batch_size": planning.largest_batch, "optimizer.accumulate": planning.fewest_micro_batches}
    plans = [
        make.get(auto, planning.plan)(one, command.target, price_per_chip_hour=command.price_per_chip_hour)
        for one in configs
    ]
    if command.json:
        print("\n".join(json.dumps(to_values(one)) for one in plans))
    else:
        print(report.comparison(plans) if command.compare else report.lines(plans[0]))
    if command.out:
        Path(command.out).mkdir(parents=True, exist_ok=True)
        planning.write(plans, Path(command.out))
        report.roofline(plans, target.chip.peak / target.chip.cores, Path(command.out) / "roofline.png")


def _without_auto(args: list[str]) -> tuple[str, list[str]]:
    """Which field is `auto`, or "", and the arguments without it."""
    found, rest, skip = "", [], False
    for one, after in zip(args, [*args[1:], ""], strict=True):
        option, equals, value = one.partition("=")
        spelt = option.replace("_", "-")
        if skip:
            skip = False
        elif spelt in _AUTO and (value if equals else after) == "auto":
            if found:
                raise InputError(f"{option} auto: only one field can be found, {found} is auto already", field=option)
            found, skip = _AUTO[spelt], not equals
        else:
            rest.append(one)
    return found, rest


def _on_mesh(config: PretrainConfig, mesh: str) -> PretrainConfig:
    sizes = mesh.split(",")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise InputError(f"--compare {mesh}: expected data,fsdp,tensor, as in 4,4,1", field="--compare")
    return dataclasses.replace(config, mesh=MeshConfig(*map(int, sizes)))


COMMANDS = {"plan": plan}
