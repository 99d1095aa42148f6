"""What training begins with: `distilbert-jax corpus`, `tokenizer`, `student`."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from distilbert_jax.base.progress import progress
from distilbert_jax.cli.arguments import calling
from distilbert_jax.errors import InputError


def corpus(
    text: tuple[Path, ...],
    tokenizer: str,
    out: Path,
    processes: int | None = None,
    hosts: int = 1,
    host: int | None = None,
) -> None:
    """Turn text files into a corpus of token shards.

    Several hosts that share a file system each run the command with the same `--hosts` and a `--host` of their own. Each reads all
    text but tokenizes only its shards; the last to end completes the corpus. For a host that was lost, run its command again,
    or the command without these two options, which makes what is missing.

    Args:
        text: .txt, .txt.xz or .txt.gz files, UTF-8, a blank line between documents.
        tokenizer: directory or hub id of a model with tokenizer.json or vocab.txt, or a tokenizer.json.
        out: directory for the corpus.
        processes: how many tokenize at the same time; all cores if not given.
        hosts: among how many hosts the shards are divided.
        host: which of them this is, from 0.
    """
    from distilbert_jax.base.files import check_writable
    from distilbert_jax.pretraining.build_corpus import build_share, totals
    from distilbert_jax.text.tokenizer import load_tokenizer

    if hosts < 1:
        raise InputError(f"--hosts {hosts}: expected at least 1", field="--hosts")
    if hosts > 1 and host is None:
        raise InputError(f"--hosts {hosts}: say with --host 0 … {hosts - 1} which of them this is", field="--hosts")
    check_writable(out, "--out", directory=True)
    start = time.monotonic()
    share = build_share(text, load_tokenizer(tokenizer), out, hosts=hosts, host=host or 0, processes=processes)
    part = "" if hosts == 1 else f"host {host} of {hosts}, its "
    part += f"{share.shards} shards ({share.shards - share.made} found finished), {time.monotonic() - start:.1f} s, in {out}"
    if share.corpus:
        print(f"corpus: {totals(share.corpus)}{' in' if hosts == 1 else ';'} {part}")
    else:
        print(f"{part}; not complete yet: shards of host {', '.join(map(str, share.missing))} are missing")


def tokenizer(text: tuple[Path, ...], vocab_size: int, out: Path, lowercase: bool = True) -> None:
    """Train a WordPiece tokenizer on text files.

    Args:
        text: .txt, .txt.xz or .txt.gz files, UTF-8.
        vocab_size: entries of the vocabulary, special tokens included.
        out: directory for tokenizer.json and tokenizer_config.json.
        lowercase: lower-case the text and strip accents, as the uncased models do.
    """
    from distilbert_jax.base.files import check_writable
    from distilbert_jax.base.hub import model_files
    from distilbert_jax.text.sources import TextSources
    from distilbert_jax.text.tokenizer import fingerprint, load_tokenizer, save_tokenizer
    from distilbert_jax.text.wordpiece import check_vocab_size, train_wordpiece

    check_writable(out, "--out", directory=True)
    if not (out / "tokenizer.json").exists():
        there = sorted(file.name for pattern in model_files() for file in out.glob(pattern))
        if there:
            raise InputError(
                f"{out}: holds {there[0]} of a model or another tokenizer; name another directory, or remove this one",
                path=out,
            )
    check_vocab_size(vocab_size)
    sources = TextSources(text)
    with progress("reading text", sources.size) as done:

        def lines() -> Iterator[str]:
            for line in sources.lines():
                done(sources.position)
                yield line

        trained = train_wordpiece(lines(), vocab_size, lowercase=lowercase)
    size = f"{trained.get_vocab_size():,} entries"
    if trained.get_vocab_size() < vocab_size:
        size += f" of {vocab_size:,} (the text has no more)"
    if (out / "tokenizer.json").exists():
        if fingerprint(load_tokenizer(out)) != fingerprint(trained):
            raise InputError(f"{out}: holds another tokenizer; name another directory, or remove this one", path=out)
        print(f"tokenizer: {size}, found equal in {out}")
        return
    save_tokenizer(trained, out)
    print(f"tokenizer: {size} from {len(text)} file(s), written to {out}")


def student(
    teacher: str,
    out: str,
    layers: tuple[int, ...] = (),
    num_hidden_layers: int = 0,
    fold_token_type: bool = True,
    copy_transform: bool = True,
) -> None:
    """Write a DistilBERT with layers of a masked-LM teacher as a Hugging Face directory, tokenizer included.

    Args:
        teacher: HF directory or hub id of a BERT or DistilBERT with a masked-LM head.
        out: directory to write.
        layers: of the teacher, e.g. 0 2 4 7 9 11; none: evenly spaced.
        num_hidden_layers: how many, when they are evenly spaced; 0: all. With all of them the student gives the teacher's logits.
        fold_token_type: add the teacher's token-type-0 embedding to the positions (the original drops it).
        copy_transform: copy the masked-LM transform too.
    """
    from distilbert_jax.base.files import check_writable
    from distilbert_jax.config import student_config
    from distilbert_jax.models.heads import MaskedLM
    from distilbert_jax.models.hf_format import has_weights
    from distilbert_jax.models.student import chosen_layers, student_from_teacher
    from distilbert_jax.text.tokenizer import load_tokenizer

    if Path(out).exists() and Path(teacher).exists() and Path(out).samefile(teacher):
        raise InputError(f"--out {out}: is the teacher's own directory; choose another", field="--out")
    check_writable(out, "--out", directory=True)
    if Path(out).is_dir() and any(Path(out).iterdir()):
        what = "holds a model" if has_weights(Path(out)) else "is not empty"
        raise InputError(f"--out {out}: {what}; name another directory, or remove this one", field="--out", path=out)
    if layers and num_hidden_layers not in (0, len(layers)):
        raise InputError(
            f"--num-hidden-layers {num_hidden_layers}, but --layers names {len(layers)}; give one of them",
            field="--num-hidden-layers",
        )
    source = MaskedLM.from_pretrained(teacher, new_head=False)
    count = len(layers) or num_hidden_layers or source.config.num_hidden_layers
    chosen = chosen_layers(layers or None, source.config.num_hidden_layers, count)
    made = student_from_teacher(
        source,
        student_config(source.config, count),
        layers=chosen,
        fold_token_type=fold_token_type,
        copy_transform=copy_transform,
    )
    made.save_pretrained(out, load_tokenizer(teacher), new=True)
    print(f"{out}: layers {', '.join(map(str, chosen))} of {teacher}", file=sys.stderr)


COMMANDS = {"corpus": calling(corpus), "tokenizer": calling(tokenizer), "student": calling(student)}
