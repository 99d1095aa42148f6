import dataclasses
import json
import re

import pytest

from distilbert_jax.base.config_io import (
    Difference,
    config_module,
    differences,
    find_config,
    from_json,
    load_config,
    load_variants,
    to_json,
    variants_of,
)
from distilbert_jax.config import (
    MOST_LABELS,
    OLD_FLAGS,
    AttentionProbabilitiesConfig,
    AttentionScoresConfig,
    AugmentConfig,
    CosConfig,
    DataConfig,
    DistillConfig,
    EmbeddingsConfig,
    ExperimentConfig,
    FinetuneConfig,
    HiddenConfig,
    InitConfig,
    KLConfig,
    LayersConfig,
    LossConfig,
    MaskingConfig,
    MeshConfig,
    MiniLMConfig,
    MiniLMv2Config,
    MLMConfig,
    ModelConfig,
    MSEConfig,
    OptimizerConfig,
    PretrainConfig,
    Reads,
    RunConfig,
    Schedule,
    SweepConfig,
    Variant,
    scheduled,
)
from distilbert_jax.configs import shipped
from distilbert_jax.errors import InputError
from tests import runs
from tests.runs import refused

MODEL = ModelConfig(
    "distilbert",
    99,
    32,
    3,
    4,
    48,
    40,
    0,
    "relu",
    1e-12,
    0.03,
    0.2,
    0.3,
    0.4,
    0.5,
    7,
    ("no", "yes", "ähm"),
    "multi_label_classification",
    tie_word_embeddings=False,
    output_hidden_states=True,
    output_attentions=True,
)
DATA = DataConfig("corpus", "heldout", "document", 16, 24)
MASKING = MaskingConfig(0.2, 0.7, 0.2, True, "uniform", 0.5, "batch")
KL, MLM, COS, MSE = KLConfig(1.0, 4.0, "masked"), MLMConfig(3.0), CosConfig(2.0), MSEConfig(0.5, "masked")
HIDDEN, EMBEDDINGS = HiddenConfig(0.1, (0, 2), (3, 1)), EmbeddingsConfig(0.2)
SCORES, PROBABILITIES = AttentionScoresConfig(0.3, (1,), (2,)), AttentionProbabilitiesConfig(0.4, (0,), (1,))
MINILM, MINILMV2 = MiniLMConfig(0.5, 1, 2), MiniLMv2Config(0.6, 12, 0.5, 0.0, 2.0, 1, 2)
OF_LAYERS = (HIDDEN, EMBEDDINGS, SCORES, PROBABILITIES, MINILM, MINILMV2)
LOSS = LossConfig(KL, MLM, COS, MSE, *OF_LAYERS, {"norm": 0.25}, 7)
INIT = InitConfig("bert", (0, 2, 5), False, False, True, "frozen")
OPTIMIZER = OptimizerConfig(1e-4, 0.1, 0.8, 0.99, 1e-8, 0.01, 1.0, 4)
MESH = MeshConfig(2, 2, 4)
RUN = RunConfig("runs/a", 2**32 - 1, "bfloat16", "bfloat16", 1, 0, 5, 1, True, ("norms",), "project")
PRETRAIN = PretrainConfig(MODEL, INIT, "distillation", "teacher", 10, DATA, MASKING, LOSS, OPTIMIZER, MESH, RUN)
GUIDE = DistillConfig("teacher/{task}", 0.3, 4.0, *OF_LAYERS, 2)
AUGMENT = AugmentConfig(3, 0.4, "bert", 7)
FINETUNE = FinetuneConfig(
    "bert",
    "rte",
    "glue",
    64,
    16,
    5,
    100,
    True,
    True,
    False,
    GUIDE,
    AUGMENT,
    OPTIMIZER,
    MESH,
    RUN,
    class_weights="balanced",
    freeze="encoder",
    layer_decay=0.9,
    select=True,
)
GRID = SweepConfig((1e-4, 2e-4), (8, 16), (3,), (1, 2))
ALL = [
    MODEL,
    DATA,
    MASKING,
    KL,
    MLM,
    COS,
    MSE,
    LayersConfig(0.1, (0,), (1,)),
    *OF_LAYERS,
    LOSS,
    INIT,
    OPTIMIZER,
    MESH,
    RUN,
    PRETRAIN,
    GUIDE,
    AUGMENT,
    FINETUNE,
    GRID,
]
each = pytest.mark.parametrize("config", ALL, ids=lambda config: type(config).__name__)


