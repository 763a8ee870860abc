"""Places boxes in rows, in execution order, if a picture would be too wide in one row.

Graphviz reorders boxes that it may place freely, so every position and every line is fixed here. Boxes stand in rows
from left to right, with stages next to each other as long as they fit. A line to the next box is straight. Every other
line leaves its box at the bottom, runs along a track below the row, and reaches its target from the left; one that
passes over rows goes down along the right margin.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from kerassplit.pictures.lettering import HEADER, LINE, STAGE, TEXT, box_size, broken, text_width
from kerassplit.pictures.picture import Box, Cluster, Edge, Picture

Point = tuple[float, float]

_GAP, _BESIDE = 26, 12  # points, between boxes, and between a label and its neighbors
_PAD = 12  # points, between a frame and the boxes in it
_TRACK = 9  # points, between lines below a row


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle on the page, in points, with y pointing down."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def middle(self) -> Point:
        """Center of the rectangle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


@dataclass(slots=True)
class Page:
    """Positions of everything in a picture.

    Attributes:
        boxes: Id of a box -> its area.
        frames: Index of a named cluster -> its frame.
        labels: Index of an edge -> the center of its label.
        gaps: Indices of edges whose labels stand between two stages; other labels are on tracks.
        lines: Index of an edge and id of its target -> the corners of the line.
    """

    boxes: dict[str, Area] = field(default_factory=dict)
    frames: dict[int, Area] = field(default_factory=dict)
    labels: dict[int, Point] = field(default_factory=dict)
    gaps: set[int] = field(default_factory=set)
    lines: dict[tuple[int, str], list[Point]] = field(default_factory=dict)

    @property
    def right(self) -> float:
        """Right end of the boxes and frames."""
        return max(area.right for area in (*self.boxes.values(), *self.frames.values()))

    @property
    def bottom(self) -> float:
        """Lower end of the boxes and frames."""
        return max(area.bottom for area in (*self.boxes.values(), *self.frames.values()))


@dataclass(slots=True)
class _Row:
    """Boxes of one or several clusters next to each other, and the tracks of edges below them."""

    parts: list[tuple[int, list[Box]]]
    tracks: dict[int, float] = field(default_factory=dict)

    @property
    def boxes(self) -> list[Box]:
        return [box for _, boxes in self.parts for box in boxes]


def place_in_rows(picture: Picture, widest: float) -> Page:
    """Places each box, label and line of a picture.

    Args:
        picture: The picture, with its boxes in execution order.
        widest: Largest width of the page in points; more if the page would be more than twice as high as wide.
    """
    page = _page(picture, widest)
    while widest < page.bottom and page.bottom > 2 * page.right:
        widest *= 1.2
        page = _page(picture, widest)
    return page


def _page(picture: Picture, widest: float) -> Page:
    page = Page()
    gaps = _label_gaps(picture)
    rows = _rows(picture, gaps, widest)
    row_of = {box.id: number for number, row in enumerate(rows) for box in row.boxes}
    straight = {(one.id, other.id) for row in rows for one, other in pairwise(row.boxes)}
    page.gaps = {number for pair, numbers in gaps.items() if pair in straight for number in numbers}
    for number, edge in enumerate(picture.edges):
        for target in edge.targets:
            first, last = row_of[edge.source], row_of[target]
            if (edge.source, target) not in straight:
                rows[first].tracks[number] = 2 * LINE + 6 if edge.label and number not in page.gaps else _TRACK
            if last > first + 1:
                rows[last - 1].tracks.setdefault(number, _TRACK)
    tracks = _place_boxes(page, picture, rows, gaps)
    _place_lines(page, picture, straight, row_of, tracks)
    _place_labels(page, picture)
    return page


def label_lines(edge: Edge) -> list[str]:
    """Returns the lines of the label of an edge between two stages, one fact per line."""
    return [line for text in edge.label for line in ([text] if " " in text else broken(text))]


def track_lines(edge: Edge) -> list[str]:
    """Returns the lines of the label of an edge on its track: its name, then its shape and size."""
    return [" · ".join(edge.label[:-2]), " · ".join(edge.label[-2:])]


def header_width(cluster: Cluster) -> float:
    """Returns the width of the text in a frame."""
    facts = text_width(" · ".join(cluster.lines), TEXT)
    return max(text_width(cluster.name, STAGE, bold=True), facts) if cluster.name else 0.0


