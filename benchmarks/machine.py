"""What a figure belongs to: the commit and the processor."""

import platform
import subprocess
from pathlib import Path


def commit() -> str:
    """The checked-out commit, "-dirty" behind it when files differ from it."""
    command = ["git", "describe", "--always", "--dirty"]
    git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return git.stdout.strip() or "unknown"


def processor() -> str:
    """Its name, family and model, and the instruction sets that matter for matmuls."""
    lines = [line.partition(":") for line in _read("/proc/cpuinfo").splitlines()]
    says = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    model = says.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in says:  # of one brand there are many
        model += f", family {says['cpu family']} model {says.get('model', '?')} stepping {says.get('stepping', '?')}"
    flags = set(_read("/proc/cpuinfo").split()) & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}
    return f"{model} ({', '.join(sorted(flags))})" if flags else model


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
