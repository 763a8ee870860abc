"""Writes a picture as Graphviz source, in one row from left to right, or in several rows if that is too wide."""

import html
from collections.abc import Sequence

from kerassplit.display.colors import CUT, EDITS
from kerassplit.pictures.lettering import (
    BORDER,
    HEADER,
    NAME,
    STAGE,
    TEXT,
    TITLE,
    box_size,
    edit_lines,
    mark_lines,
    name_lines,
    text_lines,
    text_width,
)
from kerassplit.pictures.picture import Box, Cluster, Edge, Picture
from kerassplit.pictures.rows import Page, Point, label_lines, place_in_rows, track_lines

FILLS = ("#E3F2FD", "#FFF3E0", "#E8F5E9", "#F3E5F5", "#FFFDE7", "#E0F7FA", "#FBE9E7", "#ECEFF1")
BORDERS = ("#1565C0", "#E65100", "#2E7D32", "#6A1B9A", "#B28704", "#00838F", "#BF360C", "#455A64")
CARRIED = "#6D4C41"

WIDEST = 780
"""Largest width of pictures in points: on a page 830 pixels wide, the smallest letters are then 12 pixels high."""

_GAP = 24  # points, between boxes
_ROUND = 6  # points, of a corner of a line
_FONT = "Helvetica"


def to_dot(picture: Picture, widest: float = WIDEST) -> str:
    """Returns Graphviz source. If one row is too wide, it fixes all positions, which the layout `nop2` keeps.

    Args:
        picture: The picture.
        widest: Largest width in points.
    """
    page = place_in_rows(picture, widest) if _row_width(picture) > widest else None
    title = f'<b><font point-size="{TITLE}">{html.escape(picture.title)}</font></b>'
    subtitle = html.escape(picture.subtitle)
    for sign, color in {"●": CUT, **{sign: color for sign, (color, _) in EDITS.items()}}.items():
        subtitle = subtitle.replace(sign, _colored(sign, color))
    lines = [
        "digraph picture {",
        f'  graph [rankdir=LR, newrank=true, labelloc=t, fontname="{_FONT}", fontsize=13, nodesep=0.18, ranksep=0.33,',
        f"         pad=0.15, bgcolor=white, outputorder=edgesfirst{', layout=nop2' if page else ''},",
        f"         label={_table([title, subtitle], 5)}];",
        f'  node [shape=box, style="filled,rounded", fillcolor=white, color="#37474F", fontname="{_FONT}",',
        f'        fontsize={TEXT}, margin="0.09,0.04", height=0.3];',
        f'  edge [color="#37474F", fontname="{_FONT}", fontsize={TEXT}, arrowsize=0.7];',
    ]
    for place, cluster in enumerate(picture.clusters):
        lines.extend(_cluster(cluster, place, page))
    for number, edge in enumerate(picture.edges):
        lines.extend(_edge(edge, f"t{number}") if page is None else _placed_edge(edge, number, page))
    return "\n".join([*lines, "}", ""])


def _cluster(cluster: Cluster, place: int, page: Page | None) -> list[str]:
    color = BORDERS[place % len(BORDERS)]
    boxes = [_box(box, color if cluster.name else "#37474F", page) for box in cluster.boxes]
    if not cluster.name:
        return [f"  {line}" for line in boxes]
    fill = FILLS[place % len(FILLS)]
    name = f'<b><font point-size="{STAGE}" color="{color}">{html.escape(cluster.name)}</font></b>'
    label = _table([name, html.escape(" · ".join(cluster.lines))])
    style = f'style="filled,rounded"; fillcolor="{fill}"; color="{color}"; penwidth=1.5; margin=12;'
    if page is None:
        head = [f"label={label};", style]
    else:  # the label is a node of its own: lines pass below it
        area = page.frames[place]
        corners = f"{_points((area.left, area.bottom))},{_points((area.right, area.top))}"
        middle = _points((area.middle[0], area.top + HEADER / 2))
        head = [
            f'label=""; bb="{corners}";',
            style,
            f'h{place} [shape=plain, style=filled, fillcolor="{fill}", color="{fill}", label={label}, pos="{middle}"];',
        ]
    return [f"  subgraph cluster_{place} {{", *(f"    {line}" for line in (*head, *boxes)), "  }"]


def _box(box: Box, color: str, page: Page | None) -> str:
    parts = [f'<b><font point-size="{NAME}">{html.escape(line)}</font></b>' for line in name_lines(box)]
    parts.extend(html.escape(line) for line in text_lines(box))
    parts.extend(_colored(line, EDITS[sign][0]) for line, sign in edit_lines(box))
    parts.extend(_colored(line, CUT) for line in mark_lines(box))
    attributes = [f"label={_table(parts)}"]
    if box.edits:
        border, fill = EDITS[box.edits[0][0]]
        attributes.append(f'color="{border}", penwidth=2.5, fillcolor="{fill}"')
    else:
        attributes.append(f'color="{color}"')
    if box.count > 1:
        attributes.append("peripheries=2")
    if box.is_input:
        attributes.append('shape=box, style="filled", fillcolor="#CFD8DC"')
    if page is not None:
        area = page.boxes[box.id]
        border = BORDER if box.count > 1 else 0
        attributes.append(f'pos="{_points(area.middle)}", width={_inches(area.right - area.left - border)}')
        attributes.append(f"height={_inches(area.bottom - area.top - border)}")
    return f"{box.id} [{', '.join(attributes)}];"


