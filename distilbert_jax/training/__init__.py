"""Training, what every run shares: losses, objectives, optimizer, sharded step, checkpoints, the loop and its logs."""
