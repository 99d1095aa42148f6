"""Plans of runs: `distilbert-jax plan CONFIG --target v5e:4x4`."""

import dataclasses
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from distilbert_jax.base import signals
from distilbert_jax.base.config_io import to_values
from distilbert_jax.base.files import check_writable
from distilbert_jax.cli.arguments import load_config, parse
from distilbert_jax.config import FinetuneConfig, MeshConfig, PretrainConfig
from distilbert_jax.configs import shipped
from distilbert_jax.errors import InputError
from distilbert_jax.planning.runs import Config, FeaturesConfig
from distilbert_jax.planning.targets import EXAMPLES, parse_target

_AUTO = {
    "--data.batch-size": "batch size",
    "--batch-size": "batch size",
    "--optimizer.accumulate": "micro-batches",
}


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What every plan takes."""

    target: str = ""  # the chip and how many: v5e:2x4 (a v5e-8), v5e:1x1 (one chip), v6e:…, v5p:2x2x2, h100:8 …
    price_per_chip_hour: float | None = None  # in any currency
    out: str = ""  # directory for plan.json and roofline.png
    json: bool = False  # print the plan as JSON: share_of_peak is a fraction


@dataclass(frozen=True, kw_only=True)
class PlanCommand(PlanOptions):
    """What a run takes on a machine that is not here: memory, time a step by part, hours, price; by that machine's compiler.

    Needs neither corpus nor weights. --data.batch-size counts the rows of all chips together; auto: the most that fit.
    --optimizer.accumulate auto: the fewest micro-batches that do.
    """

    config: Annotated[PretrainConfig, tyro.conf.arg(name="")]
    students: int = 1  # of one teacher that train side by side in one step, as `experiment` does
    compare: tuple[str, ...] = ()  # meshes to show side by side, as data,fsdp,tensor: 16,1,1 4,4,1


@dataclass(frozen=True, kw_only=True)
class PlanFinetuningCommand(PlanOptions):
    """What fine-tuning takes on a machine that is not here: memory, time a step by part, hours, price; by that machine's compiler.

    Needs neither data nor weights: rows are then --batch-size × --length, an example each, and the hours those of the task's own
    number of rows, or of --max-train-rows. With --data FOLDER they are those into which the task's examples are packed.
    """

    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")]
    seeds: int = 1  # that train side by side in one step, as `glue --vmap-seeds` does
    compare: tuple[str, ...] = ()  # meshes to show side by side, as data,fsdp,tensor: 4,1,1 2,2,1


@dataclass(frozen=True, kw_only=True)
class PlanFeaturesCommand(PlanOptions):
    """What features of texts take on one device that is not here: memory, time a batch, hours, price; by its compiler."""

    config: Annotated[FeaturesConfig, tyro.conf.arg(name="")] = field(default_factory=FeaturesConfig)


Command = PlanCommand | PlanFinetuningCommand | PlanFeaturesCommand


def usage(prog: str) -> str:
    return f"""Would it run there, how long, at what price? Compiles the real step for a TPU slice or GPUs that are not here.

usage: {prog} CONFIG --target v5e:2x4 [--price-per-chip-hour 1.20] [--field.sub value …]
       {prog} features --model distilbert-base-uncased --target v5e:1x1 [--batch-size 64] [--length 128]

CONFIG    a config as `train` takes it, of pre-training, distillation or fine-tuning: {", ".join(shipped())},
          or a file. Neither a corpus nor weights are read; models are directories or names such as bert-base-uncased.
--target  the chip and how many: {EXAMPLES}.
          A v5e-8 is v5e:2x4 (8 chips), one chip is v5e:1x1, eight H100 are h100:8.
--data.batch-size N   rows of a step over all chips together, not of each; `auto`: the most that fit (at most 4 compilations).
                      Of fine-tuning and features --batch-size N. --optimizer.accumulate auto: the fewest micro-batches that fit.
--price-per-chip-hour P   in any currency; the cost is that of all chips for all of the run's steps.
--students 5          of distillation: students of one teacher side by side in one step.
--seeds 5             of fine-tuning: seeds side by side in one step.
--compare 8,1,1 2,4,1 meshes (data,fsdp,tensor) side by side.     --json: as JSON.     --out FOLDER: plan.json, roofline.png.

