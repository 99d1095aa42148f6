"""Demo, step 1: a small BERT learns masked LM on CPython's documentation.

python train.py configs/demo/teacher.py
"""

from distilbert_jax.config import (
    DataConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)

SIZES = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 64,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}
DATA = DataConfig(corpus="runs/demo/corpus", heldout="runs/demo/heldout", length=64, batch_size=16)


def get_config() -> PretrainConfig:
    return PretrainConfig(
        model=ModelConfig.bert_base(num_hidden_layers=4, **SIZES),
        data=DATA,
        masking=MaskingConfig(weighting="uniform"),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        steps=1500,
        run=RunConfig(directory="runs/demo/teacher", log_every=250, eval_every=500, save_every=500),
    )
