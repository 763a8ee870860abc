"""A picture as Graphviz source: in one row from left to right, or in several where that is too wide."""

import html
import itertools
import re
from collections.abc import Sequence

from kerassplit.display.colors import CUT
from kerassplit.pictures.picture import Box, Cluster, Edge, Picture

FILLS = ("#E3F2FD", "#FFF3E0", "#E8F5E9", "#F3E5F5", "#FFFDE7", "#E0F7FA", "#FBE9E7", "#ECEFF1")
BORDERS = ("#1565C0", "#E65100", "#2E7D32", "#6A1B9A", "#B28704", "#00838F", "#BF360C", "#455A64")
CARRIED = "#6D4C41"

_WIDEST = 1620  # points; at 1600 pixels the smallest letters are then nearly 12 pixels high
_TEXT, _NAME = 12, 14  # points
_GAP, _PADDING = 24, 22  # points, between boxes and beside the text in them
_FONT = "Helvetica"


def to_dot(picture: Picture) -> str:
    """Graphviz source. It names no place on the page: any `dot` lays it out, with the fonts that it finds.

    What crosses a cut is a small plain node in the middle of its edge: no line goes through the letters.
    """
    wrapped = _row_width(picture) > _WIDEST
    title = f'<b><font point-size="18">{html.escape(picture.title)}</font></b>'
    subtitle = html.escape(picture.subtitle).replace("●", _coloured("●", CUT))
    lines = [
        "digraph picture {",
        f'  graph [rankdir={"TB" if wrapped else "LR"}, newrank=true, labelloc=t, fontname="{_FONT}", fontsize=13,',
        f"         nodesep={0.22 if wrapped else 0.18}, ranksep={0.3 if wrapped else 0.33}, pad=0.15, bgcolor=white,",
        f"         label={_table([title, subtitle], 5)}];",
        f'  node [shape=box, style="filled,rounded", fillcolor=white, color="#37474F", fontname="{_FONT}",',
        f'        fontsize={_TEXT}, margin="0.09,0.04", height=0.3];',
        f'  edge [color="#37474F", fontname="{_FONT}", fontsize={_TEXT}, arrowsize=0.7];',
    ]
    rows = [_rows(cluster, wrapped) for cluster in picture.clusters]
    for place, cluster in enumerate(picture.clusters):
        lines.extend(_cluster(cluster, place, rows[place] if wrapped else [], wrapped))
    beside = _beside(rows) if wrapped else set()
    for number, edge in enumerate(picture.edges):
        lines.extend(_edge(edge, f"t{number}", wrapped, beside))
    if wrapped:
        lines.extend(_order(picture, rows, beside))
    return "\n".join([*lines, "}", ""])


def _cluster(cluster: Cluster, place: int, rows: Sequence[Sequence[str]], wrapped: bool) -> list[str]:
    color = BORDERS[place % len(BORDERS)]
    boxes = [_box(box, color if cluster.name else "#37474F") for box in cluster.boxes]
    same = [f"{{ rank=same; {'; '.join(row)} }}" for row in rows if len(row) > 1]
    if not cluster.name:
        return [f"  {line}" for line in (*boxes, *same)]
    name = f'<b><font point-size="15" color="{color}">{html.escape(cluster.name)}</font></b>'
    about = [html.escape(line) for line in cluster.lines]
    if wrapped:
        header, label = [f'h{place} [shape=plain, style="", label={_table([name, *about])}];'], '""'
    else:
        header, label = [], _table([name, " · ".join(about)])
    return [
        f"  subgraph cluster_{place} {{",
        f'    label={label}; style="filled,rounded"; fillcolor="{FILLS[place % len(FILLS)]}"; color="{color}";',
        f"    penwidth=1.5; margin={10 if wrapped else 12};",
        *(f"    {line}" for line in (*header, *boxes, *same)),
        "  }",
    ]


def _box(box: Box, color: str) -> str:
    parts = [f'<b><font point-size="{_NAME}">{html.escape(line)}</font></b>' for line in _name_lines(box)]
    parts.extend(html.escape(line) for line in box.lines)
    if box.shape:
        parts.append(html.escape(box.shape) if box.is_input else f"→ {html.escape(box.shape)}")
    if box.mark is not None:
        lines = _broken(box.mark)
        parts.extend(_coloured(f"● {line}" if line is lines[0] else line, CUT) for line in lines)
    attributes = [f"label={_table(parts)}", f'color="{color}"']
    if box.count > 1:
        attributes.append("peripheries=2")
    if box.is_input:
        attributes.append('shape=box, style="filled", fillcolor="#CFD8DC"')
    return f"{box.id} [{', '.join(attributes)}];"


def _edge(edge: Edge, label: str, wrapped: bool, beside: set[tuple[str, str]]) -> list[str]:
    style = {
        "flow": "",
        "open": f'dir=both, arrowtail=dot, color="{CUT}"',
        "cut": f'color="{CUT}", penwidth=4, arrowsize=0.8',
        "carried": f'color="{CARRIED}", style=dashed, penwidth=1.3',
    }[edge.kind]
    if not edge.label:
        loose = {target for target in edge.targets if wrapped and (edge.source, target) not in beside}
        return [
            f"  {edge.source} -> {target}{_list(style, 'weight=0' if target in loose else '')};"
            for target in edge.targets
        ]
    color = CUT if edge.kind == "cut" else CARRIED
    first, *rest = edge.label
    if wrapped:
        if edge.kind == "cut":
            first, rest = f"{first} · {rest[0]}", rest[1:]
        rest = [" · ".join(rest)]
    lines = [line for name in rest for line in ([name] if wrapped else _broken(name))]
    parts = [f"<b>{html.escape(first)}</b>", *(html.escape(line) for line in lines)]
    weight = "weight=0" if wrapped else ""
    return [
        f'  {label} [shape=plain, style="", fontcolor="{color}", label={_table(parts, 4)}];',
        f"  {edge.source} -> {label}{_list(style, 'dir=none', weight)};",
        *(f"  {label} -> {target}{_list(style, weight)};" for target in edge.targets),
    ]


