"""Report of a plan: lines for a terminal, a table of several meshes, the roofline."""

from collections.abc import Sequence
from pathlib import Path

from distilbert_jax.base.files import save_figure
from distilbert_jax.planning.estimate import Plan
from distilbert_jax.planning.runs import Pretraining


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:,.1f} min"


def lines(plan: Plan) -> str:
    """A plan as text."""
    word = "estimated" if plan.method.startswith("estimate") else "at least"
    memory = f"{plan.argument_bytes / 1e9:.2f} GB arguments, {plan.temporary_bytes / 1e9:.2f} temporaries"
    verdict = "fits" if plan.fits else "DOES NOT FIT (--data.batch-size auto, --optimizer.accumulate auto)"
    models = "students" if plan.kind == Pretraining.kind else "seeds"
    seeds = f"{plan.seeds} {models} × " if plan.seeds > 1 else ""
    steps = "batches" if plan.kind == "features" else "steps"
    chips = f" ({plan.chips} chips)" if plan.chips > 1 else ""
    rows = [
        ("the run" if plan.kind != "features" else "features", plan.models),
        (
            "target",
            f"{plan.target}{chips}, mesh {plan.mesh}, {seeds}{plan.batch_size:,} rows of {plan.length} tokens a step"
            + (f" in {plan.accumulate} micro-batches" if plan.accumulate > 1 else ""),
        ),
        (
            "memory of a device",
            f"{verdict}: {plan.total_bytes / 1e9:.2f} of {plan.memory_bytes / 1e9:.0f} GB ({memory})",
        ),
        ("time a step", f"{_time(plan.seconds)} {word}, {plan.share_of_peak:.1%} of the peak"),
        ("", plan.method),
        (
            "FLOPs",
            f"{plan.model_flops / 1e12:,.2f} T of the model on all devices; {plan.compiled_flops / 1e12:,.2f} T of matmuls on each",
        ),
        (
            "HBM",
            f"{plan.hbm_bytes / 1e9:,.1f} GB a device, {plan.flops_per_byte:,.0f} FLOP a byte (ridge {plan.ridge:,.0f})",
        ),
        *(
            (
                "where it goes" if not i else f"({word})" if i == 1 else "",
                f"{part.share:6.1%}  {_time(part.seconds):>11}  {part.hbm_bytes / 1e9:8.2f} GB  {part.name}",
            )
            for i, part in enumerate(plan.parts)
        ),
        *(
            (
                "collectives" if not i else f"({word})" if i == 1 else "",
                f"{one.number} × {one.kind} among {one.group}: {one.bytes / 1e6:,.1f} MB, "
                f"{_time(one.seconds)} {'overlapped' if one.overlapped else 'exposed'}",
            )
            for i, one in enumerate(plan.collectives)
        ),
        ("speed", f"{plan.tokens_per_second:,.0f} tokens/s {word}"),
        (
            "all of it",
            f"{plan.steps:,} {steps}, {plan.steps * plan.batch_size * plan.length / 1e9:,.2f} G tokens with padding"
            + (" each" if plan.seeds > 1 else "")
            + f": {_hours(plan.hours)}, {plan.chip_hours:,.2f} chip-hours"
            + (f", {plan.cost:,.2f} at the price given" if plan.cost is not None else "")
            + f" ({word})",
        ),
        ("compiled in", f"{plan.trace_seconds + plan.compile_seconds:.0f} s by {plan.versions}"),
    ]
    return "\n".join(f"{name:20}{text}" for name, text in rows)


def comparison(plans: Sequence[Plan]) -> str:
    """Plans side by side, as a table of Markdown."""
    word = "estimated" if plans[0].method.startswith("estimate") else "bound"
    header = (
        f"| target | mesh | fits | GB | ms a step ({word}) | share of the peak ({word}) | exposed collectives, ms ({word}) | "
        f"tokens/s ({word}) | hours ({word}) |"
    )
    rows = [
        f"| {plan.target} | {plan.mesh} | {'yes' if plan.fits else 'no'} | {plan.total_bytes / 1e9:.1f} | "
        f"{1e3 * plan.seconds:,.1f} | {plan.share_of_peak:.3f} | "
        f"{1e3 * sum(one.seconds for one in plan.collectives if not one.overlapped):,.1f} | "
        f"{plan.tokens_per_second:,.0f} | {plan.hours:,.1f} |"
        for plan in plans
    ]
    return "\n".join([header, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |", *rows])


def roofline(plans: Sequence[Plan], peak: float, file: Path) -> None:
    """FLOP/s over FLOP a byte of each part that computes and of each whole step, under the chip's roof; written as a PNG.

    Args:
        peak: FLOP/s of a device.
    """
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    ridge = plans[0].ridge
    places = [ridge / 64, ridge, ridge * 16]
    axes.loglog(places, [min(place / ridge, 1) * peak for place in places], color="0.5")
    for i, plan in enumerate(plans):
        for part in plan.parts:
            if part.flops and part.hbm_bytes and part.seconds:
                at = (part.flops / part.hbm_bytes, part.flops / part.seconds)
                axes.plot(*at, ".", color=f"C{i}")
                axes.annotate(
                    part.name,
                    at,
                    (0, 4 if i % 2 == 0 else -9),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                    color=f"C{i}",
                )
        label = f"{plan.target}, mesh {plan.mesh}"
        axes.plot(plan.flops_per_byte, plan.share_of_peak * peak, "o", color=f"C{i}", label=label)
    axes.margins(x=0.15)
    axes.set_xlabel("FLOP a byte of HBM")
    word = "estimated" if plans[0].method.startswith("estimate") else "a bound"
    axes.set_ylabel(f"FLOP/s of a device, {word}")
    axes.legend(fontsize=8)
    figure.tight_layout()
    save_figure(figure, file)
