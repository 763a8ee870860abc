"""Names of the forms, and the header's entry of a tensor."""

import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from kerassplit.errors import SplitError
from kerassplit.text import listed

Form = Literal[
    "float32",
    "float16",
    "bfloat16",
    "int8",
    "int4",
    "float32+zlib",
    "float16+zlib",
    "bfloat16+zlib",
    "int8+zlib",
    "int4+zlib",
]
"""Form in which floating-point tensors are sent: unchanged, with 16, 8 or 4 bits per value; each also packed."""
FORMS: tuple[Form, ...] = get_args(Form)
PACKED = "+zlib"
"""Ending of the forms that are packed losslessly."""
UNCHANGED = "as it is"
INSTEAD = "Send it as 'float32'."
"""Remedy for a tensor that a form cannot hold."""
FORMS_IN_WORDS = f"{listed([form for form in FORMS if PACKED not in form])}, each also packed ('int8{PACKED}')"


def check_form(form: object) -> None:
    """Checks the name of a form.

    Raises:
        SplitError: There is no such form.
    """
    if form not in FORMS:
        raise SplitError(f"Tensors can be sent as {FORMS_IN_WORDS}; got {form!r}.")


@dataclass(frozen=True)
class Entry:
    """Header entry of one tensor.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: Its dtype.
        form: Form of its values; a key of `CODECS`.
        zlib: Length of the stream if the values are packed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    form: str
    zlib: int | None = None

    @property
    def line(self) -> bytes:
        """Its line in the header."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"
