"""Record `answers.json`: what transformers 5.2.0 answers to questions; later versions have no such pipeline.

    python -m venv env && env/bin/pip install transformers==5.2.0 torch==2.13.0 && env/bin/python -m tests.golden.record_answers

Models are small, with random weights that NumPy draws from a seed: whoever reads the file makes the same with `write_model`. The
file holds the vocabulary, and of each question the options and the answers.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("answers.json")
FAMILIES = ("bert", "distilbert")
POSITIONS = 48
SIZES = {"bert": ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
         "distilbert": ("dim", "n_layers", "n_heads", "hidden_dim")}  # fmt: skip
WORDS = (  # noqa: SIM905
    "ada anna lives in a blue house by the river red town two five cats dogs who where what how many sleeps runs far from "
    "near bridge old mill is are was her his brother sister café naive e ##s ##r ##ing ##ville . , ? ! ' - ( ) 1 2 ##2 中 文"
).split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
VOCABULARY = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS]))
TALE = "Ada lives in the blue house by the old mill. Her brother Anna-Ville runs from the bridge, far from two dogs. "
LONG = "q" * 130
ODD = f"Ada\u2019s 😀 caf\u00e9 is near the cafe\u0301; na\u00efve CATS\x01 sleep\u200bs, {LONG} [SEP] 中文 22\n\tbridges (5)! "
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("Where lives Ada?", TALE, {}),
    ("Where lives Ada?", TALE, {"top_k": 8}),
    ("who runs", TALE, {"top_k": 5, "align_to_words": False}),
    ("who runs", TALE, {"top_k": 5, "max_answer_len": 1}),
    ("who runs", TALE, {"top_k": 4, "max_answer_len": 30}),
    ("How many dogs?", TALE, {"handle_impossible_answer": True, "top_k": 60}),
    ("What is near the café?", ODD, {"top_k": 8}),
    ("What is 😀?", ODD, {"top_k": 8, "align_to_words": False}),
    ("Ｗho cafe\u0301 " + "z" * 101, ODD, {"top_k": 6, "handle_impossible_answer": True}),
    ("where", "Bridge.", {"top_k": 3}),
    ("where", "  \n Rivers", {"top_k": 2}),
    ("where?", "q" * 150, {}),
    ("where?", "\u0301\u0301 e\u0301\u0301\u0301 \U0001f469\u200d\U0001f680 town", {"top_k": 6}),
    ("Where lives Ada?", TALE * 4, {}),
    ("Where lives Ada?", TALE * 4, {"top_k": 10}),
    ("Where lives Ada?", TALE * 4, {"top_k": 10, "handle_impossible_answer": True}),
    ("what runs", TALE + ODD + TALE, {"top_k": 10}),
    ("what runs", TALE + ODD + TALE, {"top_k": 7, "doc_stride": 0, "align_to_words": False}),
    *(
        ("what runs", ODD + TALE + ODD, {"max_seq_len": length, "doc_stride": stride, "top_k": 6})
        for length, stride in ((12, 3), (16, 7), (24, 1), (31, 20))
    ),
]
EDGES = 12  # windows begin at each of so many places of a tale, so that answers stand at their edges
CASES += [("who sleeps", "far " * n + TALE * 2, {"max_seq_len": 14, "doc_stride": 2, "top_k": 4}) for n in range(EDGES)]
REFUSED = [("where", ""), ("", TALE)]


def config(family: str) -> dict[str, Any]:
    hidden, layers, heads, inner = SIZES[family]
    return {
        "model_type": family,
        "architectures": ["BertForQuestionAnswering" if family == "bert" else "DistilBertForQuestionAnswering"],
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": POSITIONS,
        hidden: 16,
        layers: 2,
        heads: 2,
        inner: 24,
    }


def _shapes(family: str) -> dict[str, tuple[int, ...]]:
    """The parameters of such a model by the reference's names."""
    tables = {"word_embeddings": len(VOCABULARY), "position_embeddings": POSITIONS}
    if family == "bert":
        tables["token_type_embeddings"] = 2
        layer, norms = "encoder.layer", ("attention.output.LayerNorm", "output.LayerNorm")
        linear = {f"attention.self.{name}": (16, 16) for name in ("query", "key", "value")}
        linear |= {"attention.output.dense": (16, 16), "intermediate.dense": (24, 16), "output.dense": (16, 24)}
    else:
        layer, norms = "transformer.layer", ("sa_layer_norm", "output_layer_norm")
        linear = {f"attention.{name}_lin": (16, 16) for name in ("q", "k", "v", "out")}
        linear |= {"ffn.lin1": (24, 16), "ffn.lin2": (16, 24)}
    shapes: dict[str, tuple[int, ...]] = {
        f"{family}.embeddings.{name}.weight": (rows, 16) for name, rows in tables.items()
    }
    of_norm = {f"{family}.embeddings.LayerNorm", *(f"{family}.{layer}.{i}.{norm}" for i in range(2) for norm in norms)}
    for name in sorted(of_norm):
        shapes |= {f"{name}.weight": (16,), f"{name}.bias": (16,)}
    for i in range(2):
        for name, shape in linear.items():
            shapes |= {f"{family}.{layer}.{i}.{name}.weight": shape, f"{family}.{layer}.{i}.{name}.bias": shape[:1]}
    return shapes | {"qa_outputs.weight": (2, 16), "qa_outputs.bias": (2,)}


def write_model(family: str, directory: Path) -> Path:
    """A model for questions in `directory`, the same wherever it is written: config.json, model.safetensors, vocab.txt."""
    from safetensors.numpy import save_file

    draw = np.random.RandomState(FAMILIES.index(family) + 1)  # whose numbers are those of every version of NumPy
    tensors = {}
    for name, shape in _shapes(family).items():
        noise = draw.standard_normal(shape).astype(np.float32)
        if name.endswith("bias"):
            noise *= np.float32(0.2)
        elif len(shape) == 1:
            noise = 1 + np.float32(0.2) * noise
        elif "embeddings" not in name:
            noise /= np.float32(4.0)
        tensors[name] = noise * np.float32(4.0) if name == "qa_outputs.weight" else noise
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config(family)), encoding="utf-8")
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": POSITIONS}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def main() -> None:
    import torch
    import transformers

    if transformers.__version__ != "5.2.0":
        raise SystemExit(f"transformers is {transformers.__version__}; expected 5.2.0, the last with this pipeline")
    recorded = []
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            directory = str(write_model(family, Path(folder) / family))
            ask = transformers.pipeline("question-answering", directory, device="cpu")
            for question, context, options in CASES:
                answers = ask(question=question, context=context, **options)
                recorded.append(
                    {
                        "family": family,
                        "question": question,
                        "context": context,
                        "options": options,
                        "answers": answers if isinstance(answers, list) else [answers],
                    }
                )
            for question, context in REFUSED:
                try:
                    ask(question=question, context=context)
                except ValueError:
                    continue
                raise SystemExit(f"transformers answers {question!r} from {context!r}")
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__}
    content = {"versions": versions, "vocabulary": VOCABULARY, "cases": recorded, "refused": REFUSED}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{FILE.name}: {len(recorded)} questions, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
