"""`python -m distilbert_jax COMMAND …`: the same as `distilbert-jax COMMAND …`."""

from distilbert_jax.cli.main import entry

if __name__ == "__main__":
    entry()
