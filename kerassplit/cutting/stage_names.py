"""What can name the stages of a split; Keras is not needed for it."""

import re
from collections.abc import Sequence

from kerassplit.errors import SplitError
from kerassplit.text import listed

STAGE_NAME = re.compile(r"[A-Za-z_][\w.-]*")
"""What can name a stage: it names a file, too."""


def stage_names(labels: Sequence[str] | None, count: int) -> list[str]:
    """The names of so many stages: the given ones, or `stage_0`, `stage_1`, ...

    Raises:
        SplitError: They are too few or too many, equal, or no names.
    """
    if labels is None:
        return [f"stage_{place}" for place in range(count)]
    if len(labels) != count:
        cuts = "1 cut makes" if count == 2 else f"{count - 1} cuts make"
        raise SplitError(f"{cuts} {count} stages; `names` has {len(labels)}: {listed(map(str, labels))}.")
    for label in labels:
        if not isinstance(label, str) or not STAGE_NAME.fullmatch(label):
            raise SplitError(
                f"{label!r} cannot name a stage: a name is made of letters, digits, '_', '-' and '.' and begins with "
                "a letter or '_'."
            )
    if len({label.lower() for label in labels}) < count:
        raise SplitError(f"The names of stages must differ (also in more than capitals); got {listed(labels)}.")
    return list(labels)
