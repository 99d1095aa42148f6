"""What pyproject.toml cannot say: configs/ travels in the wheel as `distilbert_jax/configs`, beside the packages that are found."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["distilbert_jax*"]), "distilbert_jax.configs"],
    package_dir={"distilbert_jax.configs": "configs"},
)
