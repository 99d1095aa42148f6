from types import SimpleNamespace

from tests.conftest import first_cases


def test_of_each_test_the_first_case_is_taken_in_order():
    names = ["a.py::x[1]", "a.py::x[2]", "a.py::y", "b.py::x[[]", "b.py::x[]", "b.py::T::x[1]"]
    taken = first_cases([SimpleNamespace(nodeid=name) for name in names])
    assert [item.nodeid for item in taken] == ["a.py::x[1]", "a.py::y", "b.py::x[[]", "b.py::T::x[1]"]
