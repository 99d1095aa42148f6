"""Configs that come with the package, as `distilbert_jax.configs.NAME`: configs/ of a checkout, and in a wheel a folder here."""

from pathlib import Path

_HERE = Path(__file__).parent
# A module with a `__path__` is a package, and these are the places where its modules are looked for.
__path__ = [str(place) for place in (_HERE / "configs", _HERE.parent / "configs") if place.is_dir()][:1]


def shipped() -> dict[str, Path]:
    """The files by their names, which stand for them on the command line: `distilbert_base`, `demo`."""
    files = (file for place in __path__ for file in Path(place).glob("*.py"))
    return {file.stem: file for file in sorted(files) if not file.stem.startswith("_")}
