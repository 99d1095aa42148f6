"""Pre-training: text to packed rows, masked-LM corruption, objectives, held-out evaluation, a run."""
