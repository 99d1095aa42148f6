"""What goes in: text, its tokens on disk, packed rows, and batches of them. Nothing here imports JAX."""
