"""Names as text: made safe, made unique, listed in a sentence."""

from collections.abc import Iterable


def listed(names: Iterable[str], conjunction: str = "and") -> str:
    """Names as a list in a sentence, at most eight of them: `'a', 'b' and 'c'`."""
    quoted = [f"'{name}'" for name in names]
    if len(quoted) > 8:
        quoted = [*quoted[:7], f"{len(quoted) - 7} more"]
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} {conjunction} {quoted[-1]}"


def safe_name(name: str) -> str:
    """A tensor's name as the name of an Input or the key of a dict: `/`, `@` and `:` become `.`, `_` and `_`."""
    return name.replace("/", ".").replace("@", "_").replace(":", "_")


def unique(name: str, taken: set[str]) -> str:
    """`name`, or `name_1`, `name_2`, ...: the first that is not `taken`; it is now."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
