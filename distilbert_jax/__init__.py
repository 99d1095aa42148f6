"""BERT and DistilBERT in JAX: models, distillation pre-training, GLUE and probes.

>>> from distilbert_jax import BertTokenizer, EncoderModel

What people import is imported from here, and loaded when it is asked for: `import distilbert_jax` alone waits for neither JAX
nor NumPy.
"""

import importlib
import importlib.util
import opcode
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"  # the only place; packaging reads it from here

_NAMES = {
    "base.config_io": ("load_config",),
    "config": (
        "AttentionProbabilitiesConfig",
        "AttentionScoresConfig",
        "AugmentConfig",
        "CosConfig",
        "DataConfig",
        "DistillConfig",
        "EmbeddingsConfig",
        "ExperimentConfig",
        "FinetuneConfig",
        "HiddenConfig",
        "InitConfig",
        "KLConfig",
        "LossConfig",
        "MLMConfig",
        "MSEConfig",
        "MaskingConfig",
        "MeshConfig",
        "MiniLMConfig",
        "MiniLMv2Config",
        "ModelConfig",
        "OptimizerConfig",
        "PretrainConfig",
        "RunConfig",
        "Schedule",
        "SweepConfig",
        "Variant",
    ),
    "errors": (
        "DivergedError",
        "InputError",
        "Interrupted",
        "Preempted",
    ),
    "finetuning.own": ("own_task",),
    "finetuning.roles": ("Roles",),
    "finetuning.runs": (
        "finetune",
        "finetune_seeds",
    ),
    "finetuning.scoring": (
        "predict_rows",
        "score_rows",
    ),
    "finetuning.spread": ("finetune_spread",),
    "finetuning.tasks": (
        "Task",
        "find_task",
        "register_task",
    ),
    "glue.sweep": ("run_sweep",),
    "models": (
        "BertForMaskedLM",
        "BertForMultipleChoice",
        "BertForNextSentencePrediction",
        "BertForPreTraining",
        "BertForQuestionAnswering",
        "BertForSequenceClassification",
        "BertForTokenClassification",
        "BertModel",
        "DistilBertForMaskedLM",
        "DistilBertForMultipleChoice",
        "DistilBertForQuestionAnswering",
        "DistilBertForSequenceClassification",
        "DistilBertForTokenClassification",
        "DistilBertModel",
        "EncoderModel",
        "MaskedLM",
        "MultipleChoice",
        "NextSentencePrediction",
        "PreTraining",
        "SequenceClassification",
    ),
    "models.student": ("student_from_teacher",),
    "pipelines": (
        "FeatureExtraction",
        "FillMask",
        "QuestionAnswering",
        "TextClassification",
        "TokenClassification",
    ),
    "pretraining.build_corpus": ("build_corpus",),
    "pretraining.corpus": ("Corpus",),
    "pretraining.evaluate": ("evaluate_mlm",),
    "pretraining.objective_table": ("register_objective",),
    "pretraining.packing": (
        "PackedRows",
        "pack",
    ),
    "pretraining.run": ("pretrain",),
    "probes.bias": ("bias_probe",),
    "text.tokenizer": (
        "BertTokenizer",
        "load_tokenizer",
    ),
    "text.wordpiece": ("train_wordpiece",),
    "training.callbacks": (
        "Moment",
        "register_callback",
    ),
    "training.objective": (
        "Objective",
        "Part",
    ),
    "training.push": ("push_to_hub",),
    "training.terms": (
        "Tokens",
        "View",
        "register_term",
    ),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["__version__", *_MODULE_OF]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:  # the same names for editors and type checkers; a test compares the two
    from distilbert_jax.base.config_io import load_config as load_config
    from distilbert_jax.config import AttentionProbabilitiesConfig as AttentionProbabilitiesConfig
    from distilbert_jax.config import AttentionScoresConfig as AttentionScoresConfig
    from distilbert_jax.config import AugmentConfig as AugmentConfig
    from distilbert_jax.config import CosConfig as CosConfig
    from distilbert_jax.config import DataConfig as DataConfig
    from distilbert_jax.config import DistillConfig as DistillConfig
    from distilbert_jax.config import EmbeddingsConfig as EmbeddingsConfig
    from distilbert_jax.config import ExperimentConfig as ExperimentConfig
    from distilbert_jax.config import FinetuneConfig as FinetuneConfig
    from distilbert_jax.config import HiddenConfig as HiddenConfig
    from distilbert_jax.config import InitConfig as InitConfig
    from distilbert_jax.config import KLConfig as KLConfig
    from distilbert_jax.config import LossConfig as LossConfig
    from distilbert_jax.config import MaskingConfig as MaskingConfig
    from distilbert_jax.config import MeshConfig as MeshConfig
    from distilbert_jax.config import MiniLMConfig as MiniLMConfig
    from distilbert_jax.config import MiniLMv2Config as MiniLMv2Config
    from distilbert_jax.config import MLMConfig as MLMConfig
    from distilbert_jax.config import ModelConfig as ModelConfig
    from distilbert_jax.config import MSEConfig as MSEConfig
    from distilbert_jax.config import OptimizerConfig as OptimizerConfig
    from distilbert_jax.config import PretrainConfig as PretrainConfig
    from distilbert_jax.config import RunConfig as RunConfig
    from distilbert_jax.config import Schedule as Schedule
    from distilbert_jax.config import SweepConfig as SweepConfig
    from distilbert_jax.config import Variant as Variant
    from distilbert_jax.errors import DivergedError as DivergedError
    from distilbert_jax.errors import InputError as InputError
    from distilbert_jax.errors import Interrupted as Interrupted
    from distilbert_jax.errors import Preempted as Preempted
    from distilbert_jax.finetuning.own import own_task as own_task
    from distilbert_jax.finetuning.roles import Roles as Roles
    from distilbert_jax.finetuning.runs import finetune as finetune
    from distilbert_jax.finetuning.runs import finetune_seeds as finetune_seeds
    from distilbert_jax.finetuning.scoring import predict_rows as predict_rows
    from distilbert_jax.finetuning.scoring import score_rows as score_rows
    from distilbert_jax.finetuning.spread import finetune_spread as finetune_spread
    from distilbert_jax.finetuning.tasks import Task as Task
    from distilbert_jax.finetuning.tasks import find_task as find_task
    from distilbert_jax.finetuning.tasks import register_task as register_task
    from distilbert_jax.glue.sweep import run_sweep as run_sweep
    from distilbert_jax.models import BertForMaskedLM as BertForMaskedLM
    from distilbert_jax.models import BertForMultipleChoice as BertForMultipleChoice
    from distilbert_jax.models import BertForNextSentencePrediction as BertForNextSentencePrediction
    from distilbert_jax.models import BertForPreTraining as BertForPreTraining
    from distilbert_jax.models import BertForQuestionAnswering as BertForQuestionAnswering
    from distilbert_jax.models import BertForSequenceClassification as BertForSequenceClassification
    from distilbert_jax.models import BertForTokenClassification as BertForTokenClassification
    from distilbert_jax.models import BertModel as BertModel
    from distilbert_jax.models import DistilBertForMaskedLM as DistilBertForMaskedLM
    from distilbert_jax.models import DistilBertForMultipleChoice as DistilBertForMultipleChoice
    from distilbert_jax.models import DistilBertForQuestionAnswering as DistilBertForQuestionAnswering
    from distilbert_jax.models import DistilBertForSequenceClassification as DistilBertForSequenceClassification
    from distilbert_jax.models import DistilBertForTokenClassification as DistilBertForTokenClassification
    from distilbert_jax.models import DistilBertModel as DistilBertModel
    from distilbert_jax.models import EncoderModel as EncoderModel
    from distilbert_jax.models import MaskedLM as MaskedLM
    from distilbert_jax.models import MultipleChoice as MultipleChoice
    from distilbert_jax.models import NextSentencePrediction as NextSentencePrediction
    from distilbert_jax.models import PreTraining as PreTraining
    from distilbert_jax.models import SequenceClassification as SequenceClassification
    from distilbert_jax.models.student import student_from_teacher as student_from_teacher
    from distilbert_jax.pipelines import FeatureExtraction as FeatureExtraction
    from distilbert_jax.pipelines import FillMask as FillMask
    from distilbert_jax.pipelines import QuestionAnswering as QuestionAnswering
    from distilbert_jax.pipelines import TextClassification as TextClassification
    from distilbert_jax.pipelines import TokenClassification as TokenClassification
    from distilbert_jax.pretraining.build_corpus import build_corpus as build_corpus
    from distilbert_jax.pretraining.corpus import Corpus as Corpus
    from distilbert_jax.pretraining.evaluate import evaluate_mlm as evaluate_mlm
    from distilbert_jax.pretraining.objective_table import register_objective as register_objective
    from distilbert_jax.pretraining.packing import PackedRows as PackedRows
    from distilbert_jax.pretraining.packing import pack as pack
    from distilbert_jax.pretraining.run import pretrain as pretrain
    from distilbert_jax.probes.bias import bias_probe as bias_probe
    from distilbert_jax.text.tokenizer import BertTokenizer as BertTokenizer
    from distilbert_jax.text.tokenizer import load_tokenizer as load_tokenizer
    from distilbert_jax.text.wordpiece import train_wordpiece as train_wordpiece
    from distilbert_jax.training.callbacks import Moment as Moment
    from distilbert_jax.training.callbacks import register_callback as register_callback
    from distilbert_jax.training.objective import Objective as Objective
    from distilbert_jax.training.objective import Part as Part
    from distilbert_jax.training.push import push_to_hub as push_to_hub
    from distilbert_jax.training.terms import Tokens as Tokens
    from distilbert_jax.training.terms import View as View
    from distilbert_jax.training.terms import register_term as register_term


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    hint = ""
    if not name.startswith("_"):
        if importlib.util.find_spec(f"{__name__}.{name}"):  # a room of the house, such as `distilbert_jax.models`
            return importlib.import_module(f"{__name__}.{name}")
        import difflib

        close = difflib.get_close_matches(name, __all__, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "; dir(distilbert_jax) lists what it has"
    message = f"module {__name__!r} has no attribute {name!r}{hint}"
    caller = sys._getframe(1)
    if hint and caller.f_code.co_code[caller.f_lasti] == opcode.opmap["IMPORT_FROM"]:
        raise ImportError(message, name=__name__)  # of an AttributeError, `from … import` would drop the hint
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
