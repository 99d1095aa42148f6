"""One fine-tuning run on a GLUE task.

    distilbert-jax train glue --model DIR --task rte [--data FOLDER] [--run.seed 1]

DIR is a Hugging Face directory; FOLDER holds <task>/{train,validation}.parquet, without it GLUE comes from the hub.
AdamW 5e-5, warm-up 10 %, linear decay, weight decay 0.01, clipping at 1, batch 32, 3 epochs (MRPC and WNLI 5, RTE 10), length 128:
the common ground of the field, since the paper's settings were never published. Cost and scores of real runs:
docs/results/glue.md.
"""

from distilbert_jax.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig()
