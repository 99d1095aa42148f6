import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import evaluate
from distilbert_jax.base.config_io import read_config, to_values
from distilbert_jax.models.params import merge, split
from distilbert_jax.pipelines import FillMask
from distilbert_jax.probes import bias
from distilbert_jax.probes.bias import bias_probe
from distilbert_jax.probes.prompts import Pair
from distilbert_jax.text.tokenizer import load_tokenizer
from tests.models.common import call, masked_lm
from tests.runs import BERT, SPECIALS, STUDENT, WORDS, change, refused

# The embedding has two rows more than the tokenizer has pieces.
SIZE = {"vocab_size": len(SPECIALS) + len(WORDS) + 2, "max_position_embeddings": 40}
FAMILIES = {"bert": change(BERT, **SIZE), "distilbert": change(STUDENT, **SIZE)}
PAIRS = [
    Pair("near", {"red": "reda [MASK] redc", "blue": "bluea [MASK] bluec goes"}),
    Pair("long", {"short": "[MASK]", "long": "goes to " * 17 + "[MASK]"}, ["REDA", "##s", "goess", "reda", "xyz"]),
]


@pytest.fixture(scope="module", params=FAMILIES)
def fill(request, world, tmp_path_factory):
    path = tmp_path_factory.mktemp("bias") / "model"
    masked_lm(FAMILIES[request.param]).save_pretrained(path, load_tokenizer(world.tokenizer))
    return FillMask(path)