def test_every_config_class_is_among_the_examples():
    from distilbert_jax import config as module

    classes = {kind for kind in vars(module).values() if dataclasses.is_dataclass(kind)}
    without_defaults = {Variant, ExperimentConfig, Schedule}  # tests of their own have them
    assert {type(config) for config in ALL} == classes - without_defaults - {Reads}  # which no file holds


@each
def test_json_gives_an_equal_config_back(config):
    kind, same = type(config), {"layer_norm_eps"} if config is MODEL else set()
    unchanged = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) == getattr(kind(), f.name)}
    assert unchanged == same, "the example has to differ from every default, or a lost field would go unnoticed"
    assert from_json(kind, to_json(config)) == config
    assert from_json(kind, to_json(kind())) == kind()


def test_json_may_leave_fields_out_and_write_floats_as_integers():
    config = from_json(
        PretrainConfig, '{"loss": {"kl": {"temperature": 3}}, "init": {"layers": null}, "data": {"length": 64}}'
    )
    assert config == PretrainConfig(loss=LossConfig(kl=KLConfig(temperature=3.0)), data=DataConfig(length=64))
    assert type(config.loss.kl.temperature) is float


def test_a_number_that_changes_over_the_steps_is_an_object_in_json_and_one_word_elsewhere():
    config = PretrainConfig(
        loss=LossConfig(kl=KLConfig(Schedule("linear", 5.0, 1.0)), own={"norm": Schedule("cosine", 0.0, 0.5)}),
        masking=MaskingConfig(probability=Schedule("linear", 0.3, 0.15)),
    )
    values = json.loads(to_json(config))
    assert values["loss"]["kl"]["weight"] == {"kind": "linear", "start": 5.0, "end": 1.0}
    assert values["loss"]["mlm"]["weight"] == 2.0, "a constant is the number that it was"
    assert from_json(PretrainConfig, to_json(config)) == config
    assert repr(config.loss.own["norm"]) == "cosine:0:0.5"
    assert scheduled(repr(config.masking.probability)) == config.masking.probability
    assert scheduled("5") == 5.0
    for text in ("", "high", "linear:5", "square:5:1", "linear:5:1:2", "5:1"):
        refused(lambda text=text: scheduled(text), repr(text))


@pytest.mark.parametrize(
    "make",
    [
        lambda: KLConfig(weight=Schedule("linear", 1.0, -1.0)),
        lambda: KLConfig(weight=Schedule("linear", float("nan"), 1.0)),
        lambda: KLConfig(temperature=Schedule("linear", 0.001, 2.0)),
        lambda: MaskingConfig(probability=Schedule("linear", 0.3, 0.0)),
        lambda: MaskingConfig(probability=Schedule("linear", 1.0, 0.15)),
        lambda: LossConfig(own={"norm": Schedule("linear", 1.0, float("inf"))}),
        lambda: runs.loss(Schedule("linear", 0.0, 0.0), 0.0, 0.0),
    ],
)
def test_both_ends_of_a_schedule_are_checked(make):
    refused(make)


@pytest.mark.parametrize(
    ("text", "field", "shown"),
    [
        ('{"loss": {"kl": {"weight": {"kind": "square", "start": 1, "end": 2}}}}', "loss.kl.weight.kind", "'cosine'"),
        ('{"loss": {"kl": {"weight": {"kind": "linear", "start": 1}}}}', "loss.kl.weight.end", "end"),
        ('{"run": {"sed": 5}}', "run.sed", "'seed'"),
        ('{"optimiser": {}}', "optimiser", "'optimizer'"),
        ('{"mesh": {"zzz": 1}}', "mesh.zzz", "data, fsdp, tensor"),
        ('{"run": {"keep": "5"}}', "run.keep", "'5'"),
        ('{"run": {"keep": 5.0}}', "run.keep", "5.0"),
        ('{"steps": true}', "steps", "True"),
        ('{"run": {"deterministic": 1}}', "run.deterministic", "bool"),
        ('{"loss": {"kl": {"weight": "high"}}}', "loss.kl.weight", "'high'"),
        ('{"loss": {"own": {"norm": "high"}}}', "loss.own.norm", "'high'"),
        ('{"run": {"dtype": "bf16"}}', "run.dtype", "'float32', 'bfloat16'"),
        ('{"init": {"layers": 3}}', "init.layers", "3"),
        ('{"init": {"layers": [0, "2"]}}', "init.layers[1]", "'2'"),
        ('{"data": []}', "data", "DataConfig"),
        ("[]", None, "PretrainConfig"),
    ],
)
def test_a_mistake_in_json_is_named_with_its_field(text, field, shown):
    refused(lambda: from_json(PretrainConfig, text, "run.json"), shown, path="run.json", field=field)


