"""The command line, `distilbert-jax COMMAND …`: a table of commands, and one module for a group of them."""