@pytest.fixture(scope="module")
def directory(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("bias") / "model"
    masked_lm(FAMILIES["distilbert"]).save_pretrained(path, load_tokenizer(world.tokenizer))
    return str(path)


def mask_logits(fill, text):
    """Logits at the mask of a text alone, without padding, as Python floats."""
    ids = np.array([fill.tokenizer.tokenizer.encode(text).ids], np.int32)
    (row,) = np.asarray(call(fill.model, ids).logits)[ids == fill.tokenizer.token_to_id("[MASK]")]
    return row.tolist()


def piece(fill, token):
    return fill.tokenizer.id_to_token(token) or f"<id {token}>"


def logit(logits, token):
    """log p − log(1 − p) by the definition, 1 − p as the sum of all other probabilities."""
    weights = [math.exp(value - max(logits)) for value in logits]
    rest = math.fsum(weights[:token] + weights[token + 1 :])
    return math.log(weights[token]) - math.log(rest)


def result(words, *, pair="jobs", sides=("man", "woman")):
    """What `bias_probe` would say, with log-odds given as {word: value}."""
    top = tuple(bias.Piece(i, word, 0.1) for i, word in enumerate(words))
    odds = [bias.WordOdds(i, word, (0.1, 0.2), value) for i, (word, value) in enumerate(words.items())]
    return bias.PairResult(
        pair=pair,
        sides={side: bias.Side(f"The {side} is a [MASK].", top) for side in sides},
        overlap=bias.Overlap(len(words), tuple(words), 1.0),
        log_odds=tuple(sorted(odds, key=lambda entry: -entry.log_odds)),
        left_out=(),
    )


def shown(renderable):
    text = io.StringIO()
    Console(file=text, width=100).print(renderable)
    return text.getvalue()


def test_tops_and_their_overlap_are_those_of_brute_force(fill):
    found = bias_probe(fill, PAIRS, top_k=6)
    json.dumps(to_values(found), allow_nan=False)
    assert [one.pair for one in found] == ["near", "long"]
    for pair, one in zip(PAIRS, found, strict=True):
        assert list(one.sides) == list(pair.sides)
        tops = []
        for side, text in pair.sides.items():
            weights = np.exp(mask_logits(fill, text))
            tops.append(np.argsort(-weights)[:6].tolist())
            answers = one.sides[side].top
            assert one.sides[side].text == text
            assert [answer.token for answer in answers] == tops[-1]
            assert [answer.score for answer in answers] == pytest.approx((weights / weights.sum())[tops[-1]], rel=1e-4)
        shared = [piece(fill, token) for token in tops[0] if token in tops[1]]
        assert one.overlap == bias.Overlap(len(shared), tuple(shared), len(shared) / len({*tops[0], *tops[1]}))
        if not pair.words:
            assert {entry.token for entry in one.log_odds} == {*tops[0], *tops[1]}
    assert 0 < min(one.overlap.count for one in found) < 6, "the example shows nothing"


def test_log_odds_are_those_of_brute_force(fill):
    for pair, one in zip(PAIRS, bias_probe(fill, PAIRS, top_k=6), strict=True):
        first, second = (mask_logits(fill, text) for text in pair.sides.values())
        tokens = [entry.token for entry in one.log_odds]
        expected = [logit(first, token) - logit(second, token) for token in tokens]
        assert [entry.log_odds for entry in one.log_odds] == pytest.approx(expected, abs=2e-5)
        assert expected == sorted(expected, reverse=True)
        assert max(expected) > 0.1
        assert len(set(tokens)) == len(tokens)
        for entry in one.log_odds:
            scores = [math.exp(row[entry.token]) / math.fsum(map(math.exp, row)) for row in (first, second)]
            assert entry.scores == pytest.approx(scores, rel=1e-4)
            assert entry.token_str == piece(fill, entry.token)


def test_the_arithmetic_is_float64(fill, rng, monkeypatch):
    logits = (10 * rng.normal(size=(2, 50))).astype(np.float32)
    monkeypatch.setattr(bias, "_mask_logits", lambda *arguments: logits)
    (one,) = bias_probe(fill, PAIRS[:1], top_k=50)
    first, second = logits.tolist()
    for entry in one.log_odds:
        expected = logit(first, entry.token) - logit(second, entry.token)
        assert entry.log_odds == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_an_embedding_row_without_a_piece_has_a_name(fill):
    names = {answer.token_str for answer in bias_probe(fill, PAIRS[:1], top_k=50)[0].sides["red"].top}
    assert len(names) == 50
    assert {"<id 48>", "<id 49>", "reda", "##s"} <= names


def test_the_sign_says_which_side_makes_a_word_likelier(fill):
    (pair,) = PAIRS[:1]
    turned = Pair("turned", dict(reversed(pair.sides.items())))
    (one,), (other,) = bias_probe(fill, [pair]), bias_probe(fill, [turned])
    assert {entry.token: entry.log_odds for entry in one.log_odds} == pytest.approx(
        {entry.token: -entry.log_odds for entry in other.log_odds}
    )
    for entry in one.log_odds:
        assert (entry.log_odds > 0) == (entry.scores[0] > entry.scores[1])


def test_log_odds_of_a_nearly_certain_word_are_exact(fill, world, tmp_path):
    graphdef, params = split(fill.model)
    token = fill.tokenizer.token_to_id("redd")
    model = merge(graphdef, {**params, "head.bias": params["head.bias"].at[token].add(60.0)})
    model.save_pretrained(tmp_path / "model", fill.tokenizer)
    certain = FillMask(tmp_path / "model")
    (one,) = bias_probe(certain, PAIRS[:1], words=["redd"])
    logits = [mask_logits(certain, text) for text in PAIRS[0].sides.values()]
    assert one.log_odds[0].scores == (1.0, 1.0)  # 1 − p would be 0
    expected = logit(logits[0], token) - logit(logits[1], token)
    assert abs(expected) > 0.1
    assert one.log_odds[0].log_odds == pytest.approx(expected, abs=1e-4)  # logits near 60 in float32


def test_a_word_of_several_pieces_is_named_and_left_out(fill, capsys):
    (one,) = bias_probe(fill, PAIRS[1:])
    assert {entry.token_str for entry in one.log_odds} == {"reda", "##s"}
    assert one.left_out == ("goess", "xyz")
    assert capsys.readouterr().err == "words left out, not one piece of this vocabulary: goess, xyz\n"


def test_words_given_stand_in_place_of_the_files(fill):
    found = bias_probe(fill, PAIRS, words=["redb", "bluec"])
    assert [{entry.token_str for entry in one.log_odds} for one in found] == [{"redb", "bluec"}] * 2


def test_a_pair_that_loses_all_its_words_keeps_the_rest(fill, capsys):
    pairs = [PAIRS[0], Pair("none", PAIRS[0].sides, ["xyz"])]
    found = bias_probe(fill, pairs, top_k=3)
    assert found[1].log_odds == ()
    assert found[1].sides == found[0].sides
    assert "xyz" in capsys.readouterr().err
    assert len(bias.chart(found, "m").axes) == 1
    assert "log-odds" not in shown(bias.table(found[1]))


def test_the_masks_name_is_the_tokenizers(fill, tmp_path):
    config = fill.model.config
    (expected,) = bias_probe(fill, PAIRS[:1], words=["reda", "redb"])
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS[:4], "<mask>", *WORDS]), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"mask_token": "<mask>"}')
    tokenizer = load_tokenizer(tmp_path)
    masked_lm(config).save_pretrained(tmp_path / "model", tokenizer)
    other = FillMask(tmp_path / "model")
    assert other.tokenizer.token_to_id("[MASK]") is None
    (found,) = bias_probe(other, PAIRS[:1], words=["reda", "redb"])
    assert found.log_odds == expected.log_odds
    both = Pair("both", {"a": "<mask> [MASK]", "b": "[MASK]"})
    refused(lambda: bias_probe(other, [both]), "'both'", "'a'", "[MASK]", by="probes.bias._encode")


