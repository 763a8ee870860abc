"""Headers of arrays are read without Python's parser: by many threads, and from untrusted files."""

import io
import threading

import numpy as np
import pytest
from fuzzing import damaged, fuzzed
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from kerassplit.files.npy import read_array

NUMBERS = hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.floating_dtypes(sizes=(16, 32, 64))


def stored(array, version=None):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


def read(content):
    return read_array(content)


@fuzzed
@given(
    st.data(),
    hnp.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4),
    st.sampled_from([None, (1, 0), (2, 0)]),
    st.booleans(),
)
def test_arrays_are_those_that_were_written(data, shape, version, by_column):
    array = data.draw(hnp.arrays(NUMBERS | hnp.unicode_string_dtypes(), shape))
    array = np.asfortranarray(array) if by_column else array
    found = read(stored(array, version))
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    assert found.tobytes() == array.tobytes()


WHOLE = [stored(array) for array in (np.ones((2, 3), "float32"), np.arange(4), np.array(["a", "bc"]), np.float64(1))]


@fuzzed
@given(damaged(*WHOLE))
def test_damaged_arrays_are_read_or_refused_in_one_way(content):
    try:
        found = read(content)
    except ValueError as error:
        assert str(error)
    else:
        assert found.nbytes < len(content)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "never unpickled"),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "named fields"),
        ("{'descr': '<f4,<f4', 'fortran_order': False, 'shape': (1,), }", "no type of values"),
        ("{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (1,), }", "named fields"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }", "does not say what the array is"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'shape': (2,)}", "does not say what the array is"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "does not say what the array is"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4, 0), }", "no shape that an array"),
        ("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }", "does not say"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}", "does not say"),
        ("'descr'", "does not say"),
        ("(" * 3000, "does not say"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,", "does not say"),
        (" " * 20_000, "10,000 is the most"),
    ],
)
def test_headers_that_are_refused(header, message):
    text = header.encode()
    with pytest.raises(ValueError, match=message):
        read(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 64)


@pytest.mark.parametrize(
    "header",
    [
        '{"descr": "<f4", "fortran_order": False, "shape": (2, 3)}',
        "{u'descr': u'<f4', u'fortran_order': False, u'shape': (2L, 3L)}",
        "{'shape':(2,3,),'descr':'<f4','fortran_order':False}",
    ],
)
def test_headers_that_other_programs_write(header):
    array, text = np.arange(6, dtype="<f4").reshape(2, 3), header.encode()
    found = read(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + array.tobytes())
    np.testing.assert_array_equal(found, array)


def test_many_threads_read_at_a_time():
    errors: list[Exception] = []

    def work():
        try:
            for _ in range(500):
                read(WHOLE[0])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
