"""BERT's WordPiece tokenizer: trained from text, loaded from and saved as the files that Hugging Face reads."""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from distilbert_jax.base.files import atomic_file, read_json, write_json
from distilbert_jax.base.hub import locate
from distilbert_jax.base.parsing import call
from distilbert_jax.base.progress import progress
from distilbert_jax.data.text import TextSources
from distilbert_jax.errors import InputError, one_line_errors

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_SMALLEST_VOCABULARY = 64


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids of BERT's special tokens."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


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
        InputError: `vocab_size` is too small, or there are no words.
    """
    if vocab_size < _SMALLEST_VOCABULARY:
        raise InputError(f"vocab_size = {vocab_size} is too small for an alphabet: use {_SMALLEST_VOCABULARY} or more")
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
    return _bert_tokenizer(scratch.get_vocab(), normalizer)


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


def _bert_tokenizer(vocabulary: dict[str, int], normalizer: normalizers.Normalizer) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    present = [token for token in SPECIAL_TOKENS.values() if token in vocabulary]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in present])
    if "[CLS]" in vocabulary and "[SEP]" in vocabulary:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
        )
    return tokenizer


def load_tokenizer(path: str | Path, revision: str | None = None) -> Tokenizer:
    """Load a tokenizer from a `tokenizer.json`, or from a directory or hub id that has one or else BERT's `vocab.txt`.

    Truncation and padding are switched off: some published files have them on, and would cut every line of a corpus.

    Raises:
        InputError: nothing to load is there, or it cannot be read as a tokenizer.
    """
    file = Path(path)
    if not file.is_file():
        directory = locate(path, revision)
        file = directory / "tokenizer.json"
    if not file.is_file() and (directory / "vocab.txt").is_file():
        tokenizer = _load_vocabulary(directory)
    elif not file.is_file():
        raise InputError(f"{path}: no tokenizer.json or vocab.txt in this directory")
    else:
        try:
            tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises nothing more special for a file it cannot parse
            raise InputError(f"{file}: not a tokenizer that can be read ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _load_vocabulary(directory: Path) -> Tokenizer:
    file = directory / "vocab.txt"
    try:
        # Not splitlines(): some vocabularies have a Unicode line separator as a token.
        tokens = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a vocabulary in UTF-8 ({error})") from error
    settings = directory / "tokenizer_config.json"
    settings = read_json(settings) if settings.is_file() else {}
    if "[UNK]" not in tokens:
        raise InputError(f"{file}: no [UNK] among its {len(tokens)} lines: not the vocabulary of a BERT")
    normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    return _bert_tokenizer({token: index for index, token in enumerate(tokens)}, normalizer)


def save_tokenizer(tokenizer: Tokenizer, directory: str | os.PathLike, *, model_max_length: int = 512) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, so that `transformers.AutoTokenizer` loads the directory.

    Args:
        model_max_length: tokens that the model has positions for.
    """
    directory = Path(directory)
    normalizer = json.loads(tokenizer.to_str())["normalizer"] or {}
    settings = {
        "tokenizer_class": "BertTokenizer",
        "model_max_length": model_max_length,
        "do_lower_case": normalizer.get("lowercase", False),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
        **{f"{name}_token": token for name, token in SPECIAL_TOKENS.items()},
    }
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(directory / "tokenizer.json") as file:
        file.write(tokenizer.to_str(pretty=True).encode())
    write_json(directory / "tokenizer_config.json", settings)


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256, in hex, of all that decides which ids a text gets: normalizer, pre-tokenizer, model and added tokens."""
    parts = json.loads(tokenizer.to_str())
    deciding = {name: parts[name] for name in ("normalizer", "pre_tokenizer", "model", "added_tokens")}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def entries(tokenizer: Tokenizer) -> int:
    """Rows that an embedding needs: the largest id and 1."""
    return max(tokenizer.get_vocab().values()) + 1


def check_fit(tokenizer: Tokenizer, embeddings: int, where: str) -> None:
    """Raise InputError unless every piece has one of an embedding's rows, and a text comes between [CLS] and [SEP]."""
    if entries(tokenizer) > embeddings:
        raise InputError(f"{where}: its tokenizer needs {entries(tokenizer)} rows, the embedding has only {embeddings}")
    ids, framed = special_ids(tokenizer), tokenizer.encode("a").ids
    if framed[:1] != [ids.cls] or framed[-1:] != [ids.sep]:
        raise InputError(f"{where}: its tokenizer puts no [CLS] before a text and no [SEP] behind: not that of a BERT")


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Ids of [PAD], [UNK], [CLS], [SEP] and [MASK].

    Raises:
        InputError: the tokenizer lacks one of them.
    """
    ids = {name: tokenizer.token_to_id(token) for name, token in SPECIAL_TOKENS.items()}
    missing = [SPECIAL_TOKENS[name] for name, index in ids.items() if index is None]
    if missing:
        raise InputError(f"the tokenizer has no {' '.join(missing)}: a tokenizer of BERT's kind is needed")
    return SpecialIds(**ids)


def command(text: tuple[Path, ...], vocab_size: int, out: Path, lowercase: bool = True) -> None:
    """Train a WordPiece tokenizer on text files.

    Args:
        text: .txt, .txt.xz or .txt.gz files, UTF-8.
        vocab_size: entries of the vocabulary, special tokens included.
        out: directory for tokenizer.json and tokenizer_config.json.
        lowercase: lower-case the text and strip accents, as the uncased models do.
    """
    sources = TextSources(text)
    with progress("reading text", sources.size) as done:

        def lines() -> Iterator[str]:
            for line in sources.lines():
                done(sources.position)
                yield line

        tokenizer = train_wordpiece(lines(), vocab_size, lowercase=lowercase)
    size = f"{tokenizer.get_vocab_size():,} entries"
    if (out / "tokenizer.json").exists():
        if fingerprint(load_tokenizer(out)) != fingerprint(tokenizer):
            raise InputError(f"{out}: holds another tokenizer; name another directory, or remove this one")
        print(f"tokenizer: {size}, found equal in {out}")
        return
    save_tokenizer(tokenizer, out)
    print(f"tokenizer: {size} from {len(text)} file(s), written to {out}")


if __name__ == "__main__":
    with one_line_errors():
        call(command, "distilbert_jax.data.tokenizer")
