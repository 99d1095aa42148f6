"""Rows for the tests of training: random sequences, packed, padded or alone; and how to compile a test quickly."""

import functools

import jax
import numpy as np

SPECIAL, MASK = (0, 1, 2, 3, 4), 4
# LLVM without optimisation compiles in half the time; XLA's own passes, and so the HLO, stay the same.
QUICK_COMPILE = {"xla_backend_optimization_level": 0}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK_COMPILE)


def pack(rows, length):
    """Rows of sequences (arrays of ids) as one batch: input_ids, segment_ids, position_ids, int32 [rows, length]."""
    batch = {name: np.zeros((len(rows), length), np.int32) for name in ("input_ids", "segment_ids", "position_ids")}
    for row, sequences in enumerate(rows):
        end = 0
        for segment, ids in enumerate(sequences, start=1):
            start, end = end, end + len(ids)
            batch["input_ids"][row, start:end] = ids
            batch["segment_ids"][row, start:end] = segment
            batch["position_ids"][row, start:end] = np.arange(len(ids))
    return batch


def random_pairs(rng, rows, length, vocab_size):
    """Rows `[CLS] A [SEP] B [SEP]` of different lengths with labels of next-sentence prediction."""
    batch = {name: np.zeros((rows, length), np.int32) for name in ("input_ids", "segment_ids", "token_type_ids")}
    for row in range(rows):
        tokens = int(rng.integers(7, length + 1))
        middle = int(rng.integers(3, tokens - 2))
        batch["input_ids"][row, :tokens] = rng.integers(len(SPECIAL), vocab_size, tokens)
        batch["input_ids"][row, [0, middle - 1, tokens - 1]] = 2, 3, 3
        batch["segment_ids"][row, :tokens] = 1
        batch["token_type_ids"][row, middle:tokens] = 1
    return {**batch, "next_sentence_label": rng.integers(0, 2, rows).astype(np.int32)}


def random_batch(rng, rows, length, vocab_size):
    """Rows of one to four sequences `[CLS] … [SEP]`, some with padding at the end, so that no two rows weigh the same."""
    packed = []
    for _ in range(rows):
        packed.append([])
        left = int(rng.integers(length // 2, length + 1))
        while left >= 4 and len(packed[-1]) < 4:
            size = int(rng.integers(4, left + 1))
            packed[-1].append(np.array([2, *rng.integers(len(SPECIAL), vocab_size, size - 2), 3]))
            left -= size
    return pack(packed, length)