def _style(edge: Edge) -> str:
    return {
        "flow": "",
        "open": f'dir=both, arrowtail=dot, color="{CUT}"',
        "cut": f'color="{CUT}", penwidth=4, arrowsize=0.8',
        "carried": f'color="{CARRIED}", style=dashed, penwidth=1.3',
    }[edge.kind]


def _label(edge: Edge, name: str, lines: Sequence[str], place: str = "") -> str:
    """Returns the label of an edge as a plain node in its middle, so that no line runs through the text."""
    color = CUT if edge.kind == "cut" else CARRIED
    first, *rest = lines
    parts = [f"<b>{html.escape(first)}</b>", *(html.escape(text) for text in rest)]
    label = _table(parts, 1 if place else 4)
    return f'  {name} [shape=plain, style=filled, color=white, fontcolor="{color}", label={label}{place}];'


def _edge(edge: Edge, label: str) -> list[str]:
    style = _style(edge)
    if not edge.label:
        return [f"  {edge.source} -> {target}{_list(style)};" for target in edge.targets]
    return [
        _label(edge, label, label_lines(edge)),
        f"  {edge.source} -> {label}{_list(style, 'dir=none')};",
        *(f"  {label} -> {target}{_list(style)};" for target in edge.targets),
    ]


def _placed_edge(edge: Edge, number: int, page: Page) -> list[str]:
    lines = []
    if edge.label:
        place = f', pos="{_points(page.labels[number])}"'
        text = label_lines(edge) if number in page.gaps else track_lines(edge)
        lines.append(_label(edge, f"t{number}", text, place))
    for target in edge.targets:
        tail = 6 if edge.kind == "open" else 0
        pos = f'pos="{_curve(page.lines[number, target], tail, 11 if edge.kind == "cut" else 7)}"'
        lines.append(f"  {edge.source} -> {target}{_list(_style(edge), pos)};")
    return lines


def _curve(corners: Sequence[Point], tail: float, head: float) -> str:
    """Returns a line with round corners in Graphviz's notation: the tip of its head, then Bézier curves."""
    start, end = corners[0], corners[-1]
    inner = [_towards(start, corners[1], tail), *corners[1:-1], _towards(end, corners[-2], head)]
    points = [inner[0]]
    for before, corner, after in zip(inner, inner[1:], inner[2:], strict=False):
        enter, leave = _towards(corner, before, _ROUND), _towards(corner, after, _ROUND)
        points += [points[-1], enter, enter, corner, corner, leave]
    points += [points[-1], inner[-1], inner[-1]]
    first = f"s,{_points(start)} " if tail else ""
    return f"{first}e,{_points(end)} {_points(*points)}"


def _towards(point: Point, other: Point, far: float) -> Point:
    """Returns the point at distance `far` from one point towards another, at most halfway."""
    x, y = other[0] - point[0], other[1] - point[1]
    part = min(far / (abs(x) + abs(y) or 1.0), 0.5)
    return point[0] + x * part, point[1] + y * part


def _points(*points: Point) -> str:
    """Formats points for Graphviz, whose y axis points up."""
    return " ".join(f"{x:.1f},{-y:.1f}" for x, y in points)


def _inches(points: float) -> str:
    return f"{points / 72:.3f}"


def _row_width(picture: Picture) -> float:
    """Estimates the width in points of the picture in one row, by its longest path."""
    reach: dict[str, float] = {}
    incoming: dict[str, list[tuple[str, float]]] = {}
    for edge in picture.edges:
        label = max((text_width(line, TEXT) for line in label_lines(edge)), default=0.0)
        for target in edge.targets:
            incoming.setdefault(target, []).append((edge.source, label + _GAP if label else 0.0))
    for cluster in picture.clusters:
        for box in cluster.boxes:
            before = max((reach.get(source, 0.0) + label for source, label in incoming.get(box.id, ())), default=0.0)
            reach[box.id] = before + box_size(box)[0] + _GAP
    return max(reach.values(), default=0.0) + 24 * len(picture.clusters)


def _colored(text: str, color: str) -> str:
    return f'<font color="{color}">{html.escape(text)}</font>'


def _table(lines: Sequence[str], margin: int = 0) -> str:
    """Returns lines as a label, spaced a little apart because fonts differ in height."""
    rows = "".join(f"<tr><td>{line}</td></tr>" for line in lines)
    plain = '<table border="0" cellborder="0" cellspacing="0" cellpadding='
    table = f'{plain}"1">{rows}</table>'
    return f'<{plain}"{margin}"><tr><td>{table}</td></tr></table>>' if margin else f"<{table}>"


def _list(*attributes: str) -> str:
    given = [attribute for attribute in attributes if attribute]
    return f" [{', '.join(given)}]" if given else ""
