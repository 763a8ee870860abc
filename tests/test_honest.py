"""The suite's own checks can fail: they do, when the rebuild is swapped for the naive one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

MUST_FAIL = {
    "test_left_alone.py::test_sub_models_overlapping_nested_and_dropped_in_any_order",
    "test_random_graphs.py::test_parameters_before_and_after_every_split_point",
    "test_random_graphs.py::test_stages_compute_what_the_model_computes_and_leave_it_alone",
    "test_split.py::test_the_joined_stages_are_the_model_again",
    "test_submodel.py::test_a_sub_model_of_a_sub_model",
    "test_submodel.py::test_special_characters_of_tensor_names_do_not_reach_inputs",
}


@pytest.mark.slow
def test_the_suite_fails_with_the_naive_rebuild():
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "naive", "-q", "-rf", *sorted(MUST_FAIL)],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 1, finished.stdout[-2000:]
    failed = set(re.findall(r"^FAILED (?:tests/)?(\S+?)(?: - .*)?$", finished.stdout, re.MULTILINE))
    assert failed == MUST_FAIL
