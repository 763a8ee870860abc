"""What the names of layers say about the blocks that they belong to.

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
    """A layer's name, taken apart.

    Attributes:
        key: Up to the first number: the block, such as `conv4` or `block_13`.
        family: The key without its number: `conv`, `block`.
        number: The number.
        sub: The part of the block: `block6`, `a`; empty where the name tells none.
    """

    key: str
    family: str
    number: int
    sub: str


def block_name(name: str) -> BlockName | None:
    """The block that a name tells of; `None` for a name without a number."""
    found = _NUMBERED.match(name)
    if found is None or not found["family"]:
        return None
    sub = _SUB.match(name[found.end() :])
    return BlockName(found[0], found["family"], int(found["number"]), sub[1].strip("_") if sub else "")


def is_automatic(operation: keras.Operation) -> bool:
    """Whether Keras made up the name: its class in snake case, with or without a number."""
    return re.fullmatch(rf"{re.escape(automatic_name(operation))}(_\d+)?", operation.name) is not None


def automatic_name(operation: keras.Operation) -> str:
    """The name that Keras makes up for the first operation of this class: `Conv2D` is `conv2d`."""
    return snake_case(re.sub(r"\W+", "", type(operation).__name__))


def common_prefix(model_name: str, names: Iterable[str]) -> str:
    """What many layers' names begin with only because the model's does: `convnext_tiny_`; empty if nothing."""
    names = list(names)
    words = model_name.split("_")
    for length in range(len(words), 0, -1):
        prefix = "_".join(words[:length]) + "_"
        rest = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        if len(rest) * 3 >= len(names) > 0 and not any(name[:1].isdigit() for name in rest):
            return prefix
    return ""


def common_words(one: str, other: str) -> str:
    """The words that both names begin with: `top_conv` and `top_bn` have `top`."""
    pairs = zip(one.split("_"), other.split("_"), strict=False)
    return "_".join(word for word, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def joined(names: list[str], sign: str = " · ", longest: int = 24) -> str:
    """Names in a row: `conv1 · pool1`, or the first and the last where that is too long."""
    text = sign.join(names)
    return text if len(names) < 2 or len(text) <= longest else f"{names[0]} … {names[-1]}"
