"""Reads from layer names which blocks the layers belong to.

`conv4_block6_2_relu` is in sub-block `block6` of `conv4`; `conv2d_17` was named by Keras and says nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

import keras

from kerassplit.text import snake_case

_NUMBERED = re.compile(r"(?P<family>.*?)_?(?P<number>\d+)")
_SUB = re.compile(r"_?([A-Za-z]*_?\d+|[a-z])(?=_|$)")


@dataclass(frozen=True)
class BlockName:
    """A layer's name, split into its parts.

    Attributes:
        key: The name up to the first number, which identifies the block: `conv4` or `block_13`.
        family: The key without its number: `conv`, `block`.
        number: The number.
        sub: The part of the block: `block6`, `a`; empty if the name does not say.
        full: The name of the part, `conv4_block6` or `block2a`; of the block if the name does not say.
    """

    key: str
    family: str
    number: int
    sub: str
    full: str


def block_name(name: str) -> BlockName | None:
    """Returns the block that a name indicates; `None` for a name without a number."""
    found = _NUMBERED.match(name)
    if found is None or not found["family"]:
        return None
    sub = _SUB.match(name[found.end() :])
    return BlockName(
        found[0],
        found["family"],
        int(found["number"]),
        sub[1].strip("_") if sub else "",
        found[0] + (sub[0] if sub else ""),
    )


def is_automatic(operation: keras.Operation) -> bool:
    """True if Keras generated the name: the class in snake case, with or without a number."""
    return re.fullmatch(rf"{re.escape(automatic_name(operation))}(_\d+)?", operation.name) is not None


def automatic_name(operation: keras.Operation) -> str:
    """Returns the name that Keras generates for the first operation of this class: `conv2d` for `Conv2D`."""
    return snake_case(re.sub(r"\W+", "", type(operation).__name__))


def common_prefix(model_name: str, names: Iterable[str]) -> str:
    """Returns the prefix that many layer names share with the model's name, such as `convnext_tiny_`; may be empty."""
    names = list(names)
    words = model_name.split("_")
    for length in range(len(words), 0, -1):
        prefix = "_".join(words[:length]) + "_"
        rest = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        if len(rest) * 3 >= len(names) > 0 and not any(name[:1].isdigit() for name in rest):
            return prefix
    return ""


def common_words(one: str, other: str) -> str:
    """Returns the words that both names begin with: `top` for `top_conv` and `top_bn`."""
    pairs = zip(one.split("_"), other.split("_"), strict=False)
    return "_".join(word for word, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def joined(names: list[str], sign: str = " · ", longest: int = 24) -> str:
    """Joins names: `conv1 · pool1`, or only the first and the last if that is too long."""
    text = sign.join(names)
    return text if len(names) < 2 or len(text) <= longest else f"{names[0]} … {names[-1]}"
