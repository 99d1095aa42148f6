"""One of several processes of a run: `python -m tests.training.processes COORDINATOR PROCESSES INDEX OUT.npz`.

Takes one step on a mesh over all processes, reads only the rows that are its own, and writes the gradients it sees whole.
"""

import os
import sys

import jax

if __name__ == "__main__":
    coordinator, count, index, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    os.environ["NPROC"] = "16"
    jax.config.update("jax_num_cpu_devices", 8 // count)
    jax.distributed.initialize(coordinator, count, index)

import numpy as np

from distilbert_jax.training import sharding
from tests.training.test_step import ROWS, VOCAB, setting

if __name__ == "__main__":
    assert jax.device_count() == 8
    mesh, step, state, frozen, (batch, _) = setting(2, 2, 2, 2)
    assert len(sharding.local_rows(ROWS, mesh)) == ROWS // count
    state, metrics = step(state(), frozen, batch)
    whole = jax.jit(lambda tree: tree, out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    gradients = sharding.cut_vocabulary(jax.device_get(whole(state.opt_state[0])), VOCAB)
    np.savez(out, loss=jax.device_get(metrics["loss"]), **gradients)
