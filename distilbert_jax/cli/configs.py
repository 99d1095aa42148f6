"""Configs that come with the package, listed: `distilbert-jax configs`."""

import textwrap

from distilbert_jax.base.config_io import ConfigFile, config_module, variants_of
from distilbert_jax.cli.arguments import calling
from distilbert_jax.configs import shipped


def configs() -> None:
    """List the configs that come with the package, with the first line of each and its variants."""
    for name, path in shipped().items():
        module = config_module(ConfigFile(name, path))
        first, *_ = (module.__doc__ or "").splitlines() or [""]
        print(f"{name}: {first}")
        words = variants_of(module)
        for group in dict.fromkeys(word.rpartition("/")[0] for word in words):
            listed = " ".join(word.rpartition("/")[2] for word in words if word.rpartition("/")[0] == group)
            start = f"    {name}:{group}{'/' if group else ''}  "
            print(textwrap.fill(listed, 120, initial_indent=start, subsequent_indent=" " * len(start)))


COMMANDS = {"configs": calling(configs)}
