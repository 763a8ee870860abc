"""Peak bytes of live tensors."""

from collections.abc import Iterable, Sequence


def peaks(
    steps: Sequence[Sequence[tuple[Iterable[int], Iterable[int]]]], bytes_of: Sequence[int | None], kept: set[int]
) -> list[int | None]:
    """Returns the peak bytes of live tensors for each block of a program.

    A tensor is live from the step that produces it (from the beginning, if no step does) to the last step that receives
    it: live-variable analysis (Aho, Sethi and Ullman, "Compilers", 1986).

    Args:
        steps: For each block, its steps in order: what each receives and produces. During a step, both are live.
        bytes_of: Bytes of each tensor; `None` if unknown.
        kept: Tensors that stay live to the end once they exist: the outputs of the program.

    Returns:
        Bytes for each block; `None` where a tensor of unknown size is live.
    """
    last_use = {
        tensor: (place, number)
        for place, block in enumerate(steps)
        for number, (given, made) in enumerate(block)
        for tensor in (*given, *made)
    }
    made_inside = {tensor for block in steps for _, made in block for tensor in made}
    arriving = last_use.keys() - made_inside
    live: set[int] = set()
    total, unknown = 0, 0
    found: list[int | None] = []
    for place, block in enumerate(steps):
        most, known = 0, True
        for number, (given, made) in enumerate(block):
            for tensor in {*made, *arriving} - live:
                live.add(tensor)
                size = bytes_of[tensor]
                total, unknown = total + (size or 0), unknown + (size is None)
            arriving = set()
            most, known = max(most, total), known and not unknown
            for tensor in {*given, *made}:
                if last_use[tensor] == (place, number) and tensor not in kept:
                    live.remove(tensor)
                    size = bytes_of[tensor]
                    total, unknown = total - (size or 0), unknown - (size is None)
        found.append(most if known else None)
    return found


def largest(sizes: Iterable[int | None]) -> int | None:
    """Returns the largest of some sizes, 0 without any; `None` if one is unknown."""
    known = list(sizes)
    return None if None in known else max(known, default=0)  # pyright: ignore[reportArgumentType]
