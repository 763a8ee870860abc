"""Tensors passed between pieces of a model, and how names refer to them."""

from collections.abc import Sequence
from dataclasses import dataclass

from kerassplit.errors import SplitError
from kerassplit.text import listed

Shape = Sequence[int | None]

SAY_IT = (
    "Name the Inputs after the tensors that they receive, or pass a `kerassplit.Stage(name, model, inputs, outputs)`: "
    "its names always count."
)


@dataclass(frozen=True)
class PieceTensor:
    """A tensor between pieces.

    Attributes:
        key: Its name for `joined`: that of the Input, or a unique one.
        name: Its name in the piece that outputs it.
        giver: That piece, in words.
        shape: Its shape.
        dtype: Its dtype.
        names: Names by which other pieces may refer to it.
        for_masks: True if a piece computes only masks from it.
    """

    key: str
    name: str
    giver: str
    shape: Shape
    dtype: str
    names: frozenset[str] = frozenset()
    for_masks: bool = False

    @property
    def passes_by(self) -> bool:
        """True if layers pass it by: it is a mask (boolean), or masks are computed from it."""
        return self.dtype == "bool" or self.for_masks

    def __str__(self) -> str:
        named = f"'{self.name}' of " if self.name else ""
        return f"{named}shape {tuple(self.shape)} and dtype {self.dtype}"


def values_of(tensors: Sequence[PieceTensor]) -> Sequence[PieceTensor]:
    """Returns the tensors that are not masks, or all if there are only masks."""
    return [tensor for tensor in tensors if not tensor.passes_by] or tensors


class Given:
    """Outputs of the pieces added so far.

    Attributes:
        waiting: The outputs that no piece has used yet, by key.
    """

    def __init__(self):
        self.waiting: dict[str, PieceTensor] = {}
        self._by_name: dict[str, list[PieceTensor]] = {}
        self._newer: dict[str, PieceTensor] = {}  # tensor key -> the output of a piece that replaces it

    def add(self, takes: Sequence[PieceTensor], gives: Sequence[PieceTensor]) -> None:
        """Adds the outputs of a piece, and marks its inputs as used."""
        for tensor in takes:
            self.waiting.pop(tensor.key, None)
        for tensor in gives:
            self.waiting[tensor.key] = tensor
            for name in tensor.names:
                self._by_name.setdefault(name, []).append(tensor)

    def replace(
        self, old: Sequence[PieceTensor], gives: Sequence[PieceTensor], in_order: bool, only_names: bool
    ) -> None:
        """Records which outputs of a piece replace the tensors that it received from earlier pieces.

        Args:
            old: Its inputs; their `names` are those before and inside the piece.
            gives: Its outputs.
            in_order: Match without names: all inputs to a single output, or as many inputs as outputs in order.
            only_names: Match tensors with the same name only.
        """
        values = values_of(old)
        pairs: list[tuple[PieceTensor, PieceTensor]] = []
        if len(values) == len(gives) == 1:
            pairs = [(values[0], gives[0])]
        elif in_order and len(gives) == 1:
            pairs = [(tensor, gives[0]) for tensor in old]
        elif in_order and len(gives) == len(old):
            pairs = list(zip(old, gives, strict=True))
        named = [(tensor, new) for tensor in old for new in gives if tensor.names & new.names]
        self._newer.update({tensor.key: new for tensor, new in (named if only_names else pairs + named)})

    def named(self, wanted: Sequence[PieceTensor]) -> list[PieceTensor | None]:
        """Returns, for each input of a piece, the tensor of that name or its replacement, if there is one.

        Raises:
            SplitError: A name stands for several tensors, or two names stand for one.
        """
        found: list[PieceTensor | None] = []
        meant: dict[str, tuple[str, str]] = {}  # key of the tensor found -> its name here, and the tensor it replaces
        for one in wanted:
            others = {name for other in wanted if other is not one for name in other.names} - one.names
            end, source = self._meant(one, others)
            found.append(end)
            name, other = meant.setdefault(end.key, (one.name, source)) if end else ("", source)
            if end and other != source:
                raise SplitError(
                    f"{one.giver} takes '{name}' and '{one.name}', but {end.giver} gives one tensor, '{end.name}', in "
                    f"place of both. {SAY_IT}"
                )
        return found

    def _meant(self, wanted: PieceTensor, others: set[str]) -> tuple[PieceTensor | None, str]:
        """Finds the tensor that an input of a piece refers to, and the key of the tensor that it replaces.

        Replacement stops at a tensor whose own name is among `others`, the names of the piece's other inputs.
        """
        ends: dict[str, tuple[PieceTensor, str]] = {}
        for tensor in [tensor for name in wanted.names for tensor in self._by_name.get(name, ())]:
            end = tensor
            while (newer := self._newer.get(end.key)) and not newer.names & others:
                end = newer
            ends[end.key] = (end, tensor.key)
        if len(ends) > 1:
            ends = {key: one for key, one in ends.items() if key in self.waiting} or ends
        if len(ends) > 1:
            givers = sorted(end.giver.strip("'") for end, _ in ends.values())
            raise SplitError(
                f"{wanted.giver} takes '{wanted.name}', but several pieces give a tensor of that name: "
                f"{listed(givers)}. Rename it in one of them: pass a `kerassplit.Stage(name, model, inputs, outputs)` "
                "in its place."
            )
        return next(iter(ends.values()), (None, ""))
