from tests.fields import PAGE, page


def test_the_page_of_fields_is_what_the_tables_say():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.fields"
