"""Values from outside stay exactly what they are, or are refused."""

import math

import numpy as np
import pytest
from fuzzing import fuzzed
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from kerassplit import SplitError
from kerassplit.files.values import as_values

NUMBERS = hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.floating_dtypes(sizes=(16, 32, 64))
WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
BROKEN = ("bfloat16", "float16", "float32", "float64")


@fuzzed
@given(st.data(), hnp.array_shapes(max_dims=2, max_side=4), st.sampled_from(WHOLE))
def test_whole_numbers_are_the_same_numbers_or_refused(data, shape, dtype):
    array = data.draw(hnp.arrays(NUMBERS, shape))
    limits = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    fits = all(math.isfinite(one) and one == int(one) and limits[0] <= int(one) <= limits[1] for one in array.flat)
    if fits:
        found = as_values(array, dtype, "ids")
        assert found.dtype == dtype
        assert list(map(int, found.flat)) == list(map(int, array.flat))
    else:
        with pytest.raises(SplitError, match=rf"'ids' takes {dtype}, and .* not fit in"):
            as_values(array, dtype, "ids")


def test_numbers_in_another_order_of_bytes_come_in_this_machines():
    found = as_values(np.array([1, 256], ">i2"), "int16", "ids")
    assert found.dtype == "int16"
    assert found.tolist() == [1, 256]


@fuzzed
@given(st.data(), hnp.array_shapes(max_dims=2, max_side=4), st.sampled_from(BROKEN))
def test_no_number_becomes_infinite(data, shape, dtype):
    array = data.draw(hnp.arrays(NUMBERS, shape))
    try:
        found = as_values(array, dtype, "x")
    except SplitError as error:
        assert "does not fit in: numbers up to" in str(error)
    else:
        assert np.array_equal(np.isfinite(array), np.isfinite(found.astype("float64")))


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([2**32 + 1], "int32", "'ids' takes int32, and 4294967297 does not fit in: whole numbers from -2147483648 to"),
        ([1.7, 2.0], "int32", "'ids' takes int32, and 1.7 does not fit in"),
        ([-1], "uint8", "-1 does not fit in: whole numbers from 0 to 255 do."),
        ([2], "bool", "2 does not fit in: 0, 1 and booleans do."),
        ([1e300], "float32", "1e.300 does not fit in: numbers up to 3.403e.38 do."),
        (["a"], "int32", "'ids' takes int32, and these values are of type <U1."),
        ([1], "string", "'ids' takes string, and these values are of type int64."),
        ([2**63], "int64", "9223372036854775808 does not fit"),
    ],
)
def test_what_is_refused(values, dtype, message):
    with pytest.raises(SplitError, match=message):
        as_values(np.array(values), dtype, "ids")


def test_infinities_and_nan_stay():
    assert np.isnan(as_values(np.array([np.nan]), "float32", "x")).all()
    assert np.isinf(as_values(np.array([np.inf]), "bfloat16", "x")).all()
