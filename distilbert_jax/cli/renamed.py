"""Names of an earlier version that people may still type, and what they are called now. They are answered, not obeyed."""

import re
from collections.abc import Sequence

from distilbert_jax.config import OLD_FLAGS
from distilbert_jax.errors import InputError

COMMANDS = {"mlm": "evaluate"}

# An option, or with what follows behind a dot every option below it.
OPTIONS = {
    "--guide": "--distill",
    "--grid": "--sweep",
    "--arms": "--variants",
    "--held-out": "--selection-split",
    "--no-held-out": "--no-selection-split",
    **OLD_FLAGS,
    "--configs": "the name of a config, as in `distilbert-jax ablation ablations:demo`",
}

# Options that nothing takes the place of, wherever they stood (`--shapes`, `--glue.shapes`), and why.
GONE = {"shapes": "batches are drawn at random and packed into rows of one shape"}

# Files and folders of configs/ that became variants of one file.
CONFIGS = (
    (r"(?:.*/)?configs/miniature/experiment\.py(?::(?:cpu)?)?", "miniature"),
    (r"(?:.*/)?configs/miniature/experiment\.py:(\w+)", r"miniature:\1"),
    (r"(?:.*/)?configs/miniature/(\w+)\.py(?::(?:cpu)?)?", r"miniature:\1"),
    (r"(?:.*/)?configs/miniature/(\w+)\.py:(\w+)", r"miniature:\2/\1"),
    (r"(?:.*/)?configs/ablations/demo/?", "ablations:demo"),
    (r"(?:.*/)?configs/ablations/?", "ablations"),
    (r"(?:.*/)?configs/ablations/demo/(\w+)\.py", r"ablations:demo/\1"),
    (r"(?:.*/)?configs/(demo|ablations)/(\w+)\.py", r"\1:\2"),
)


def check_options(args: Sequence[str], prog: str) -> None:
    """Raise InputError for the first option that is called otherwise now, or gone."""
    for argument in args:
        given = argument.partition("=")[0]
        name = given.removeprefix("--").rpartition(".")[2].replace("_", "-")
        if given.startswith("--") and name in GONE:
            raise InputError(f"{prog}: {given} is gone: {GONE[name]}; leave it out", field=given, hint="leave it out")
        head, dot, rest = given.replace("_", "-").partition(".")
        for old, new in OPTIONS.items():
            whole = given.replace("_", "-") == old
            if whole or (head == old and dot):
                now = new if whole else new + dot + rest
                raise InputError(f"{prog}: {given} is now {now}", field=given, hint=now)


def config(name: str) -> str | None:
    """The name of what was once the config file `name`."""
    for pattern, now in CONFIGS:
        if match := re.fullmatch(pattern, name):
            return match.expand(now)
    return None