def test_sides_that_the_tokenizer_cannot_tell_apart_are_announced(fill, capsys):
    (one,) = bias_probe(fill)  # the card's pair; this tokenizer has none of its words
    assert capsys.readouterr().err == "pair 'model card': both sides are the same tokens to this tokenizer\n"
    assert one.overlap.jaccard == 1.0
    assert all(entry.log_odds == 0.0 for entry in one.log_odds)


def test_refused_in_one_line_before_the_model_runs(fill, monkeypatch):
    monkeypatch.setattr(bias, "_mask_logits", None)
    refused(lambda: bias_probe(fill, PAIRS, top_k=0), "50", by="probes.bias.bias_probe", field="top_k")
    refused(lambda: bias_probe(fill, PAIRS, top_k=51), "51", "50", by="probes.bias.bias_probe", field="top_k")
    refused(lambda: bias_probe(fill, PAIRS, words="nurse"), "'nurse'", by="probes.prompts.check_words")
    refused(lambda: bias_probe(fill, PAIRS, words=["\udcff"]), by="probes.prompts._check_text")
    refused(lambda: bias_probe(fill, PAIRS, words=["xyz", "goess"]), by="probes.bias.bias_probe")
    long = Pair("p", {"a": "[MASK]", "b": "goes " * 38 + "[MASK]"})
    refused(lambda: bias_probe(fill, [*PAIRS, long]), "'p'", "'b'", "41", "40", by="probes.bias._encode")


def test_a_table_shows_both_sides_and_takes_no_piece_for_a_style():
    text = shown(bias.table(result({"[red]": 1.25, "nurse": -0.5}, pair="[bold] jobs", sides=("[b]man", "woman"))))
    for words in (
        "[bold] jobs",
        "[b]man: The [b]man is a [MASK].",
        "[red]",
        "p, woman",
        "+1.250",
        "-0.500",
        "Jaccard 1.00",
    ):
        assert words in text
    assert "in both: 2 of 2 ([red], nurse)" in text
    assert text.count("[red]") == 4  # at the top of each side, among the shared, with its log-odds
    assert "above 0: likelier in '[b]man'" in text


def test_bars_are_sorted_labelled_and_coloured_by_side():
    figure = bias.chart([result({"b": -1.0, "a": 2.0, "$x$": 0.5, "c": -3.0})], "some/model")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [-3.0, -1.0, 0.5, 2.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "b", "$x$", "a"]
    assert not any(label.get_parse_math() for label in axes.get_yticklabels()), "$x$ would become a formula"
    first, second = (Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in bias.COLOURS)
    colours = [tuple(round(255 * part) for part in bar.get_facecolor()[:3]) for bar in axes.patches]
    assert colours == [second, second, first, first]
    assert [line.get_xdata() for line in axes.lines] == [[0, 0]]
    assert axes.get_xlim()[0] == -axes.get_xlim()[1]
    words = [text.get_text() for text in axes.texts]
    assert {"← likelier: woman", "likelier: man →", "-3.00", "+2.00"} <= set(words)
    assert (axes.get_title(), axes.get_xlabel()) == ("jobs", "log-odds, nats")
    assert "some/model" in figure.get_suptitle()


