"""Roles of the columns of a table: which of them are read, and which say what is learned."""

import dataclasses

from distilbert_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which columns of a table are what.

    Attributes:
        text, text_pair: a text, and a second one that is read with it.
        label: of one column the class, the classes (a list) or the amount; several: a class each (0 or 1), or an amount each.
        tokens, tags: words, and the tag of each: lists, or text with blanks between them.
        question, context, answers: as SQuAD has them; answers are {text, answer_start}, lists each.
        choices: texts of which `label` names one, after `text` where it is given.

    Raises:
        InputError: they are of several forms, or one of them lacks a part.
    """

    text: str = ""
    text_pair: str = ""
    label: tuple[str, ...] = ()
    tokens: str = ""
    tags: str = ""
    question: str = ""
    context: str = ""
    answers: str = ""
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        forms = [name for name in ("tokens", "question", "choices") if getattr(self, name)]
        if len(forms) > 1 or (self.text and forms not in ([], ["choices"])):
            given = " and ".join(f"--{name}" for name in (*(["text"] if self.text else []), *forms))
            raise InputError(f"{given}: are of different tasks; give one of them", field=f"--{forms[-1]}")
        if not self.text and not forms:
            stray = next(
                (name for name in ("label", "text_pair", "tags", "context", "answers") if getattr(self, name)), ""
            )
            hint = {"tags": "--tokens WORDS", "context": "--question QUESTION", "answers": "--question QUESTION"}.get(
                stray, "--text COLUMN"
            )
            said = f"--{stray.replace('_', '-')} alone" if stray else "no column is named"
            raise InputError(
                f"{said}: name what is read: {hint} (or --tokens, --question with --context, --choices)",
                field="--text",
                hint=hint,
            )
        owners = {"text_pair": "text", "tags": "tokens", "context": "question", "answers": "question"}
        for part, owner in owners.items():
            if getattr(self, part) and not getattr(self, owner):
                raise InputError(
                    f"--{part.replace('_', '-')} {getattr(self, part)}: goes with --{owner}", field=f"--{part}"
                )
        if self.label and (self.tokens or self.question):
            hint = "--tags" if self.tokens else "--answers"
            raise InputError(f"--label {' '.join(self.label)}: here it is {hint}", field="--label", hint=hint)
        if self.question and not self.context:
            raise InputError(f"--question {self.question}: is answered from a --context", field="--context")
        if self.choices and self.text_pair:
            raise InputError(
                "--text-pair: goes with --text and --label; of --choices each is the pair of --text",
                field="--text-pair",
            )
        if len(self.choices) == 1:
            raise InputError(f"--choices {self.choices[0]}: expected two columns or more", field="--choices")
        used = (*self.inputs, *self.targets)
        if twice := next((name for name in used if used.count(name) > 1), None):
            raise InputError(f"column {twice!r} is named twice: a column is one thing", field=twice)

    @property
    def form(self) -> str:
        """sentences, tokens, answers or choices."""
        forms = ((self.tokens, "tokens"), (self.question, "answers"), (self.choices, "choices"))
        return next((name for given, name in forms if given), "sentences")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that are read."""
        given = (self.text, self.text_pair, self.tokens, self.question, self.context, *self.choices)
        return tuple(name for name in given if name)

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns of what is learned."""
        return tuple(name for name in (*self.label, self.tags, self.answers) if name)

    @property
    def one_label(self) -> str:
        """The column of labels, where there is one."""
        return "" if not self.label else self.label[0]

    def require_targets(self) -> None:
        """Raise InputError where what is learned is not named."""
        if not self.targets:
            hint = "--tags TAGS" if self.tokens else "--answers ANSWERS" if self.question else "--label COLUMN"
            raise InputError(f"what is learned is not named: {hint}", field=hint.split()[0], hint=hint)
        if self.choices and len(self.label) > 1:
            raise InputError(f"--label {' '.join(self.label)}: of --choices one is right", field="--label")
