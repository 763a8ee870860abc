"""Serializes tensors to send them from one machine to another, unchanged or in fewer bytes.

Format: `kswire2\\n`, the length of the header (4 bytes), the header (for each tensor a line of JSON: its name, shape,
dtype and form, and the length of its zlib stream if it is packed), then the values of one tensor after another; all
numbers are little-endian. The header determines the exact number of bytes. They contain no code.

forms: names of the forms; the header's entry of a tensor.
floats: values unchanged, or as float16 and bfloat16.
levels: values as int8 and int4.
lossless: zlib.
codecs: bytes of a tensor in each form.
message: `pack`, `unpack`, `packed_bytes`, `unpacked_bytes`.
first_version: reads the messages of version 0.1.0.
"""

from kerassplit.wire.forms import FORMS, Form
from kerassplit.wire.message import MESSAGE_BYTES, pack, packed_bytes, unpack, unpacked_bytes

__all__ = ["FORMS", "MESSAGE_BYTES", "Form", "pack", "packed_bytes", "unpack", "unpacked_bytes"]