def _label_gaps(picture: Picture) -> dict[tuple[str, str], list[int]]:
    """Finds the labeled edges from the last box of a cluster to the first box of the next."""
    pairs = {(one.boxes[-1].id, other.boxes[0].id) for one, other in pairwise(picture.clusters)}
    found: dict[tuple[str, str], list[int]] = {}
    for number, edge in enumerate(picture.edges):
        for target in edge.targets:
            if edge.label and (edge.source, target) in pairs:
                found.setdefault((edge.source, target), []).append(number)
    return found


def _gap_width(picture: Picture, numbers: Sequence[int]) -> float:
    widths = [text_width(line, TEXT, bold=True) for number in numbers for line in label_lines(picture.edges[number])]
    return max(widths, default=_GAP) + 2 * _BESIDE


def _rows(picture: Picture, gaps: dict[tuple[str, str], list[int]], widest: float) -> list[_Row]:
    """Divides the boxes into rows; a cluster that needs several rows does not share them."""
    rows: list[_Row] = []
    filled = widest
    for number, cluster in enumerate(picture.clusters):
        parts = list(_even_rows(cluster, widest))
        width = _part_width(cluster, cluster.boxes)
        before = rows[-1].boxes[-1].id if rows else ""
        gap = _gap_width(picture, gaps.get((before, cluster.boxes[0].id), ()))
        if len(parts) == 1 and filled + gap + width <= widest:
            rows[-1].parts.append((number, parts[0]))
            filled += gap + width
        else:
            rows.extend(_Row([(number, part)]) for part in parts)
            filled = width if len(parts) == 1 else widest
    return rows


def _part_width(cluster: Cluster, boxes: Sequence[Box]) -> float:
    return max(_boxes_width(boxes), header_width(cluster)) + (2 * _PAD if cluster.name else 0)


def _boxes_width(boxes: Sequence[Box]) -> float:
    return sum(box_size(box)[0] for box in boxes) + _GAP * (len(boxes) - 1)


