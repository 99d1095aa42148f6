"""What goes in: text, its tokens on disk, packed rows, batches of them, and the masking inside the step."""
