"""A hundred and fifty mutations of what comes from outside; `benchmarks/fuzz.py` tries thousands."""

import pytest

pytestmark = [pytest.mark.parity, pytest.mark.slow]
MUTATIONS = 150


def test_no_mutation_ends_in_a_traceback_or_in_a_result_that_is_not_its_oracles(tmp_path):
    from tests.fuzzing import GOOD, KINDS, Fuzzer  # which imports the reference

    fuzzer = Fuzzer(tmp_path)
    outcomes = [fuzzer.run(0, number) for number in range(MUTATIONS)]
    assert [one for one in outcomes if one.outcome not in GOOD] == []
    assert {one.kind for one in outcomes} == set(KINDS)
    refused = sum(one.outcome == "refused" for one in outcomes)
    assert MUTATIONS / 4 < refused < MUTATIONS, "mutations that do nothing, or break all, test nothing"
