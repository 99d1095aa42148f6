"""XLA's flags while tests run: programs that are compiled in a third of the time and do what their HLO says.

A tiny model's step takes seconds to compile and milliseconds to run, so LLVM does not optimise it. XLA's own passes stay as
they are, partitioning, fusion and collectives among them. `make parity` and `make demo` compile as users do; so do all tests
with DISTILBERT_JAX_OPTIMIZE=1.
"""

import os
from importlib import metadata

DEVICES = "--xla_force_host_platform_device_count=8"


def quick_flags() -> str:
    """Flags of quick compilation that this version of XLA knows: one that it does not know ends the process."""
    if os.environ.get("DISTILBERT_JAX_OPTIMIZE"):
        return ""
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    known = metadata.version("jaxlib").startswith("0.10.")
    return f"{flags} --xla_cpu_use_fusion_emitters=false" if known else flags
