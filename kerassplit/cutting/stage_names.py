"""Rules for the names of stages; importing this does not import Keras."""

import re
from collections.abc import Sequence

from kerassplit.errors import SplitError
from kerassplit.text import listed

STAGE_NAME = re.compile(r"[A-Za-z_][\w.-]*")
"""Pattern for the name of a stage, which also names a file."""


def stage_names(labels: Sequence[str] | None, count: int) -> list[str]:
    """Returns the names of `count` stages: `labels`, or `stage_0`, `stage_1`, ...

    Raises:
        SplitError: The labels are too few, too many, not distinct, or not valid names.
    """
    if labels is None:
        return [f"stage_{place}" for place in range(count)]
    if len(labels) != count:
        cuts = "1 cut makes" if count == 2 else f"{count - 1} cuts make"
        made = f"{cuts} {count} stages" if count > 1 else "There is 1 stage"
        raise SplitError(f"{made}; `names` has {len(labels)}: {listed(map(str, labels))}.")
    for label in labels:
        if not isinstance(label, str) or not STAGE_NAME.fullmatch(label):
            raise SplitError(
                f"{label!r} cannot name a stage: a name consists of letters, digits, '_', '-' and '.', and begins with "
                "a letter or '_'."
            )
    if len({label.lower() for label in labels}) < count:
        raise SplitError(f"The names of stages must differ (in more than upper and lower case); got {listed(labels)}.")
    return list(labels)
