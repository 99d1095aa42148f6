"""How a student begins: DistilBERT from chosen layers of a teacher (paper, section 3).

python -m distilbert_jax.models.student --teacher bert-base-uncased --layers 0 2 4 7 9 11 --out student
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from distilbert_jax import families
from distilbert_jax.base.parsing import call
from distilbert_jax.config import ModelConfig
from distilbert_jax.errors import InputError, one_line_errors
from distilbert_jax.models.heads import MaskedLM
from distilbert_jax.models.params import merge, split
from distilbert_jax.text.tokenizer import load_tokenizer


def evenly_spaced_layers(teacher_layers: int, student_layers: int) -> tuple[int, ...]:
    """round(i·(L_t−1)/(L_s−1)), halves to even: 12 → 6 gives 0, 2, 4, 7, 9, 11; 6 → 3 gives 0, 2, 5. One layer: the first."""
    last = max(student_layers - 1, 1)
    return tuple(round(i * (teacher_layers - 1) / last) for i in range(student_layers))


def chosen_layers(
    choice: tuple[int, ...] | Literal["first", "last"] | None, teacher_layers: int, student_layers: int
) -> tuple[int, ...]:
    """The teacher's layers that a student of `student_layers` begins with; None: `evenly_spaced_layers`.

    Raises:
        InputError: as many layers are not there, one is not the teacher's, or another number is named.
    """
    if not isinstance(choice, tuple) and student_layers > teacher_layers:
        raise InputError(
            f"model.num_hidden_layers = {student_layers}: the teacher has only {teacher_layers}; "
            "name the layers to copy with init.layers",
            field="model.num_hidden_layers",
        )
    if choice is None:
        return evenly_spaced_layers(teacher_layers, student_layers)
    if not isinstance(choice, tuple):
        first = 0 if choice == "first" else teacher_layers - student_layers
        return tuple(range(first, first + student_layers))
    if len(choice) != student_layers:
        raise InputError(
            f"init.layers = {choice}: {len(choice)} layers named, model.num_hidden_layers is {student_layers}",
            field="init.layers",
        )
    for layer in choice:
        if not 0 <= layer < teacher_layers:
            raise InputError(
                f"init.layers = {choice}: {layer} is not a layer of the teacher (0 … {teacher_layers - 1})",
                field="init.layers",
            )
    return choice


def student_config(teacher: ModelConfig, num_hidden_layers: int) -> ModelConfig:
    """DistilBERT of the teacher's width and vocabulary with `num_hidden_layers` layers."""
    return dataclasses.replace(
        teacher,
        model_type="distilbert",
        type_vocab_size=0,
        num_hidden_layers=num_hidden_layers,
        classifier_dropout=0.2,
        qa_dropout=0.1,
        layer_norm_eps=1e-12,  # fixed in the reference: its config.json cannot say another
    )


def student_from_teacher(
    teacher: MaskedLM,
    config: ModelConfig,
    *,
    layers: tuple[int, ...] | Literal["first", "last"] | None = None,
    fold_token_type: bool = True,
    copy_transform: bool = True,
    dtype: DTypeLike = jnp.float32,
    seed: int = 0,
) -> MaskedLM:
    """A student that begins with the teacher's embeddings, chosen layers and decoder bias (paper, section 3).

    Args:
        teacher: a BERT, a DistilBERT or a model of the student's family with a masked-LM head.
        config: of the student; every size but the number of layers equals the teacher's.
        layers: which teacher layer each student layer copies, or the first or last ones; None: `evenly_spaced_layers`.
        fold_token_type: add the teacher's token-type-0 embedding to every position, so that a student with all the layers
            gives the teacher's logits. The original drops it.
        copy_transform: copy the masked-LM transform and its LayerNorm too; the original does so on request only.
        seed: for what is not copied.

    Raises:
        InputError: the student's family takes no layers or counts positions otherwise than the teacher's, a size differs from the
            teacher's, or a layer is not one of the teacher's.
    """
    given = teacher.config
    if not config.family.student:
        students = ", ".join(repr(name) for name, family in families.known().items() if family.student)
        raise InputError(
            f"model.model_type = {config.model_type!r}: a student is a {students}", field="model.model_type"
        )
    if config.first_position != given.first_position:
        raise InputError(
            f"model.model_type = {config.model_type!r}: counts positions from {config.first_position}, its teacher (a "
            f"{given.family.title}) from {given.first_position}",
            field="model.model_type",
        )
    sizes = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    for name in (*sizes, "type_vocab_size") if config.type_vocab_size else sizes:
        if getattr(given, name) != getattr(config, name):
            raise InputError(
                f"model.{name} = {getattr(config, name)}, the teacher's is {getattr(given, name)}: "
                "a student that begins with the teacher's layers has its sizes"
            )
    chosen = chosen_layers(layers, given.num_hidden_layers, config.num_hidden_layers)
    source = split(teacher)[1]
    graphdef, params = split(MaskedLM.of_family(config.model_type)(config, dtype=dtype, rngs=nnx.Rngs(seed)))
    for path in params:
        if path.startswith(("head.transform", "head.norm")) and not copy_transform:
            continue
        parts = path.split(".")
        if parts[:2] == ["encoder", "layers"]:
            parts[2] = str(chosen[int(parts[2])])
        # A copy: a train step that donates the student's buffers must not take the teacher's with them.
        params[path] = jnp.array(source[".".join(parts)], copy=True)
    if fold_token_type and "encoder.embeddings.token_type" in source.keys() - params.keys():
        params["encoder.embeddings.position"] += source["encoder.embeddings.token_type"][0]
    return merge(graphdef, params)


def convert(
    teacher: str,
    out: str,
    layers: tuple[int, ...] = (),
    num_hidden_layers: int = 0,
    fold_token_type: bool = True,
    copy_transform: bool = True,
) -> None:
    """Write a DistilBERT with layers of a masked-LM teacher as a Hugging Face directory, tokenizer included.

    Args:
        teacher: HF directory or hub id of a BERT or DistilBERT with a masked-LM head.
        out: directory to write.
        layers: of the teacher, e.g. 0 2 4 7 9 11; none: evenly spaced.
        num_hidden_layers: how many, when they are evenly spaced; 0: all. With all of them the student gives the teacher's logits.
        fold_token_type: add the teacher's token-type-0 embedding to the positions (the original drops it).
        copy_transform: copy the masked-LM transform too.
    """
    if Path(out).exists() and Path(teacher).exists() and Path(out).samefile(teacher):
        raise InputError(f"--out {out}: is the teacher's own directory; choose another", field="--out")
    if layers and num_hidden_layers not in (0, len(layers)):
        raise InputError(
            f"--num-hidden-layers {num_hidden_layers}, but --layers names {len(layers)}; give one of them",
            field="--num-hidden-layers",
        )
    source = MaskedLM.from_pretrained(teacher, new_head=False)
    count = len(layers) or num_hidden_layers or source.config.num_hidden_layers
    chosen = chosen_layers(layers or None, source.config.num_hidden_layers, count)
    student = student_from_teacher(
        source,
        student_config(source.config, count),
        layers=chosen,
        fold_token_type=fold_token_type,
        copy_transform=copy_transform,
    )
    student.save_pretrained(out, load_tokenizer(teacher))
    print(f"{out}: layers {', '.join(map(str, chosen))} of {teacher}", file=sys.stderr)


if __name__ == "__main__":
    with one_line_errors():
        call(convert, "distilbert_jax.models.student")
