"""Shortens errors of other libraries for use in a message."""

from kerassplit.errors import SplitError, without_terminal_codes

_LONGEST = 600  # characters; converters print whole graphs


def reason(error: BaseException) -> str:
    """Returns the error as one line without a final period, with its type unless it is an error of this package."""
    text = without_terminal_codes(str(error))
    text = text.partition("Arguments received by")[0]  # after this, Keras lists the arguments of the call
    text = " ".join(text.split()).removesuffix(".")
    text = f"{text[:_LONGEST]} ..." if len(text) > _LONGEST else text
    ours = isinstance(error, (SplitError, NotImplementedError)) and text
    return text if ours else f"{type(error).__name__}: {text}"
