"""Checks the form in which tensors are sent; without Keras, for the command line."""

import math
from numbers import Real
from typing import Any

from kerassplit.errors import SplitError
from kerassplit.text import listed
from kerassplit.wire import FORMS
from kerassplit.wire.forms import FORMS_IN_WORDS, PACKED

_FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
"""Dtypes of one byte that floats may be sent as by other means than `kerassplit.wire`."""


def check_compression(compression: float | str | None) -> None:
    """Checks that the compression is a factor, a form of `kerassplit.wire` or a dtype.

    Raises:
        SplitError: It is none of these.
    """
    if compression is None or (isinstance(compression, str) and compression in (*FORMS, *_FLOAT8)):
        return
    number = float(compression) if isinstance(compression, Real) and not isinstance(compression, bool) else 0.0
    if not 1 <= number < math.inf:
        raise SplitError(
            f"`compression` is {compression!r}. Expected a factor of 1 or more, or a form to send floats in: "
            f"{FORMS_IN_WORDS}; or {listed(_FLOAT8, 'or')}."
        )


def require_measured(compression: float | str | None, profile: Any) -> None:
    """Checks that a form whose bytes depend on values was measured.

    Raises:
        SplitError: There is no profile of a sample in this form.
    """
    if not isinstance(compression, str) or PACKED not in compression:
        return
    measured = getattr(profile, "wire", None)
    if measured != compression:
        those = f"those for {measured!r}" if measured else "none"
        but = "" if profile is None else f", and `profile` holds {those}"
        raise SplitError(
            f"The bytes of tensors as {compression!r} depend on their values{but}. Measure them on a sample: "
            f"profile=kerassplit.profile(model, sample=images, wire={compression!r}) (--profile FILE, from `kerassplit "
            f"profile MODEL --input SAMPLE --wire {compression} --json`)."
        )
