"""Student initialization: DistilBERT from chosen layers of a teacher (paper, section 3).

distilbert-jax student --teacher bert-base-uncased --layers 0 2 4 7 9 11 --out student
"""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from distilbert_jax import families
from distilbert_jax.config import Activations, ModelConfig
from distilbert_jax.errors import InputError, warn_once
from distilbert_jax.models.heads import MaskedLM, PreTraining
from distilbert_jax.models.layers import ACTIVATIONS
from distilbert_jax.models.params import merge, split


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


def student_from_teacher(
    teacher: MaskedLM | PreTraining,
    config: ModelConfig,
    *,
    layers: tuple[int, ...] | Literal["first", "last"] | None = None,
    fold_token_type: bool = True,
    copy_transform: bool = True,
    dtype: DTypeLike = jnp.float32,
    activations: DTypeLike | Activations = "auto",
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
        dtype, activations: of matmuls and between layers, as in `from_pretrained`.
        seed: for what is not copied.

    Raises:
        InputError: the student's family takes no layers or counts positions otherwise than the teacher's, a size or the activation
            differs from the teacher's, or a layer is not one of the teacher's.
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
                "a student that begins with the teacher's layers has its sizes",
                field=f"model.{name}",
            )
    if ACTIVATIONS[given.hidden_act] is not ACTIVATIONS[config.hidden_act]:  # a function may have several names
        raise InputError(
            f"model.hidden_act = {config.hidden_act!r}, the teacher's is {given.hidden_act!r}: its layers would compute something "
            "else",
            field="model.hidden_act",
            hint=f"--model.hidden-act {given.hidden_act}",
        )
    if given.layer_norm_eps != config.layer_norm_eps:
        warn_once(
            f"model.layer_norm_eps = {config.layer_norm_eps}, the teacher's is {given.layer_norm_eps}: the layers that the student "
            "takes give something else in it"
        )
    chosen = chosen_layers(layers, given.num_hidden_layers, config.num_hidden_layers)
    source = split(teacher)[1]
    graphdef, params = split(
        MaskedLM.of_family(config.model_type)(config, dtype=dtype, activations=activations, rngs=nnx.Rngs(seed))
    )
    for path in params:
        if path.startswith(("head.transform", "head.norm")) and not copy_transform:
            continue
        # A decoder of the student's own begins as the teacher's, which may be its word embedding.
        tied = path == "head.decoder" and path not in source
        parts = (path if not tied else "encoder.embeddings.word").split(".")
        if parts[:2] == ["encoder", "layers"]:
            parts[2] = str(chosen[int(parts[2])])
        # A copy: a train step that donates the student's buffers must not take the teacher's with them.
        params[path] = jnp.array(source[".".join(parts)], copy=True)
    if fold_token_type and "encoder.embeddings.token_type" in source.keys() - params.keys():
        params["encoder.embeddings.position"] += source["encoder.embeddings.token_type"][0]
    return merge(graphdef, params)