Printed: whether it fits (GB of a chip), the time a step (ms) and where it goes, the share of the chips' peak, hours and
chip-hours of the whole run. Times on a TPU are its compiler's estimate; on a GPU they are a lower bound.
    {prog} distilbert_base --target v5e:2x4 --optimizer.accumulate auto --price-per-chip-hour 1.20    # the config's own batch
    {prog} distilbert_base --target v5e:2x4 --data.batch-size auto                                    # the largest that fits
    {prog} glue --model distilbert-base-uncased --task mrpc --seeds 5 --run.dtype bfloat16 --target v5e:1x1
`{prog} CONFIG --help` lists every field. Compilers: pip install 'distilbert_jax[plan]' (TPU), '[plan-gpu]' (GPU)."""


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
    default = _default(name)
    auto, overrides = _without_auto(overrides)
    command = parse(type(default), overrides, prog=f"{prog} {name}", default=default)
    if not command.target:
        raise InputError(f"{prog} {name}: --target is missing: one of {EXAMPLES}", field="--target", hint=EXAMPLES)
    target = parse_target(command.target)
    configs = _configs(command, target.devices)
    if command.out:  # made here, not after minutes of compiling: some places say only then that nothing can lie there
        check_writable(command.out, "--out", directory=True).mkdir(parents=True, exist_ok=True)
    with signals.leaving_at_ctrl_c():
        from distilbert_jax.planning import plan as planning
        from distilbert_jax.planning import report
    make = {"batch size": planning.largest_batch, "micro-batches": planning.fewest_micro_batches}
    seeds = 1
    if isinstance(command, PlanCommand | PlanFinetuningCommand):
        seeds = command.students if isinstance(command, PlanCommand) else command.seeds
    plans = [
        make.get(auto, planning.plan)(one, command.target, seeds=seeds, price_per_chip_hour=command.price_per_chip_hour)
        for one in configs
    ]
    if command.json:
        print("\n".join(json.dumps(to_values(one)) for one in plans))
    else:
        print(report.comparison(plans) if len(plans) > 1 else report.lines(plans[0]))
    if command.out:
        planning.write(plans, Path(command.out))
        peak = plans[0].ridge * target.chip.bandwidth / target.chip.cores
        report.roofline(plans, peak, Path(command.out) / "roofline.png")


def _default(name: str) -> Command:
    """What is planned where nobody says otherwise: of a config, or of the word `features`."""
    if name == "features":
        return PlanFeaturesCommand()
    config = load_config(name, PretrainConfig, FinetuneConfig)
    if isinstance(config, FinetuneConfig):
        return PlanFinetuningCommand(config=config)
    return PlanCommand(config=config)


def _configs(command: Command, devices: int) -> list[Config]:
    if isinstance(command, PlanFeaturesCommand) or not command.compare:
        return [command.config]
    return [_on_mesh(command.config, mesh, devices) for mesh in dict.fromkeys(command.compare)]


def _without_auto(args: list[str]) -> tuple[str, list[str]]:
    """Which field is `auto`, or "", and the arguments without it."""
    auto, rest, skip = "", [], False
    for one, after in zip(args, [*args[1:], ""], strict=False):
        option, equals, value = one.partition("=")
        spelt = option.replace("_", "-")
        if skip:
            skip = False
        elif spelt in _AUTO and (value if equals else after) == "auto":
            if auto:
                raise InputError(f"{option} auto: only one field can be found, {auto} is auto already", field=option)
            auto, skip = _AUTO[spelt], not equals
        else:
            rest.append(one)
    return auto, rest


def _on_mesh(config: PretrainConfig | FinetuneConfig, mesh: str, devices: int) -> Config:
    sizes = mesh.split(",")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise InputError(f"--compare {mesh}: expected data,fsdp,tensor, as in 4,4,1", field="--compare")
    if math.prod(map(int, sizes)) != devices:  # known before the first of them is compiled
        raise InputError(f"--compare {mesh}: the target has {devices} devices", field="--compare", hint=str(devices))
    return dataclasses.replace(config, mesh=MeshConfig(*map(int, sizes)))


COMMANDS = {"plan": plan}
