"""Miniature, the teacher: MiniLM gets a masked-LM head and goes on with masked LM on Wikipedia and novels.

    python train.py configs/miniature/teacher.py        # :gpu for twenty times the tokens

Needs the corpora runs/miniature/corpus and runs/miniature/heldout; configs/miniature/experiment.py makes them, and the rest.
"""

from configs.miniature.tiers import LENGTH, encoder, find_tier
from distilbert_jax.config import (
    DataConfig,
    InitConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)


def get_config(tier: str = "cpu") -> PretrainConfig:
    budget = find_tier(tier)
    steps = budget.steps(budget.teacher_tokens)
    return PretrainConfig(
        model=ModelConfig.bert_base(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        ),
        init=InitConfig(source=encoder(), unigram_bias=True),
        data=DataConfig(
            corpus="runs/miniature/corpus",
            heldout="runs/miniature/heldout",
            length=LENGTH,
            batch_size=budget.batch_size,
        ),
        masking=MaskingConfig(weighting="uniform"),
        optimizer=OptimizerConfig(learning_rate=3e-4),
        steps=steps,
        run=RunConfig(
            directory=f"runs/miniature/{tier}/teacher",
            dtype="bfloat16",
            log_every=50,
            eval_every=budget.eval_every(budget.teacher_tokens),
            save_every=200,
        ),
    )
