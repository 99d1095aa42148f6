"""Training a WordPiece vocabulary from text, reproducibly."""

from collections import Counter
from collections.abc import Iterator

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from distilbert_jax.errors import InputError
from distilbert_jax.text.tokenizer import SPECIAL_TOKENS
from distilbert_jax.text.tokenizer_files import bert_tokenizer

_SMALLEST_VOCABULARY = 64
_LARGEST_VOCABULARY = 1 << 22  # the trainer makes room for it beforehand


def train_wordpiece(
    texts: Iterator[str], vocab_size: int, *, lowercase: bool = True, min_frequency: int = 2
) -> Tokenizer:
    """Train a WordPiece tokenizer: [PAD] [UNK] [CLS] [SEP] [MASK] have the ids 0 to 4.

    The same texts in any order give the same vocabulary with the same ids. `tokenizers` alone does not: it numbers the
    characters in the order of a hash table, and breaks ties between merges by these numbers.

    Args:
        texts: paragraphs; every one is read once, memory holds the distinct words.
        vocab_size: wanted entries, special tokens included; a small text gives fewer.
        min_frequency: how often a pair of pieces must occur to become one.

    Raises:
        InputError: `vocab_size` is too small or too large, or there are no words.
    """
    check_vocab_size(vocab_size)
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    words = _count_words(texts, normalizer)
    if not words:
        raise InputError("there are no words in the text: nothing to train a tokenizer on")

    characters, continuations = Counter(), set()
    for word, count in words.items():
        for character in word:
            characters[character] += count
        continuations.update(word[1:])
    # BERT keeps 1,000 characters; a small vocabulary has better uses for its entries. The rest becomes [UNK].
    ranked = sorted(characters, key=lambda character: (-characters[character], character))
    alphabet = sorted(ranked[: min(1000, vocab_size // 3)])
    pieces = alphabet + [f"##{character}" for character in alphabet if character in continuations]

    scratch = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    scratch.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        # Handed over as special tokens, characters get the ids of this order.
        special_tokens=[*SPECIAL_TOKENS.values(), *pieces],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    scratch.train_from_iterator(_repeated(words), trainer)
    return bert_tokenizer(scratch.get_vocab(), normalizer)


def check_vocab_size(vocab_size: int) -> None:
    """Raise InputError unless a vocabulary of so many entries can be trained."""
    if vocab_size < _SMALLEST_VOCABULARY:
        raise InputError(
            f"vocab_size = {vocab_size} is too small for an alphabet: use {_SMALLEST_VOCABULARY} or more",
            field="vocab_size",
        )
    if vocab_size > _LARGEST_VOCABULARY:
        raise InputError(
            f"vocab_size = {vocab_size}: expected {_LARGEST_VOCABULARY:,} at most; BERT's are of 30,000 to 120,000",
            field="vocab_size",
        )


def _count_words(texts: Iterator[str], normalizer: normalizers.Normalizer) -> Counter[str]:
    spans = Counter()
    for text in texts:
        spans.update(normalizer.normalize_str(text).split())
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    words = Counter()
    for span, count in spans.items():
        for word, _ in split(span):
            words[word] += count
    return words


def _repeated(words: Counter[str], at_once: int = 1000) -> Iterator[str]:
    """Texts in which each word occurs as often as counted: the trainer takes no counts."""
    for word in sorted(words):
        for done in range(0, words[word], at_once):
            yield " ".join([word] * min(at_once, words[word] - done))