def _even_rows(cluster: Cluster, widest: float) -> Iterator[list[Box]]:
    """Divides the boxes of a cluster into as few rows as possible, of about equal width."""
    whole = _part_width(cluster, cluster.boxes)
    left, row = whole, list[Box]()
    count = -(-whole // widest)
    for box in cluster.boxes:
        width = _part_width(cluster, [*row, box])
        if row and (width > widest or width - box_size(box)[0] / 2 > left / count):
            yield row
            left -= _part_width(cluster, row)
            count = max(1, count - 1)
            row = []
        row.append(box)
    yield row


def _place_boxes(
    page: Page, picture: Picture, rows: Sequence[_Row], gaps: dict[tuple[str, str], list[int]]
) -> list[dict[int, float]]:
    """Places boxes, frames and the labels between frames; returns the height of each track below each row."""
    top = 0.0
    tracks: list[dict[int, float]] = []
    for number, row in enumerate(rows):
        labels = [gaps[pair] for pair in pairwise(box.id for box in row.boxes) if pair in gaps]
        tallest = max([*(box_size(box)[1] for box in row.boxes), *(_stack_height(picture, one) for one in labels)])
        framed = {place for place, _ in row.parts if picture.clusters[place].name}
        upper = top + (HEADER if framed - set(page.frames) else 0)
        goes_on = number + 1 < len(rows) and framed & {place for place, _ in rows[number + 1].parts}
        lower = upper + tallest + (_PAD if framed and not goes_on else 0)
        _place_row(page, picture, row, gaps, Area(0.0, top, 0.0, lower), upper + tallest / 2)
        top = lower + _TRACK
        tracks.append({})
        for edge, height in row.tracks.items():
            tracks[-1][edge] = top + height / 2
            top += height
        top += _TRACK
    return tracks


def _place_row(
    page: Page, picture: Picture, row: _Row, gaps: dict[tuple[str, str], list[int]], band: Area, middle: float
) -> None:
    """Places the contents of one row in a band of the page, with boxes and labels centered at `middle`."""
    left, before = band.left, ""
    for place, boxes in row.parts:
        cluster = picture.clusters[place]
        labels = gaps.get((before, boxes[0].id), [])
        gap = _gap_width(picture, labels) if before else 0.0
        y = middle - _stack_height(picture, labels) / 2
        for number in labels if before else ():
            height = _stack_height(picture, [number])
            page.labels[number] = left + gap / 2, y + height / 2
            y += height
        left += gap
        width = _part_width(cluster, boxes)
        if cluster.name:
            frame = page.frames.get(place, Area(left, band.top, left, band.bottom))
            page.frames[place] = Area(left, frame.top, max(frame.right, left + width), band.bottom)
        x = left + (width - _boxes_width(boxes)) / 2
        for box in boxes:
            wide, tall = box_size(box)
            page.boxes[box.id] = Area(x, middle - tall / 2, x + wide, middle + tall / 2)
            x += wide + _GAP
        left += width
        before = boxes[-1].id


def _stack_height(picture: Picture, numbers: Sequence[int]) -> float:
    """Returns the height of the labels of some edges, one below the other."""
    return sum(len(label_lines(picture.edges[number])) * LINE + 6 for number in numbers)


def _place_lines(
    page: Page,
    picture: Picture,
    straight: set[tuple[str, str]],
    row_of: dict[str, int],
    tracks: Sequence[dict[int, float]],
) -> None:
    """Sets the corners of each line."""
    doors = _doors(page, picture)
    right = page.right
    leaving: dict[str, list[int]] = {}
    entering: dict[str, list[int]] = {}
    for number, edge in enumerate(picture.edges):
        targets = [target for target in edge.targets if (edge.source, target) not in straight]
        for target in targets:
            entering.setdefault(target, []).append(number)
        if targets:
            leaving.setdefault(edge.source, []).append(number)
    followers = {target for _, target in straight}
    margin = right
    for number, edge in enumerate(picture.edges):
        source = page.boxes[edge.source]
        margin += _TRACK if any(row_of[target] > row_of[edge.source] + 1 for target in edge.targets) else 0
        for target in edge.targets:
            area = page.boxes[target]
            height = area.middle[1]
            if (edge.source, target) in straight:
                page.lines[number, target] = [(source.right, source.middle[1]), (area.left, height)]
                continue
            place = entering[target].index(number)
            height -= min(12 * (place + (target in followers)), (area.bottom - area.top) / 2 - 8)
            beside = leaving[edge.source]
            x = source.middle[0] + (beside.index(number) - (len(beside) - 1) / 2) * _TRACK
            door = doors[target] - 3 * place
            first, last = row_of[edge.source], row_of[target]
            track = tracks[first][number]
            corners = [(x, source.bottom), (x, track)]
            if last > first + 1:
                track = tracks[last - 1][number]
                corners += [(margin, tracks[first][number]), (margin, track)]
            page.lines[number, target] = [*corners, (door, track), (door, height), (area.left, height)]


def _place_labels(page: Page, picture: Picture) -> None:
    """Places each label on a track at its line, so that it hides no corner of it and as few other lines as possible."""
    columns = [
        (x, min(top, bottom), max(top, bottom))
        for corners in page.lines.values()
        for (x, top), (other, bottom) in pairwise(corners)
        if x == other
    ]
    right = page.right
    for (number, _), corners in page.lines.items():
        if not picture.edges[number].label or number in page.labels:
            continue
        (start, y), (end, _) = corners[1:3]
        first, second = track_lines(picture.edges[number])
        half = max(text_width(first, TEXT, bold=True), text_width(second, TEXT)) / 2
        middle = max(half, min((start + end) / 2, right - half))
        crossing = [x for x, top, bottom in columns if top < y + LINE and bottom > y - LINE]
        far = half + abs(end - start) / 2 + _BESIDE
        beside = [x + side * (half + _BESIDE / 2) for x in crossing for side in (-1, 1)]
        places = [middle, *(place for place in beside if half <= place <= right - half and abs(place - middle) <= far)]
        hidden = {place: (_hidden(place, half, (start, end)), _hidden(place, half, crossing)) for place in places}
        page.labels[number] = min(places, key=lambda place: (hidden[place], abs(place - middle))), y


def _hidden(place: float, half: float, columns: Sequence[float]) -> int:
    """Counts the columns that a label hides."""
    return sum(abs(place - x) < half for x in columns)


def _doors(page: Page, picture: Picture) -> dict[str, float]:
    """Returns, for each box, the x position where a line comes down to it: left of the frame for its first box."""
    doors = {}
    for place, cluster in enumerate(picture.clusters):
        frame = page.frames.get(place)
        for box in cluster.boxes:
            left = page.boxes[box.id].left
            room = _GAP / 2 if frame is None or left - frame.left > _PAD + _GAP else _PAD / 2
            doors[box.id] = frame.left - 8 if frame is not None and box is cluster.boxes[0] else left - room
    return doors
