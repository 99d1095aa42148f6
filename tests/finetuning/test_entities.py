import pytest

from distilbert_jax.finetuning.entities import are_of_other_scheme, entities, is_iob2, no_iob2, stray


@pytest.mark.parametrize(
    ("tags", "expected", "first_stray"),
    [
        ("O O", [], None),
        ("B-a I-a O B-b", [("a", 0, 2), ("b", 3, 4)], None),
        ("B-a B-a", [("a", 0, 1), ("a", 1, 2)], None),
        ("O I-a I-a", [("a", 1, 3)], 1),
        ("B-a I-b", [("a", 0, 1), ("b", 1, 2)], 1),
        ("I-a B-a I-a", [("a", 0, 1), ("a", 1, 3)], 0),
        ("B I O I", [("", 0, 2), ("", 3, 4)], 3),
        ("B-a-b I-a-b", [("a-b", 0, 2)], None),
        ("", [], None),
    ],
)
def test_entities_begin_and_end_as_conlleval_has_it(tags, expected, first_stray):
    assert entities(tags.split()) == expected
    assert stray(tags.split()) == first_stray


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("O", "B-PER", "I-PER"), True),
        (("O", "B", "I"), True),
        (("I-PER", "O"), True),
        (("B-PER", "I-PER"), False),
        (("O", "B-PER", "E-PER"), False),
        (("NOUN", "VERB", "O"), False),
        (("O",), False),
    ],
)
def test_labels_tell_whether_tags_are_of_entities(labels, expected):
    assert is_iob2(labels) is expected


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [
        ("O B-PER I-PER", ""),
        ("O B I", ""),
        ("B-PER I-PER", ""),
        ("NOUN VERB O", ""),
        ("II IO O", ""),
        ("O B-PER BPER", "BPER"),
        ("O B-PER B-", "B-"),
        ("o b-per i-per", "o b-per i-per"),
        ("O B_PER I-PER", "B_PER"),
        ("O B-PER E-PER S", "E-PER S"),
        ("0 B-P I-P", "0"),
        ("_ B-P I-P B-L", "_"),
        ("О B-P I-P", "О"),  # a Cyrillic letter
        ("O B:P I:P", "B:P I:P"),
        ("O B–P I–P", "B–P I–P"),
        ("O PER-B PER-I", "PER-B PER-I"),
        ("O BPER IPER", "BPER IPER"),
        ("o b i", "o b i"),
        ("BN IN NN VB", ""),
        ("B-P B-L X", ""),
    ],
)
def test_labels_tell_which_tags_of_entities_are_wrong(labels, wrong):
    assert no_iob2(labels.split()) == tuple(wrong.split())


def test_tags_of_other_schemes_are_known():
    assert are_of_other_scheme(["E-PER", "S", "L-a", "U-a", "M-a"])
    assert not are_of_other_scheme(["E-PER", "EPER"])
