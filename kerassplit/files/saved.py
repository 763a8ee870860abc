"""Mixin `Saved`: records that `save` writes as JSON and `load` reads."""

import json
import math
import os
from dataclasses import asdict
from typing import Any, ClassVar, Self

from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import write_whole
from kerassplit.files.untrusted_json import read_record, read_regular, versioned
from kerassplit.text import in_words

_LARGEST = 256 * 2**20  # bytes: a profile takes about 1,000 a call


class Saved:
    """Mixin for dataclasses: `save` writes a record as JSON, `load` reads it."""

    _format_version: ClassVar = 1
    _unbounded: ClassVar[tuple[str, ...]] = ()
    """Fields that may be infinite, including those of nested records."""

    def to_dict(self) -> dict[str, Any]:
        """Converts the record to plain values, for JSON."""
        return asdict(self)  # type: ignore[call-overload]  # a dataclass

    def save(self, to_file: str | os.PathLike[str]) -> None:
        """Writes the record as JSON, completely or not at all; `load` of its class reads it.

        Raises:
            SplitError: The file cannot be written.
        """
        content = {"format_version": self._format_version, **self.to_dict()}
        write_whole(to_file, (json.dumps(plain(content), indent=2) + "\n").encode(), flush=True)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> Self:
        """Reads a file that `save` wrote, here or on another machine.

        Raises:
            SplitError: There is no such file, or it contains something else.
        """
        kind = in_words(cls.__name__)
        a_kind = f"a{'n' * (kind[0] in 'aeiou')} {kind}"
        try:
            return cls._read(read_regular(file, _LARGEST), f"'{file}' holds {a_kind} of format")
        except SplitError:
            raise
        except OSError as error:
            raise SplitError(f"'{file}' cannot be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise SplitError(
                f"'{file}' holds no {kind}. Expected a file that `{cls.__name__}.save` wrote; here, {error}."
            ) from error

    @classmethod
    def _read(cls, content: bytes | str, of_format: str) -> Self:
        """Parses a record; raises a `ValueError` if the text is not one."""
        values = versioned(content, cls._format_version, of_format)
        _restore(values, cls._unbounded)
        record = read_record(cls, values)
        record._check()
        return record

    def _check(self) -> None:
        """Raises a `ValueError` if the values contradict each other."""


def plain(data: Any) -> Any:
    """Converts values for JSON, which has no infinity: it becomes a string."""
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


def _restore(values: Any, names: tuple[str, ...]) -> None:
    """Turns strings from `plain` back into infinity, in fields of these names."""
    for inner in values if isinstance(values, list) else list(values.values()):
        if names and isinstance(inner, (dict, list)):
            _restore(inner, names)
    if isinstance(values, dict):
        values.update({name: math.inf for name in names if values.get(name) == "inf"})
