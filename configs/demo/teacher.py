"""Demo, step 1: a small BERT learns masked LM on CPython's documentation.

python train.py configs/demo/teacher.py
"""

from distilbert_jax.config import (
    DataConfig,
    InitConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)


def get_config() -> PretrainConfig:
    return PretrainConfig(
        # So short a run does not overfit: dropout would only slow it.
        model=ModelConfig.bert_base(
            vocab_size=4096,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=64,
            hidden_dropout=0.0,
            attention_dropout=0.0,
        ),
        init=InitConfig(unigram_bias=True),
        data=DataConfig(corpus="runs/demo/corpus", heldout="runs/demo/heldout", length=64, batch_size=16),
        masking=MaskingConfig(weighting="uniform"),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        steps=1500,
        run=RunConfig(directory="runs/demo/teacher", log_every=100, eval_every=500, save_every=500),
    )
