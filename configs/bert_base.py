"""BERT-base's own pre-training (Devlin et al. 2019, section 3.1 and appendix A.2): masked LM and next-sentence prediction on pairs.

    distilbert-jax corpus --text wikipedia.txt.xz books.txt.xz --tokenizer TOKENIZER --out corpus
    distilbert-jax train bert_base --data.corpus corpus                # 900,000 steps of 256 rows of 128 tokens
    distilbert-jax train bert_base:long --data.corpus corpus           # then 100,000 of 512, from the first one's model

A teacher of your own for distilbert_base. The published run is one schedule of a million steps; here each length has its
own: the first warms up for 10,000 steps and decays to 0, the second begins where the one schedule would be after 900,000 steps
(1e-5), with fresh moments of Adam. 42.6 billion places in all. The paper gives four days on 16 TPU chips; this project has not run
it.
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

VARIANTS = ("short", "long")  # tokens in a row: 128, 512
SHORT, LONG = "runs/bert_base", "runs/bert_base_long"


def get_config(variant: str = "short") -> PretrainConfig:
    long = variant == "long"
    return PretrainConfig(
        model=ModelConfig.bert_base(),
        init=InitConfig(source=f"{SHORT}/model" if long else ""),
        objective="masked_lm_nsp",
        data=DataConfig(sequences="pair", length=512 if long else 128, batch_size=256),
        masking=MaskingConfig(weighting="uniform"),
        optimizer=OptimizerConfig(
            learning_rate=1e-5 if long else 1e-4,
            warmup=0.01 if long else 1 / 90,
            beta2=0.999,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        steps=100_000 if long else 900_000,
        run=RunConfig(directory=LONG if long else SHORT, dtype="bfloat16", eval_every=10_000, save_every=2000),
    )