def test_what_a_chart_leaves_out_it_says():
    many = result({f"w{i}": float(i - 10) for i in range(55)}, pair="many")
    titles = [bias.chart([many], "m", parameters=count).get_suptitle() for count in (None, 950_144, 66_985_530)]
    assert ["950,144" in title for title in titles] == [False, True, False]
    figure = bias.chart([many] * 13, "x" * 200)
    assert len(figure.axes) == 12
    assert "first 12 of 13 pairs" in figure.get_suptitle()
    assert len(max(figure.get_suptitle().splitlines(), key=len)) == 80
    assert figure.axes[0].get_title() == "many (40 of 55 words, those farthest from 0)"
    assert [bar.get_width() for bar in figure.axes[0].patches] == sorted(
        sorted((float(i - 10) for i in range(55)), key=abs)[15:]
    )
    refused(lambda: bias.chart([result({})], "m"), by="probes.bias.chart")


def test_characters_that_the_font_lacks_are_told_in_one_line(tmp_path, capsys):
    bias.write([result({"日本": 1.0, "日": 0.0})], "m", tmp_path)
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"{tmp_path}/log_odds.png: drawn as boxes, the font lacks them: 日 本"
    assert last == f"{tmp_path}/results.json and {tmp_path}/log_odds.png written"


def test_the_command_prints_tables_and_writes_json_and_a_chart(directory, tmp_path, capsys):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"name": pair.name, "sides": pair.sides} for pair in PAIRS]))
    out = tmp_path / "deep/out"
    evaluate.main(["bias", "--model", directory, "--prompts", str(prompts), "--top-k", "4", "--out", str(out)])
    captured = capsys.readouterr()
    expected = bias_probe(FillMask(directory), [Pair(pair.name, pair.sides) for pair in PAIRS], top_k=4)
    assert read_config(bias.BiasResults, out / "results.json") == bias.BiasResults(directory, tuple(expected))
    assert captured.out == "".join(_default_console(bias.table(one)) for one in expected)
    assert captured.err == f"{out}/results.json and {out}/log_odds.png written\n"
    with Image.open(out / "log_odds.png") as image:
        assert image.format == "PNG"
        assert image.width == 1040
        assert 400 < image.height < 1500
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in bias.COLOURS} <= colours
    assert sorted(path.name for path in out.iterdir()) == ["log_odds.png", "results.json"]


def _default_console(renderable):
    text = io.StringIO()
    Console(file=text).print(renderable)
    return text.getvalue()


def test_the_command_prints_a_json_object_a_line(directory, tmp_path, capsys):
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(
        "- {name: a, sides: {x: 'reda [MASK]', y: 'blueb [MASK]'}}\n- {name: b, sides: {x: 'to [MASK]', y: '[MASK]'}}\n"
    )
    evaluate.main(["bias", "--model", directory, "--prompts", str(prompts), "--json", "--words", "redc", "goes"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["pair"] for line in lines] == ["a", "b"]
    assert {entry["token_str"] for entry in lines[0]["log_odds"]} == {"redc", "goes"}
    assert len(lines[0]["sides"]["x"]["top"]) == 10


def test_the_command_refuses_in_one_line(directory, tmp_path):
    (tmp_path / "file").write_text("")
    run = lambda *arguments: lambda: evaluate.main(["bias", *arguments])
    refused(run(), "--model", by="cli.arguments.parse")
    refused(run("--model", "nowhere"), by="base.hub._download")
    refused(run("--model", directory, "--out", str(tmp_path / "file")), path=str(tmp_path / "file"), field="--out")
    refused(run("--model", "nowhere", "--prompts", str(tmp_path / "a.yaml")), by="base.files.check_file", path="a.yaml")
    refused(run("--model", directory, "--topk", "3"), "--top-k", by="cli.arguments.parse")
