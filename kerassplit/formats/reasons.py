"""What an error of another library says, short enough for a message."""

import re

from kerassplit.errors import SplitError

_LONGEST = 600  # characters; converters print whole graphs


def reason(error: BaseException) -> str:
    """The error as a sentence without its end: one line, with its type where it is not one of this package."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))  # Keras writes in bold
    text = text.partition("Arguments received by")[0]  # and lists what a call was given
    text = " ".join(text.split()).removesuffix(".")
    text = f"{text[:_LONGEST]} ..." if len(text) > _LONGEST else text
    ours = isinstance(error, (SplitError, NotImplementedError)) and text
    return text if ours else f"{type(error).__name__}: {text}"
