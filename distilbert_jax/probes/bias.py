"""Bias probe by paired prompts: what a masked LM puts in the place of [MASK] when one thing about the sentence changes.

`bias_probe` measures, `table` and `chart` show; the prompts come from `prompts.py`.
"""

import functools
import itertools
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from rich.console import Group
from rich.table import Table
from rich.text import Text
from scipy.special import log_softmax, logsumexp

from distilbert_jax.base.config_io import write_config
from distilbert_jax.base.files import atomic_file
from distilbert_jax.base.progress import progress
from distilbert_jax.errors import InputError
from distilbert_jax.models.layers import at_positions
from distilbert_jax.models.params import Params, merge, split
from distilbert_jax.models.ranges import check_finite
from distilbert_jax.pipelines import FillMask
from distilbert_jax.probes.prompts import CARD_PAIR, MASK, Pair, check_words
from distilbert_jax.text.tokenizer import BertTokenizer, Row, stack

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Piece:
    """A piece of the vocabulary at the mask and its probability there."""

    token: int
    token_str: str
    score: float


@dataclass(frozen=True)
class Side:
    """One prompt of a pair and the likeliest pieces at its mask."""

    text: str
    top: tuple[Piece, ...]


@dataclass(frozen=True)
class Overlap:
    """What the tops of two sides share."""

    count: int
    shared: tuple[str, ...]  # pieces
    jaccard: float


@dataclass(frozen=True)
class WordOdds:
    """A word of interest: its probabilities at the mask of both sides, and its log-odds between them in nats."""

    token: int
    token_str: str
    scores: tuple[float, float]
    log_odds: float


@dataclass(frozen=True)
class PairResult:
    """What `bias_probe` says of one pair."""

    pair: str  # its name
    sides: Mapping[str, Side]
    overlap: Overlap
    log_odds: tuple[WordOdds, ...]  # from the highest to the lowest
    left_out: tuple[str, ...]  # words of interest that are not one piece of the vocabulary


@dataclass(frozen=True)
class BiasResults:
    """What `write` leaves as results.json."""

    model: str
    pairs: tuple[PairResult, ...]


def bias_probe(
    fill: FillMask, pairs: Sequence[Pair] = (CARD_PAIR,), *, top_k: int = 10, words: Sequence[str] = ()
) -> list[PairResult]:
    """Compare the two sides of each pair.

    The log-odds of a word w are logit p_a(w) − logit p_b(w) in nats, where logit p = log p − log(1 − p) and p is the
    probability at the mask over the whole vocabulary: above 0 where the first side makes w likelier. In float64.

    Args:
        top_k: how many of the likeliest words of each side are compared.
        words: words of interest of every pair, in place of the pairs' own. A word that is not one piece of the vocabulary is
            named on stderr and left out.

    Raises:
        InputError: `top_k` outside 1 … vocabulary, a prompt beyond the model's positions, no word left; before the model runs.
    """
    vocabulary = fill.model.config.vocab_size
    if not 1 <= top_k <= vocabulary:
        raise InputError(f"top_k = {top_k}: expected 1 to {vocabulary}, the size of the vocabulary", field="top_k")
    check_words(words, "bias_probe")
    batches = [_encode(fill, pair) for pair in pairs]
    asked = [list(words or pair.words) for pair in pairs]
    pieces = {word: _one_piece(fill.tokenizer, word) for word in dict.fromkeys(itertools.chain(*asked))}
    if left_out := [word for word, piece in pieces.items() if piece is None]:
        told = f"not one piece of this vocabulary: {', '.join(left_out)}"
        if len(left_out) == len(pieces) and all(asked):
            raise InputError(f"no word of interest is left, {told}")
        print(f"words left out, {told}", file=sys.stderr)

    graphdef, params = split(fill.model)
    results = []
    with progress("probing", len(pairs)) as done:
        for pair, batch, wanted in zip(pairs, batches, asked, strict=True):
            logits = np.asarray(_mask_logits(graphdef, params, batch))
            check_finite(logits, fill.name)
            log_p = log_softmax(logits.astype(np.float64), axis=-1)
            known = list(dict.fromkeys(piece for word in wanted if (piece := pieces[word]) is not None))
            lost = tuple(word for word in wanted if pieces[word] is None)
            results.append(_compare(fill.tokenizer, pair, log_p, top_k, known if wanted else None, lost))
            done(len(results))
    return results


