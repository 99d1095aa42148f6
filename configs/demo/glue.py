"""Demo, step 3: fine-tuning on the generated tasks, which are no part of GLUE.

    python evaluate.py glue configs/demo/glue.py --model runs/demo/student/model --run.directory runs/demo/student/glue \\
      --tasks demo-topic demo-next demo-overlap --seeds 0
"""

import dataclasses

from distilbert_jax.config import FinetuneConfig, RunConfig


def get_config() -> FinetuneConfig:
    config = FinetuneConfig(data="runs/demo/data/glue", length=64, save_model=False)
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=5e-4),
        run=RunConfig(directory="", log_every=100),
    )
