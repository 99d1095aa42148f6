"""Record `models.npz`: small BERT and DistilBERT models of transformers, their inputs and outputs.

    python -m tests.golden.record     # needs torch and transformers

For each of the four classes the file holds config.json (`<class>/config`), the weights as the reference names them
(`<class>/weights/…`), the inputs (`<class>/inputs/…`) and the outputs (`<class>/outputs/…`), computed in float32. Weights are
random and far from their initial values, so that every bias and every LayerNorm matters; they are rounded to float16, and
stored so, which halves the file and changes none of them. Values were recorded with
transformers 5.23.0 and torch 2.13.0 on a CPU.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

FILE = Path(__file__).with_name("models.npz")
HEADS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
CLASSES = (
    *(f"Bert{head}" for head in HEADS),
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    *(f"DistilBert{head}" for head in HEADS),
)
SHARED = {"vocab_size": 99, "max_position_embeddings": 16}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37}


def build(name: str, seed: int = 0, labels: int = 3) -> transformers.PreTrainedModel:
    """A model of class `name` in evaluation mode with random weights."""
    distilbert = name.startswith("Distil")
    kind = transformers.DistilBertConfig if distilbert else transformers.BertConfig
    labels = 2 if name.endswith("QuestionAnswering") else labels  # start and end
    config = kind(**SHARED, num_labels=labels, **(DISTILBERT if distilbert else BERT), attn_implementation="eager")
    return randomise(getattr(transformers, name)(config).eval(), seed)


def randomise(model: transformers.PreTrainedModel, seed: int) -> transformers.PreTrainedModel:
    """The model with random weights far from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "LayerNorm.weight" in parameter_name or "layer_norm.weight" in parameter_name:
                value = 1.0 + 0.2 * noise
            elif parameter_name.endswith("bias"):
                value = 0.2 * noise
            elif "embeddings" in parameter_name:
                value = noise
            else:
                value = noise / parameter.shape[1] ** 0.5
            parameter.copy_(value.half())
    return model


def inputs(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Ids [3, 10] (of a multiple choice [3, 2, 10]) with padding and, for BERT, token types."""
    rng = np.random.default_rng(seed)
    choices = (2,) if name.endswith("MultipleChoice") else ()
    lengths = np.array((10, 6, 2)) if not choices else np.array(((10, 6), (2, 9), (7, 4)))
    mask = (np.arange(10) < lengths[..., None]).astype(np.int32)
    found = {"input_ids": rng.integers(5, 99, mask.shape).astype(np.int32) * mask, "attention_mask": mask}
    if name.startswith("Bert"):
        found["token_type_ids"] = rng.integers(0, 2, mask.shape).astype(np.int32)
    return found


def predictions(output: transformers.modeling_outputs.ModelOutput) -> dict[str, torch.Tensor]:
    """What a head computed, by the reference's names; of a bare model its hidden states and, if it has one, pooled output."""
    wanted = ("last_hidden_state", "pooler_output")
    return {key: value for key, value in output.items() if key in wanted or key.endswith("logits")}


def main() -> None:
    recorded = {}
    for name in CLASSES:
        model, given = build(name), inputs(name)
        with torch.no_grad():
            output = model(
                **{key: torch.tensor(value).long() for key, value in given.items()}, output_hidden_states=True
            )
        model.config.architectures = [name]
        recorded[f"{name}/config"] = np.array(model.config.to_json_string())
        tied = model._tied_weights_keys or ()
        recorded |= {
            f"{name}/weights/{key}": v.half().numpy() for key, v in model.state_dict().items() if key not in tied
        }
        recorded |= {f"{name}/inputs/{key}": value for key, value in given.items()}
        recorded |= {f"{name}/outputs/{key}": value.numpy() for key, value in predictions(output).items()}
        recorded[f"{name}/outputs/last_hidden_state"] = output.hidden_states[-1].numpy()
    np.savez_compressed(FILE, **recorded)
    print(f"{FILE.name}: {len(recorded)} arrays, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
