"""The model that a test gets for each kind of the menagerie."""

from collections.abc import Iterator

import pytest
from comparing import fingerprint
from every_kind import cached
from menagerie import Kind, Specimen


@pytest.fixture
def animal(kind: Kind) -> Iterator[Specimen]:
    """Yields the kind's specimen; afterwards its model is unchanged, down to the nodes of the innermost layers."""
    specimen = cached(kind)
    before = fingerprint(specimen.model)
    yield specimen
    assert fingerprint(specimen.model) == before