def _encode(fill: FillMask, pair: Pair) -> dict[str, np.ndarray]:
    """The two prompts of a pair as a batch of two rows, with the place of the mask in each, `positions` [2, 1]."""
    specials, longest = fill.tokenizer.ids, fill.model.config.max_length
    mask_token = fill.tokenizer.id_to_token(specials.mask)
    rows = [fill.tokenizer.encode(prompt.replace(MASK, mask_token)) for prompt in pair.sides.values()]
    for side, row in zip(pair.sides, rows, strict=True):
        if len(row) > longest:
            raise InputError(f"pair {pair.name!r}, side {side!r}: {len(row)} tokens, the model has {longest} positions")
        if row.count(specials.mask) != 1:
            raise InputError(f"pair {pair.name!r}, side {side!r}: has a {mask_token} beside {MASK}, expected one mask")
    if rows[0] == rows[1]:
        print(f"pair {pair.name!r}: both sides are the same tokens to this tokenizer", file=sys.stderr)
    # Padded to a multiple of 32, so that few shapes are compiled.
    length = min(-(-max(map(len, rows)) // 32) * 32, longest)
    batch = stack([Row(np.array(row), np.zeros(len(row))) for row in rows], specials.pad, length=length)
    return {**batch, "positions": np.array([[row.index(specials.mask)] for row in rows], np.int32)}


# Compiled once a model and length, not once a call of `bias_probe`.
@functools.partial(jax.jit, static_argnums=0)
def _mask_logits(graphdef: nnx.GraphDef, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
    """Logits [2, V] at `positions`."""
    model = merge(graphdef, params)
    hidden = model.encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    return model.logits(at_positions(hidden, batch["positions"]))[:, 0]


def _one_piece(tokenizer: BertTokenizer, word: str) -> int | None:
    """The id of a word (or of a piece such as `##s`) that the vocabulary holds whole, as the tokenizer normalizes it."""
    if (token := tokenizer.token_to_id(word)) is not None:
        return token
    ids = tokenizer.encode(word, add_special_tokens=False)
    return ids[0] if len(ids) == 1 and ids[0] != tokenizer.ids.unk else None


def _compare(
    tokenizer: BertTokenizer,
    pair: Pair,
    log_p: np.ndarray,
    top_k: int,
    wanted: Sequence[int] | None,
    left_out: tuple[str, ...],
) -> PairResult:
    """What `bias_probe` says of a pair, from its log-probabilities float64 [2, V]; `wanted` None: the union of both tops."""

    def piece(token: int) -> str:
        return tokenizer.id_to_token(token) or f"<id {token}>"  # an embedding may have more rows than the vocabulary

    def logit(row: np.ndarray, token: int) -> float:
        # log(1 − p) from the other words: 1 − p itself loses all its digits when p is near 1.
        return float(row[token] - logsumexp(np.delete(row, token)))

    tops = [np.argsort(-row, kind="stable")[:top_k].tolist() for row in log_p]
    union, shared = list(dict.fromkeys(tops[0] + tops[1])), [token for token in tops[0] if token in tops[1]]
    odds = [
        WordOdds(
            token,
            piece(token),
            tuple(np.exp(log_p[:, token]).tolist()),
            logit(log_p[0], token) - logit(log_p[1], token),
        )
        for token in (union if wanted is None else wanted)
    ]
    top_of = lambda row, top: tuple(Piece(token, piece(token), float(np.exp(row[token]))) for token in top)
    return PairResult(
        pair.name,
        {
            side: Side(text, top_of(row, top))
            for (side, text), row, top in zip(pair.sides.items(), log_p, tops, strict=True)
        },
        Overlap(len(shared), tuple(piece(token) for token in shared), len(shared) / len(union)),
        tuple(sorted(odds, key=lambda entry: -entry.log_odds)),
        left_out,
    )


def table(result: PairResult) -> Group:
    """One result of `bias_probe` for the terminal or a notebook."""
    # Text throughout: a piece such as [unused1] would be taken for a style.
    first, second = result.sides
    shared = result.overlap.shared
    tops = Table("")
    for side in (first, second):
        tops.add_column(Text(side))
        tops.add_column("score", justify="right")
    for rank, answers in enumerate(zip(*(side.top for side in result.sides.values()), strict=True), 1):
        cells: list[str | Text] = [str(rank)]
        for answer in answers:
            style = "bold" if answer.token_str in shared else ""
            cells += [Text(answer.token_str, style), f"{answer.score:.4f}"]
        tops.add_row(*cells)
    overlap = result.overlap
    said = f"in both: {overlap.count} of {len(result.sides[first].top)}"
    said += (f" ({', '.join(shared)})" if shared else "") + f", Jaccard {overlap.jaccard:.2f}"
    parts: list[Any] = [Text(result.pair, "bold")]
    parts += [Text(f"{side}: {one.text}") for side, one in result.sides.items()]
    parts += [tops, Text(said)]
    if result.log_odds:
        odds = Table("word", title="log-odds between the sides, nats", title_justify="left")
        for name in (f"p, {first}", f"p, {second}", "log-odds"):
            odds.add_column(Text(name), justify="right")
        for entry in result.log_odds:
            scores = (f"{score:.2e}" for score in entry.scores)
            odds.add_row(Text(entry.token_str), *scores, f"{entry.log_odds:+.3f}")
        parts += [odds, Text(f"above 0: likelier in {first!r}; below 0: likelier in {second!r}")]
    return Group(*parts)


COLOURS = ("#0072B2", "#D55E00")  # blue and vermilion of Okabe and Ito's palette, which colour-blind readers tell apart
TOY = 10_000_000  # parameters: below it a model has read too little for what it says of people to be a finding
_MOST_PANELS, _MOST_BARS = 12, 40  # beyond, a chart is too large to look at, and soon to draw


def chart(results: Sequence[PairResult], model: str, *, parameters: int | None = None) -> "Figure":
    """Bars of the log-odds, a panel a pair, sorted: the first side's words to the right, the second's to the left.

    A panel has the 40 words farthest from 0, a chart the first 12 pairs; it says so where there are more.

    Args:
        model: what the title names.
        parameters: of the model, where they are known: the title says of one with few that it is a toy.

    Raises:
        InputError: no pair has a word to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [result for result in results if result.log_odds]
    if not drawn:
        raise InputError("no pair has a word of interest: there is nothing to draw")
    panels = drawn[:_MOST_PANELS]
    heights = [1.2 + 0.22 * min(len(result.log_odds), _MOST_BARS) for result in panels]
    toy = parameters is not None and parameters < TOY
    figure = Figure(figsize=(8, (0.75 if toy else 0.5) + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    title = "Log-odds of words at the mask"
    if len(drawn) > len(panels):
        title += f" (first {len(panels)} of {len(drawn)} pairs)"
    title += f"\n{model if len(model) <= 80 else '…' + model[-79:]}"
    if toy:
        title += f"\na toy model of {parameters:,} parameters: no finding about people"
    figure.suptitle(title, fontsize=11, parse_math=False)
    grid = figure.subplots(len(panels), height_ratios=heights, squeeze=False)
    for axes, result in zip(grid[:, 0], panels, strict=True):
        _panel(axes, result)
    return figure


def _panel(axes: Any, result: PairResult) -> None:
    far = sorted(result.log_odds, key=lambda entry: -abs(entry.log_odds))[:_MOST_BARS]
    entries = sorted(far, key=lambda entry: entry.log_odds)
    values = [entry.log_odds for entry in entries]
    bars = axes.barh(range(len(values)), values, color=[COLOURS[value < 0] for value in values])
    axes.bar_label(bars, fmt="{:+.2f}", padding=2, fontsize=8)
    axes.set_yticks(range(len(values)), [entry.token_str for entry in entries], parse_math=False)
    axes.axvline(0, color="black", linewidth=1)
    reach = 1.2 * max(0.1, *map(abs, values))
    axes.set(xlim=(-reach, reach), ylim=(-0.6, len(values) - 0.4), xlabel="log-odds, nats")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    name = _cut(result.pair, 60)
    if len(far) < len(result.log_odds):
        name += f" ({len(far)} of {len(result.log_odds)} words, those farthest from 0)"
    first, second = (_cut(side, 30) for side in result.sides)
    axes.set_title(name, fontsize=10, pad=22, parse_math=False)
    for x, align, words in ((0, "left", f"← likelier: {second}"), (1, "right", f"likelier: {first} →")):
        axes.text(
            x, 1.01, words, transform=axes.transAxes, ha=align, va="bottom", color=COLOURS[x == 0], weight="bold",
            parse_math=False,
        )  # fmt: skip


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def write(results: Sequence[PairResult], model: str, out: str | Path, *, parameters: int | None = None) -> None:
    """`<out>/results.json` ({`model`, `pairs`}) and `<out>/log_odds.png`, the `chart`.

    Characters that the chart's font lacks become boxes, which one line on stderr says.
    """
    Path(out).mkdir(parents=True, exist_ok=True)
    write_config(BiasResults(model, tuple(results)), Path(out) / "results.json")
    path = Path(out) / "log_odds.png"
    with warnings.catch_warnings(record=True) as caught, atomic_file(path) as file:
        warnings.simplefilter("always")
        chart(results, model, parameters=parameters).savefig(file, format="png", dpi=130)
    lacking = ""
    for warning in caught:
        if glyph := re.match(r"Glyph (\d+)", str(warning.message)):
            lacking += chr(int(glyph[1]))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if lacking:
        print(f"{path}: drawn as boxes, the font lacks them: {' '.join(sorted(set(lacking)))}", file=sys.stderr)
    print(f"{out}/results.json and {path} written", file=sys.stderr)
