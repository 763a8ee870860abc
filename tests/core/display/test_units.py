"""Human-readable numbers."""

import doctest

import pytest

from kerassplit import text
from kerassplit.display import units
from kerassplit.files import sizes, untrusted_json, values
from kerassplit.files.sizes import format_bytes
from kerassplit.flops import count, operations
from kerassplit.graph import sizes as tensor_sizes
from kerassplit.planning import devices
from kerassplit.planning.solver import problem
from kerassplit.wire import message


@pytest.mark.parametrize(
    "module", [sizes, tensor_sizes, units, text, message, values, untrusted_json, count, operations, devices, problem]
)
def test_the_examples_in_the_docstrings_are_right(module):
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "?"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (2**20 - 1, "1.0 MiB"), (5 * 2**50, "5120.0 TiB")],
)
def test_bytes(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(("count", "text"), [(999, "999"), (1000, "1.0 k"), (999_960, "1.0 M"), (25_636_712, "25.6 M")])
def test_counts(count, text):
    assert units.format_count(count) == text


def test_shapes_leave_the_batch_out():
    assert units.format_shape((None, None, 3)) == "?×3"
    assert units.format_shape((None,)) == "scalar"
    assert units.format_shape((8, 1000)) == "1000"


@pytest.mark.parametrize(
    ("dtype", "count"),
    [
        ("float32", 40),
        ("float16", 20),
        ("bfloat16", 20),
        ("bool", 10),
        ("int4", 5),
        ("float8_e4m3fn", 10),
        ("string", None),
    ],
)
def test_bytes_of_a_sample_by_dtype(dtype, count):
    assert tensor_sizes.bytes_per_sample((None, 10), dtype) == count


def test_a_number_that_rounds_up_to_the_next_unit_gets_that_unit():
    assert units.format_bandwidth(999_999_999 / 8) == "1 Gbit/s"
    assert units.format_joules(999.9996) == "1 kJ"
