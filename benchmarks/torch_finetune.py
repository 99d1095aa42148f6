"""The plain PyTorch loop that `distilbert-jax train glue` is compared with: same weights, rows, epochs and optimiser settings.

    python benchmarks/torch_finetune.py --model DIR --data FOLDER --task stsb [--seed 1] [--max-train-rows 2000]

Nothing of this project is used: transformers tokenises, pads and computes the model, PyTorch takes the steps, and the scores come
straight from scikit-learn and scipy. What differs on purpose is only what a seed changes too (order of the rows, dropout, the new
classifier's weights) and what a batch looks like: 32 rows at random padded to the longest here, about as many side by side in a few
rows there.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
import tyro
from pyarrow import parquet
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

TEXTS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "rte": ("sentence1", "sentence2"),
}
Rows = list[dict[str, Any]]


def main(
    model: Path,
    data: Path,
    task: Literal["cola", "sst2", "mrpc", "stsb", "rte"],
    seed: int = 0,
    max_train_rows: int | None = None,
    epochs: int = 3,
    batch_size: int = 32,
    length: int = 128,
    learning_rate: float = 5e-5,
) -> None:
    """Fine-tune on one task with one seed and print the dev scores × 100 as one line of JSON."""
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    labels = 1 if task == "stsb" else 2  # one label makes it a regression with mean squared error
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=labels)
    train, dev = (
        encode(data / task / f"{split}.parquet", task, tokenizer, length) for split in ("train", "validation")
    )
    train = train[:max_train_rows]

    steps, seconds = take_steps(
        classifier, train, lambda rows: tokenizer.pad(rows, return_tensors="pt"), epochs, batch_size, learning_rate
    )

    found = {"task": task, "seed": seed, "scores": score(classifier, task, dev, tokenizer, batch_size), "steps": steps}
    print(json.dumps({**found, "train_rows": len(train), "dev_rows": len(dev), "train_seconds": round(seconds, 2)}))


def take_steps(
    model: Any, rows: Rows, batch_of: Callable[[Rows], Any], epochs: int, batch_size: int, learning_rate: float
) -> tuple[int, float]:
    """AdamW, a tenth of warm-up and then linear to 0, gradients clipped at 1. Returns the steps and their seconds."""
    steps = epochs * math.ceil(len(rows) / batch_size)
    optimizer = torch.optim.AdamW(decay_groups(model), lr=learning_rate, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, math.ceil(0.1 * steps), steps)
    start = time.perf_counter()
    model.train()
    for _ in range(epochs):
        for some in at_random(rows, batch_size):
            loss = model(**batch_of(some)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
    return steps, time.perf_counter() - start


def encode(file: Path, task: str, tokenizer: Any, length: int) -> Rows:
    """Token ids, token types and label of every row of a parquet file."""
    table = parquet.read_table(file).to_pydict()
    encoded = tokenizer(*(table[name] for name in TEXTS[task]), truncation=True, max_length=length)
    return [
        {**{name: values[i] for name, values in encoded.items()}, "labels": label}
        for i, label in enumerate(table["label"])
    ]


def decay_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Parameters for the optimiser: no weight decay on biases and LayerNorms."""
    kept = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    rest = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    return [{"params": rest}, {"params": kept, "weight_decay": 0.0}]


def at_random(rows: Rows, batch_size: int) -> Iterator[Rows]:
    """Every row once, in a new order."""
    order = random.sample(rows, len(rows))
    yield from (order[i : i + batch_size] for i in range(0, len(order), batch_size))


@torch.inference_mode()
def score(model: torch.nn.Module, task: str, rows: Rows, tokenizer: Any, batch_size: int) -> dict[str, float]:
    """The task's metrics × 100."""
    model.eval()
    rows = sorted(rows, key=lambda row: len(row["input_ids"]))
    batches = [tokenizer.pad(rows[i : i + batch_size], return_tensors="pt") for i in range(0, len(rows), batch_size)]
    logits = torch.cat([model(**batch).logits for batch in batches]).numpy()
    truth = [row["labels"] for row in rows]
    predicted = logits.argmax(-1)
    if task == "stsb":
        found = {"pearson": pearsonr(logits[:, 0], truth)[0], "spearman": spearmanr(logits[:, 0], truth)[0]}
    elif task == "cola":
        found = {"matthews": matthews_corrcoef(truth, predicted)}
    elif task == "mrpc":
        found = {"accuracy": accuracy_score(truth, predicted), "f1": f1_score(truth, predicted)}
    else:
        found = {"accuracy": accuracy_score(truth, predicted)}
    return {name: round(100 * float(value), 2) for name, value in found.items()}


if __name__ == "__main__":
    tyro.cli(main)
