"""Scores of several tokens together: of the masks of a text, and of the pieces of one word.

A masked LM gives the probability of one token in the place of one mask. Both scores here are products of such probabilities by
the chain rule, from left to right.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from distilbert_jax.text.tokenizer import Row

Ids = Sequence[int] | np.ndarray  # of tokens, or their positions: [n]
# (rows, for each its positions) → for each row, in any order, its index and log P of every token there: float32 [≥ positions, V]
Forward = Callable[[Sequence[Row], Sequence[Ids]], Iterator[tuple[int, np.ndarray]]]
Hypothesis = tuple[float, tuple[int, ...]]  # log P in nats, tokens


def joint_search(
    forward: Forward, rows: Sequence[Row], masks: Sequence[np.ndarray], candidates: np.ndarray, width: int
) -> list[list[Hypothesis]]:
    """The likeliest fillings of all masks of each row, best first, by a beam search.

    P(w₁ … wₘ) = Π P(wⱼ | row with w₁ … wⱼ₋₁ filled in and the masks from the j-th on). These scores are exact; that no better
    filling exists is certain only while `width` holds all prefixes of the masks but the last.

    Args:
        masks: positions of each row's masks, at least one.
        candidates: ids that may be filled in.
        width: hypotheses kept after each mask.
    """
    beams: list[list[Hypothesis]] = [[(0.0, ())] for _ in rows]
    for step in range(max(map(len, masks))):
        unfinished = [(i, *hypothesis) for i, beam in enumerate(beams) if step < len(masks[i]) for hypothesis in beam]
        filled = [rows[i]._replace(ids=replaced(rows[i].ids, masks[i][:step], tokens)) for i, _, tokens in unfinished]
        grown: dict[int, list[Hypothesis]] = {i: [] for i, *_ in unfinished}
        for n, values in forward(filled, [masks[i][step : step + 1] for i, *_ in unfinished]):
            (i, so_far, tokens), log_p = unfinished[n], values[0, candidates]
            for best in largest(log_p, width):
                grown[i].append((so_far + float(log_p[best]), (*tokens, int(candidates[best]))))
        for i, hypotheses in grown.items():
            beams[i] = sorted(hypotheses, key=lambda hypothesis: (-hypothesis[0], hypothesis[1]))[:width]
    return beams


def word_log_scores(
    forward: Forward, gaps: Sequence[tuple[Row, int]], words: Sequence[tuple[int, ...]], mask_id: int
) -> np.ndarray:
    """The pseudo-log-likelihood of each word in each gap, in nats: float64 [gaps, words].

    A word of k pieces takes the place of k masks, and Σ log P(pieceᵢ | its pieces left of i filled in, masks from i on) is its
    score: "within-word left-to-right" of Kauf and Ivanova 2023 (arXiv 2305.10588). With the pieces on its right in view too, a
    rare word would look likely, because its own pieces tell one another. For k = 1 it is the plain log-probability.

    Args:
        gaps: a row and the position of its mask.
        words: the pieces of each word, at least one.
    """
    # The gap, its size, the pieces in it so far → the pieces that may come next. What words have in common is asked once.
    asked: dict[tuple[int, int, tuple[int, ...]], set[int]] = {}
    for gap in range(len(gaps)):
        for word in words:
            for n, piece in enumerate(word):
                asked.setdefault((gap, len(word), word[:n]), set()).add(piece)
    questions = list(asked)
    rows = [open_gap(*gaps[gap], filled, size, mask_id) for gap, size, filled in questions]
    positions = [[gaps[gap][1] + len(filled)] for gap, _, filled in questions]
    log_p = {}
    for n, values in forward(rows, positions):
        gap, size, filled = questions[n]
        log_p |= {(gap, size, (*filled, piece)): float(values[0, piece]) for piece in asked[questions[n]]}
    score = lambda gap, word: sum(log_p[gap, len(word), word[: n + 1]] for n in range(len(word)))
    return np.array([[score(gap, word) for word in words] for gap in range(len(gaps))]).reshape(len(gaps), len(words))


def open_gap(row: Row, position: int, filled: Sequence[int], size: int, mask_id: int) -> Row:
    """A row with `size` tokens in the place of the one at `position`: those of `filled`, then masks."""
    gap = [*filled, *[mask_id] * (size - len(filled))]
    put = lambda values, inside: np.concatenate([values[:position], np.array(inside, np.int32), values[position + 1 :]])
    return Row(put(row.ids, gap), put(row.type_ids, [row.type_ids[position]] * size))


def replaced(ids: np.ndarray, positions: Ids, tokens: Ids) -> np.ndarray:
    """A copy of `ids` with `tokens` at `positions`."""
    ids = ids.copy()
    ids[positions] = tokens
    return ids


def largest(values: np.ndarray, k: int) -> np.ndarray:
    """Indices of the `k` largest values (all, if there are fewer), largest first; equal ones by index."""
    some = np.argpartition(-values, k - 1)[:k] if k < len(values) else np.arange(len(values))
    return some[np.lexsort((some, -values[some]))]
