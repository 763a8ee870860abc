"""Errors of other libraries, short enough for a message."""

from kerassplit.errors import SplitError, without_terminal_codes

_LONGEST = 600  # characters; converters print whole graphs


def reason(error: BaseException) -> str:
    """The error as a sentence without its end: one line, with its type where it is not one of this package."""
    text = without_terminal_codes(str(error))
    text = text.partition("Arguments received by")[0]  # where Keras lists what a call was given
    text = " ".join(text.split()).removesuffix(".")
    text = f"{text[:_LONGEST]} ..." if len(text) > _LONGEST else text
    ours = isinstance(error, (SplitError, NotImplementedError)) and text
    return text if ours else f"{type(error).__name__}: {text}"
