"""Plans as the tables of docs/results/plan.md, from what `distilbert-jax plan … --json` printed.

    distilbert-jax plan distilbert_base --target v5e:1x1 --data.length 128 --data.batch-size 64 --json > plans/v5e-1x1-128.json
    python benchmarks/plans.py plans > tables.md

A row a file, in the order of their names; files that are not there are no rows.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from distilbert_jax.base.config_io import from_json
from distilbert_jax.planning.estimate import Plan

PAPER = 12_000 * 2000 * 512  # tokens of configs/distilbert_base.py
PARTS = (
    "vocabulary and losses",
    "encoder",
    "encoder of the teacher",
    "attention",
    "dropout",
    "optimizer",
    "collectives",
    "other",
)


def read(folder: Path) -> dict[str, Plan]:
    """The plans of a folder by the names of their files."""
    plans = {}
    for file in sorted(folder.glob("*.json")):
        if file.name.count(".") == 1 and (text := file.read_text("utf-8").strip()):
            plans[file.stem] = from_json(Plan, text, str(file))
    return plans


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown."""
    head = list(header)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shape(plan: Plan) -> str:
    seeds = f"{plan.seeds} × " if plan.seeds > 1 else ""
    return f"{seeds}{plan.batch_size:,} × {plan.length}"


def bound(plan: Plan) -> str:
    """What stands before a time: nothing for an estimate, ≥ for a bound."""
    return "" if plan.method.startswith("estimate") else "≥ "


def steps(plans: dict[str, Plan]) -> str:
    """A row a plan: memory, time, share of the peak, traffic, and the chip-hours for as many tokens as the paper's run."""
    rows = []
    for name, plan in plans.items():
        limit = bound(plan)
        chips = plan.chip_hours / plan.hours
        hours = PAPER / plan.tokens_per_second / 3600
        paper = [f"{limit}{hours:,.1f}", f"{limit}{hours * chips:,.0f}"] if plan.kind == "pre-training" else ["", ""]
        rows.append(
            [
                name,
                plan.target,
                plan.mesh,
                shape(plan),
                f"{plan.total_bytes / 1e9:.1f} ({plan.temporary_bytes / 1e9:.1f})" + ("" if plan.fits else " **no**"),
                f"{limit}{1e3 * plan.seconds:,.1f}",
                ("≤ " if limit else "") + f"{plan.share_of_peak:.3f}",
                f"{plan.hbm_bytes / 1e9:,.1f}",
                f"{plan.flops_per_byte:,.0f} ({plan.ridge:,.0f})",
                ("≤ " if limit else "") + f"{plan.tokens_per_second / 1e6:,.3f}",
                *paper,
            ]
        )
    header = (
        *("plan", "target", "mesh", "rows × tokens", "GB a device (temporaries)", "ms a step", "share of the peak", "HBM GB"),
        *("FLOP a byte (ridge)", "M tokens/s", "hours for 12.3 G tokens", "chip-hours"),
    )  # fmt: skip
    return table(header, rows)


def parts(plans: dict[str, Plan]) -> str:
    """A row a plan: the share of its time in each part; of a GPU, of its bytes."""
    rows = []
    for name, plan in plans.items():
        shares = dict.fromkeys(PARTS, 0.0)
        for part in plan.parts:
            shares[part.name if part.name in shares else "other"] += part.share
        rows.append([name, *(f"{share:.1%}" for share in shares.values())])
    return table(("plan", *PARTS), rows)


def collectives(plans: dict[str, Plan]) -> str:
    """A row for each kind of collective of each plan."""
    rows = [
        [
            name,
            f"{one.number} × {one.kind}",
            f"{one.group}",
            f"{one.bytes / 1e6:,.1f}",
            f"{1e3 * one.seconds:,.2f}",
            "overlapped" if one.overlapped else "exposed",
        ]
        for name, plan in plans.items()
        for one in plan.collectives
    ]
    return table(("plan", "collectives of a step", "among", "MB", "ms at the links' speed", ""), rows)


def main() -> None:
    plans = read(Path(sys.argv[1]))
    print("\n\n".join([steps(plans), parts(plans), collectives(plans)]))


if __name__ == "__main__":
    main()
