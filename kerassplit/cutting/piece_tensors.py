"""Tensors that pieces of a model hand each other, and which of them a name means."""

from collections.abc import Sequence
from dataclasses import dataclass

from kerassplit.errors import SplitError
from kerassplit.text import listed

Shape = Sequence[int | None]

SAY_IT = (
    "Name the Inputs after what they take, or say it by a `kerassplit.Stage(name, model, inputs, outputs)`: its names "
    "always count."
)


@dataclass(frozen=True)
class PieceTensor:
    """A tensor between pieces.

    Attributes:
        key: Its name for `joined`: the Input's, or a unique one.
        name: Its name in the piece that gives it.
        giver: That piece, in words.
        shape: Its shape.
        dtype: Its dtype.
        names: What another piece may call it.
        for_masks: Whether a piece makes masks of it and nothing else.
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
        """Whether layers leave it to others: masks, which are boolean, or what they are made of."""
        return self.dtype == "bool" or self.for_masks

    def __str__(self) -> str:
        named = f"'{self.name}' of " if self.name else ""
        return f"{named}shape {tuple(self.shape)} and dtype {self.dtype}"


def values_of(tensors: Sequence[PieceTensor]) -> Sequence[PieceTensor]:
    """These tensors without masks, unless there are only such."""
    return [tensor for tensor in tensors if not tensor.passes_by] or tensors


class Given:
    """What the pieces so far give.

    Attributes:
        waiting: What no piece has taken yet, by key.
    """

    def __init__(self):
        self.waiting: dict[str, PieceTensor] = {}
        self._by_name: dict[str, list[PieceTensor]] = {}
        self._newer: dict[str, PieceTensor] = {}  # by the key of a tensor, what a piece gave in the place of it

    def add(self, takes: Sequence[PieceTensor], gives: Sequence[PieceTensor]) -> None:
        """Adds what a piece gives, and what it takes for that."""
        for tensor in takes:
            self.waiting.pop(tensor.key, None)
        for tensor in gives:
            self.waiting[tensor.key] = tensor
            for name in tensor.names:
                self._by_name.setdefault(name, []).append(tensor)

    def replace(
        self, old: Sequence[PieceTensor], gives: Sequence[PieceTensor], in_order: bool, only_names: bool
    ) -> None:
        """Notes what a piece gives in the place of what it took of earlier pieces.

        Args:
            old: What it took; `names`: before and in the piece.
            gives: What it gives.
            in_order: Whether it has no names: then all goes into its one tensor, or into as many in their order.
            only_names: Whether only tensors of one name count.
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
        """For each tensor that a piece takes the one of that name, or what was given in its place.

        Raises:
            SplitError: One name means several tensors, or two names one.
        """
        found: list[PieceTensor | None] = []
        meant: dict[str, tuple[str, str]] = {}  # by the key of what was found: its name here, and what it stands for
        for one in wanted:
            others = {name for other in wanted if other is not one for name in other.names} - one.names
            end, source = self._meant(one, others)
            found.append(end)
            name, other = meant.setdefault(end.key, (one.name, source)) if end else ("", source)
            if end and other != source:
                raise SplitError(
                    f"{one.giver} takes '{name}' and '{one.name}', and {end.giver} gives one tensor, '{end.name}', in "
                    f"the place of both. {SAY_IT}"
                )
        return found

    def _meant(self, wanted: PieceTensor, others: set[str]) -> tuple[PieceTensor | None, str]:
        """What a piece means that asks for `others` by their own names, and the key of what that stands for."""
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
                f"{wanted.giver} takes '{wanted.name}', and several pieces give a tensor of that name: "
                f"{listed(givers)}. Give one of these another name for it, by a `kerassplit.Stage(name, model, inputs, "
                "outputs)` in its place."
            )
        return next(iter(ends.values()), (None, ""))