def test_json_that_is_none_is_named_with_its_line():
    refused(lambda: from_json(PretrainConfig, '{"run":\n{"seed": }}', "run.json"), path="run.json", row=2)


INF, NAN = float("inf"), float("nan")
POSITIVE, SHARE, WEIGHT = (0, -1), (-0.1, 1.0), (-0.1, INF, NAN, 1e300)
REAL = (*POSITIVE, INF, NAN, 1e300, 1e-300)  # float32 has neither
REFUSED = [
    (ModelConfig, "model_type", ("gpt2",)),
    (ModelConfig, "vocab_size", (*POSITIVE, 30522.0, "30522", True)),
    (ModelConfig, "hidden_size", POSITIVE),
    (ModelConfig, "num_hidden_layers", POSITIVE),
    (ModelConfig, "num_attention_heads", (*POSITIVE, 7)),
    (ModelConfig, "intermediate_size", POSITIVE),
    (ModelConfig, "max_position_embeddings", POSITIVE),
    (ModelConfig, "type_vocab_size", POSITIVE),
    (ModelConfig, "hidden_act", ("prelu",)),
    (ModelConfig, "layer_norm_eps", WEIGHT),
    (ModelConfig, "initializer_range", WEIGHT),
    (ModelConfig, "hidden_dropout", (-0.1, 1.1, NAN, "0.1", True, None)),
    (ModelConfig, "attention_dropout", (-0.1, 1.1)),
    (ModelConfig, "classifier_dropout", (-0.1, 1.1)),
    (ModelConfig, "problem_type", ("multi_label",)),
    (ModelConfig, "tie_word_embeddings", ("no", 0)),
    (ModelConfig, "pad_token_id", (-1, 30522)),
    (ModelConfig, "labels", (3, "no", (1, 2))),
    (DataConfig, "batch_size", (*POSITIVE, 2**20 + 1, 100_000_000_000)),
    (DataConfig, "length", (7,)),
    (DataConfig, "sequences", ("page",)),
    (MaskingConfig, "probability", (0.0, 1.0, 1e-9, 4e-5, NAN)),
    (MaskingConfig, "mask", (-0.1, NAN)),
    (MaskingConfig, "random", (-0.1, 0.3, INF)),
    (MaskingConfig, "weighting", ("loss",)),
    (MaskingConfig, "per", ("token",)),
    (MaskingConfig, "smoothing", WEIGHT),
    (KLConfig, "temperature", (*REAL, 0.001, 1000.0)),
    *((kind, "weight", WEIGHT) for kind in (KLConfig, MLMConfig, CosConfig, MSEConfig)),
    (KLConfig, "tokens", ("some",)),
    (MSEConfig, "tokens", ("some",)),
    (LossConfig, "chunk", (-1,)),
    (OptimizerConfig, "learning_rate", REAL),
    (OptimizerConfig, "warmup", (-0.1, 1.1)),
    (OptimizerConfig, "beta1", SHARE),
    (OptimizerConfig, "beta2", SHARE),
    (OptimizerConfig, "eps", REAL),
    (OptimizerConfig, "weight_decay", WEIGHT),
    (OptimizerConfig, "clip_norm", REAL),
    (OptimizerConfig, "accumulate", POSITIVE),
    (MeshConfig, "data", (0, -2)),
    (MeshConfig, "fsdp", POSITIVE),
    (MeshConfig, "tensor", POSITIVE),
    (RunConfig, "seed", (-1, 2**32)),
    (RunConfig, "dtype", ("float16",)),
    (RunConfig, "activations", ("float16", "bfloat16")),  # matmuls are float32
    (RunConfig, "log_every", POSITIVE),
    (RunConfig, "eval_every", (-1,)),
    (RunConfig, "save_every", (-1,)),
    (RunConfig, "keep", POSITIVE),
    (PretrainConfig, "steps", (-1, 2**31, 100_000_000_000)),
    (FinetuneConfig, "length", (7,)),
    (FinetuneConfig, "batch_size", (*POSITIVE, 100_000_000_000)),
    (FinetuneConfig, "epochs", POSITIVE),
    (FinetuneConfig, "max_train_rows", (0,)),
    (DistillConfig, "alpha", (-0.1, 1.1, float("nan"))),
    (DistillConfig, "temperature", REAL),
    (SweepConfig, "learning_rate", ((1e-4, 1e-4), (0.0,), (-1e-4, 1e-4), (INF,), (1e-4, NAN))),
    (SweepConfig, "batch_size", ((8, 8), (0,))),
    (SweepConfig, "epochs", ((3, 3), (0,))),
    (SweepConfig, "seeds", ((), (1, 1))),
]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        pytest.param(kind, name, value, id=f"{kind.__name__}.{name}={value}")
        for kind, name, values in REFUSED
        for value in values
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(kind, name, value):
    refused(lambda: kind(**{name: value}), kind.__name__, repr(value), field=name)


