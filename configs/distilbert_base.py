"""The paper's run: DistilBERT-base from BERT-base uncased, with the original code's loss, masking, optimiser and batch.

    distilbert-jax corpus --text wikipedia.txt.xz books.txt.xz --tokenizer bert-base-uncased --out corpus
    distilbert-jax train distilbert_base --data.corpus corpus --init.source bert-base-uncased

Cost: the paper gives 90 hours on 8 V100 (16 GB) for English Wikipedia and the Toronto Book Corpus; this project has not run it in
full. `steps` is 3 epochs of about 4 billion tokens; set it to 3 · rows / batch_size of your own corpus.
On one GPU, --optimizer.accumulate cuts the global batch into micro-batches that fit; the result is the same.
"""

from distilbert_jax.config import DataConfig, InitConfig, MaskingConfig, ModelConfig, PretrainConfig, RunConfig


def get_config() -> PretrainConfig:
    return PretrainConfig(
        model=ModelConfig.distilbert_base(),
        init=InitConfig(fold_token_type=False, copy_transform=False),
        objective="distillation",
        teacher="bert-base-uncased",
        data=DataConfig(length=512, batch_size=2000),
        masking=MaskingConfig(weighting="frequency"),
        steps=12_000,
        run=RunConfig(directory="runs/distilbert_base", dtype="bfloat16", eval_every=1000, save_every=500),
    )
