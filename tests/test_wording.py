from tests import wording


def test_every_sentence_that_users_are_told_stands_in_the_table():
    assert wording.sentences() == wording.TABLE.read_text("utf-8").splitlines(), (
        "python -m tests.wording writes it anew"
    )