def test_no_label_and_more_than_a_classifier_has_are_refused():
    for labels in ((), ("a",) * (MOST_LABELS + 1)):
        with pytest.raises(InputError) as caught:
            ModelConfig(labels=labels)
        assert caught.value.field == "labels"
        assert len(str(caught.value)) < 100


def test_an_unknown_activation_is_answered_with_the_nearest():
    refused(lambda: ModelConfig(hidden_act="quickgelu"), "'quick_gelu'", field="hidden_act")


@pytest.mark.parametrize(
    ("make", "field", "shown"),
    [
        (lambda: ModelConfig.distilbert_base(type_vocab_size=2), "type_vocab_size", "DistilBERT"),
        (lambda: ModelConfig.distilbert_base(layer_norm_eps=1e-5), "layer_norm_eps", "DistilBERT"),
        (lambda: runs.loss(0.0, 0.0, 0.0, 0.0), "loss.kl.weight", "LossConfig"),
        (lambda: PretrainConfig(data=DataConfig(length=513)), "length", "512"),
        (lambda: PretrainConfig(optimizer=OptimizerConfig(accumulate=5)), "accumulate", "32"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(make, field, shown):
    refused(make, shown, field=field)


def pairs(**changes):
    return PretrainConfig(**{"data": DataConfig(sequences="pair"), "objective": "masked_lm_nsp", **changes})


@pytest.mark.parametrize(
    ("make", "field", "hint"),
    [
        (lambda: PretrainConfig(teacher="bert"), "teacher", "--objective distillation"),
        (lambda: pairs(teacher="bert"), "teacher", "--objective distillation"),
        (lambda: pairs(objective="masked_lm"), "objective", "--objective masked_lm_nsp"),
        (lambda: pairs(objective="distillation", teacher="bert"), "objective", "--objective masked_lm_nsp"),
        (lambda: PretrainConfig(objective="masked_lm_nsp"), "objective", "--data.sequences pair"),
    ],
)
def test_an_objective_that_contradicts_teacher_or_rows_is_refused_with_what_would_do(make, field, hint):
    with pytest.raises(InputError) as caught:
        make()
    assert (caught.value.field, caught.value.hint) == (field, hint)


def test_a_weight_of_ones_own_term_is_held_to_what_weights_are():
    for weight in WEIGHT:
        with pytest.raises(InputError) as caught:
            LossConfig(own={"norm": weight})
        assert caught.value.field == "loss.own.norm"


OLD = {
    "objective": '{"teacher": "bert"}',
    "pairs": '{"data": {"sequences": "pair"}}',
    "loss": '{"loss": {"alpha_ce": 1.0, "alpha_mlm": 3.0, "alpha_cos": 0.5, "alpha_mse": 0.25, "temperature": 4.0, '
    '"ce_tokens": "masked", "chunk": 3}}',
    "mse of weight 0": '{"loss": {"alpha_mse": 0.0, "ce_tokens": "masked"}}',
}
NOW = {
    "objective": PretrainConfig(objective="distillation", teacher="bert"),
    "pairs": pairs(),
    "loss": PretrainConfig(loss=runs.loss(1.0, 3.0, 0.5, 0.25, temperature=4.0, tokens="masked", chunk=3)),
    "mse of weight 0": PretrainConfig(loss=LossConfig(kl=KLConfig(tokens="masked"))),
}


@pytest.mark.parametrize("what", OLD)
def test_the_config_of_an_earlier_version_is_read_as_what_it_is_now(what):
    assert from_json(PretrainConfig, OLD[what]) == NOW[what]


def test_every_old_flag_leads_to_a_field():
    for new in OLD_FLAGS.values():
        place = PretrainConfig()
        for name in new.removeprefix("--").split("."):
            place = getattr(place, name.replace("-", "_"))


def test_limits_themselves_are_allowed():
    ModelConfig(hidden_dropout=0.0, attention_dropout=1.0, layer_norm_eps=0.0, initializer_range=0.0)
    ModelConfig(pad_token_id=30521, num_attention_heads=768, labels=("score",))
    MaskingConfig(mask=0.9, random=0.1, smoothing=0.0)
    MaskingConfig(mask=0.0, random=0.0)
    MaskingConfig(probability=1e-4)
    KLConfig(temperature=0.01)
    DataConfig(batch_size=2**20)
    PretrainConfig(steps=2**31 - 1)
    PretrainConfig(steps=0)
    runs.loss(0.0, 0.0, 0.0, 1.0)
    dataclasses.replace(LOSS, kl=KLConfig(0.0), mlm=MLMConfig(0.0), cos=CosConfig(0.0), mse=MSEConfig(0.0))
    OptimizerConfig(warmup=1.0, beta1=0.0)
    PretrainConfig(data=DataConfig(length=512), optimizer=OptimizerConfig(accumulate=32))


def test_differences_name_the_fields_that_changed_and_no_other():
    old = PretrainConfig()
    new = dataclasses.replace(
        old, run=RunConfig(seed=3), objective="distillation", teacher="bert", init=InitConfig(layers=(0, 1)), steps=5
    )
    assert differences(old, old) == []
    assert differences(old, new) == [
        Difference("init.layers", None, (0, 1)),
        Difference("objective", "masked_lm", "distillation"),
        Difference("teacher", "", "bert"),
        Difference("steps", 1000, 5),
        Difference("run.seed", 0, 3),
    ]
    assert str(Difference("teacher", "", "bert")) == "teacher: '' → 'bert'"


def words_of(name):
    words = variants_of(config_module(find_config(name)))
    return [f"{name}:{word}" for word in words] or [name]


@pytest.mark.parametrize("name", [one for name in shipped() for one in words_of(name)])
def test_every_config_gives_its_run(name):
    config = load_config(name, PretrainConfig, FinetuneConfig, ExperimentConfig)
    assert from_json(type(config), to_json(config)) == config


@pytest.mark.parametrize("name", shipped())
def test_every_config_says_how_to_start_it_and_what_it_costs(name):
    said = config_module(find_config(name)).__doc__
    commands = re.findall(r"^    (distilbert-jax .+?)(?:  |$)", said, re.M)
    assert any(re.search(rf" {name}\b", command) for command in commands)
    assert re.search(r"[Cc]ost|minutes|hours|days", said)
    for word in re.findall(rf"\b{name}:([\w/]+)", said):  # what it speaks of is there
        assert word in {one.rpartition(":")[2].removesuffix("/x") for one in words_of(name)} | {"demo"}


def test_berts_second_length_begins_where_the_first_one_ends():
    short, long = (load_config(f"bert_base{phase}", PretrainConfig) for phase in ("", ":long"))
    assert long.init.source == f"{short.run.directory}/model"
    assert short.run.directory != long.run.directory
    assert (short.data.length, long.data.length) == (128, 512)
    assert short.model == long.model
    assert short.steps + long.steps == 1_000_000
    with pytest.raises(InputError) as caught:
        load_config("bert_base:medium", PretrainConfig)
    assert "short" in caught.value.hint


@pytest.mark.parametrize("group", ["ablations", "ablations:demo"])
def test_each_ablation_changes_one_thing(group):
    full, *others = load_variants(group, PretrainConfig).items()
    assert full[0] == "full"
    changes = {
        "no_ce": Difference("loss.kl.weight", 5.0, 0.0),
        "no_cos": Difference("loss.cos.weight", 1.0, 0.0),
        "no_mlm": Difference("loss.mlm.weight", 2.0, 0.0),
        "random_init": Difference("init.source", full[1].init.source, ""),
    }
    for name, config in others:
        place = Difference("run.directory", full[1].run.directory, full[1].run.directory.replace("full", name))
        assert differences(full[1], config) == [changes.pop(name), place]
    assert not changes


@pytest.mark.parametrize("directory", ["runs/demo", "elsewhere/demo"])
def test_everything_of_the_demo_stands_in_its_directory(directory):
    module = config_module(find_config("demo"))
    for word in variants_of(module):
        text = to_json(module.get_config(word, directory))
        own = "runs/demo-toy" if word.startswith("toy/") else "runs/demo"
        assert text == to_json(module.get_config(word)).replace(own, directory)
        assert directory in text


@pytest.mark.parametrize("said", [{"layers": (0,)}, {"fold_token_type": False}, {"copy_transform": False}])
def test_how_layers_are_taken_is_asked_only_of_a_student(said):
    (name,) = said
    init = InitConfig(source="teacher", **said)
    refused(lambda: PretrainConfig(init=init), field=name, by="config.require")
    PretrainConfig(model=ModelConfig.distilbert_base(), init=init)
