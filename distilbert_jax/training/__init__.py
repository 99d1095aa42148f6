"""How weights change: losses, objectives, optimiser, sharded step, checkpoints, the loop and its logs."""
