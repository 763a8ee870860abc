"""Patterns for the composite layers that a user wants opened."""

import difflib
import fnmatch
from dataclasses import dataclass, field

import keras

from kerassplit.errors import UnknownTensorError
from kerassplit.graph.internals.layers import functional_of, is_composite
from kerassplit.text import listed, package_of


@dataclass(eq=False)
class Pattern:
    """A glob of `open`, or the rest of it inside the layers that its beginning matches.

    Attributes:
        parts: One glob for each layer on the path.
        whole: The pattern as the user wrote it; `None` if this is it.
        met: True once it has opened something (on the whole pattern).
        seen: Paths of the composite layers it was compared with (on the whole pattern).
    """

    parts: tuple[str, ...]
    whole: "Pattern | None" = None
    met: bool = False
    seen: list[str] = field(default_factory=list)

    def matches(self, layer: keras.Layer) -> bool:
        """True if its first part matches a layer. Globs skip Keras's own layers, which can seldom be opened."""
        if not set("*?[") & set(self.parts[0]):
            return layer.name == self.parts[0]
        own = package_of(type(layer)) == "keras" and functional_of(layer) is None
        return is_composite(layer) and not own and fnmatch.fnmatchcase(layer.name, self.parts[0])

    def inside(self) -> "Pattern | None":
        """Returns the rest of it inside a layer that it matches."""
        if len(self.parts) > 1:
            return Pattern(self.parts[1:], self.whole or self)
        (self.whole or self).met = True
        return None

    def check_met(self, model: keras.Layer) -> None:
        if self.met:
            return
        text = "/".join(self.parts)
        close = difflib.get_close_matches(text, self.seen, n=3, cutoff=0.6)
        hint = f"Did you mean {listed(close, 'or')}?" if close else f"It calls {listed(dict.fromkeys(self.seen))}."
        raise UnknownTensorError(
            f"'{text}' in `open` matches no composite layer that '{model.name}' calls. "
            + (hint if self.seen else "It calls none."),
            name=text,
            matches=close,
        )
