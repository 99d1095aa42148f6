import jax.numpy as jnp
import numpy as np
import pytest

from distilbert_jax.base.ranges import check_range
from tests.runs import refused


@pytest.mark.parametrize(
    ("ids", "row"),
    [
        ([[5, 98], [3, 99]], 1),
        ([[-1, 98]], 0),
        ([[0, 1], [2**32 + 5, 3]], 1),  # 5, once it is cut to 32 bits
        ([[-(2**32) + 5]], 0),
    ],
)
def test_an_index_without_a_row_in_its_table_is_named(ids, row):
    refused(
        lambda: check_range("input_ids", np.array(ids), 99, "rows.npy"), path="rows.npy", field="input_ids", row=row
    )


@pytest.mark.parametrize("ids", [[[0, 98]], [], [[]], 7])
def test_indices_that_all_have_a_row_pass(ids):
    check_range("input_ids", np.array(ids, np.int32), 99)
    check_range("input_ids", jnp.array(ids, jnp.int32), 99)