def _rows(cluster: Cluster, wrapped: bool) -> list[list[str]]:
    """The boxes of a cluster in rows of about equal width, with the stage's name before the first."""
    widths = [_box_width(box) + _GAP for box in cluster.boxes]
    header = max((_width(line, _NAME) for line in (cluster.name, *cluster.lines)), default=0) + _GAP
    header = header if cluster.name else 0
    count = -(-sum(widths) // (_WIDEST - header))
    target = sum(widths) / count if count else 0
    rows: list[list[str]] = [[]]
    filled = 0.0
    for box, width in zip(cluster.boxes, widths, strict=True):
        if rows[-1] and (filled + width / 2 > target * len(rows)) and len(rows) < count:
            rows.append([])
        rows[-1].append(box.id)
        filled += width
    return rows


def _beside(rows: Sequence[Sequence[Sequence[str]]]) -> set[tuple[str, str]]:
    return {pair for cluster in rows for row in cluster for pair in itertools.pairwise(row)}


def _order(picture: Picture, rows: Sequence[Sequence[Sequence[str]]], beside: set[tuple[str, str]]) -> list[str]:
    """Invisible edges that keep boxes in a row side by side and the rows one below the other."""
    drawn = {(edge.source, target) for edge in picture.edges if not edge.label for target in edge.targets}
    lines = [f"  {one} -> {other} [style=invis];" for one, other in sorted(beside - drawn)]
    heads = []
    for place, cluster in enumerate(picture.clusters):
        starts = [row[0] for row in rows[place] if row]
        if cluster.name and starts:
            lines.append(f"  {{ rank=same; h{place} -> {starts[0]} [style=invis]; }}")
            starts[0] = f"h{place}"
        heads.extend(starts)
    below = [f"  {one} -> {other} [style=invis, weight=100];" for one, other in itertools.pairwise(heads)]
    return [*lines, *below]


def _row_width(picture: Picture) -> float:
    """About how many points wide the picture is in one row: that of its longest path."""
    reach: dict[str, float] = {}
    incoming: dict[str, list[tuple[str, float]]] = {}
    for edge in picture.edges:
        label = max((_width(line, _TEXT) for name in edge.label for line in _broken(name)), default=0.0)
        for target in edge.targets:
            incoming.setdefault(target, []).append((edge.source, label + _GAP if label else 0.0))
    for cluster in picture.clusters:
        for box in cluster.boxes:
            before = max((reach.get(source, 0.0) + label for source, label in incoming.get(box.id, ())), default=0.0)
            reach[box.id] = before + _box_width(box) + _GAP
    return max(reach.values(), default=0.0) + 24 * len(picture.clusters)


def _box_width(box: Box) -> float:
    names = [_width(line, _NAME) * 1.1 for line in _name_lines(box)]
    marks = [_width(line, _TEXT) + 10 for line in _broken(box.mark or "")]
    lines = [_width(line, _TEXT) for line in (*box.lines, f"→ {box.shape}")]
    return max([*names, *marks, *lines]) + _PADDING


def _width(text: str, size: int) -> float:
    return len(text) * size * 0.58


def _name_lines(box: Box) -> list[str]:
    """The title on several lines where it is long: boxes stay narrow."""
    if len(box.title) <= 14:
        return [box.title]
    for sign in (" · ", " … "):
        if sign in box.title:
            *first, last = box.title.split(sign)
            parts = [*(part + sign.rstrip() for part in first), last]
            return [line for part in parts for line in _broken(part)]
    return _broken(box.title)


def _broken(name: str, longest: int = 19) -> list[str]:
    """A long name on several lines, broken behind `_` or `/`."""
    lines = [""]
    for word in re.findall(r"[^_/]*[_/]|[^_/]+$", name):
        if not lines[-1] or len(lines[-1] + word.rstrip()) <= longest:
            lines[-1] += word
        else:
            lines.append(word)
    return lines if len(lines) < 2 or len(lines[-1]) > 3 else [*lines[:-2], lines[-2] + lines[-1]]


def _coloured(text: str, color: str) -> str:
    return f'<font color="{color}">{html.escape(text)}</font>'


def _table(lines: Sequence[str], margin: int = 0) -> str:
    """Lines as a label, a little apart from each other: fonts differ in how high they are."""
    rows = "".join(f"<tr><td>{line}</td></tr>" for line in lines)
    plain = '<table border="0" cellborder="0" cellspacing="0" cellpadding='
    table = f'{plain}"1">{rows}</table>'
    return f'<{plain}"{margin}"><tr><td>{table}</td></tr></table>>' if margin else f"<{table}>"


def _list(*attributes: str) -> str:
    given = [attribute for attribute in attributes if attribute]
    return f" [{', '.join(given)}]" if given else ""
