"""What a fine-tuning asks for, held to its task before a model or data are read."""

from distilbert_jax.config import AugmentConfig, DistillConfig, FinetuneConfig
from distilbert_jax.finetuning.identity import check_asked
from tests.finetuning.kinds.common import known
from tests.finetuning.kinds.test_choices import TOY
from tests.runs import change, refused


def test_classes_are_balanced_where_there_are_some():
    balanced = FinetuneConfig(task="sst2", class_weights="balanced")
    check_asked(balanced)
    refused(lambda: check_asked(change(balanced, task="stsb")), "stsb", field="class_weights")
    refused(lambda: check_asked(change(balanced, augment__copies=1)), field="class_weights")


def test_choices_that_share_a_context_have_no_copies():
    copies = FinetuneConfig(distill=DistillConfig("teacher"), augment=AugmentConfig(1, model="masked"))
    check_asked(copies)
    patch = known(TOY)
    refused(lambda: check_asked(change(copies, task=TOY.name)), TOY.title, field="augment.copies", hint="0")
    patch.undo()
