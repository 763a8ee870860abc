"""Writes a picture as a Mermaid flowchart, which GitHub and many notebooks render."""

from kerassplit.display.colors import CUT, EDITS
from kerassplit.pictures.picture import Box, Edge, Picture
from kerassplit.pictures.write_dot import BORDERS, CARRIED, FILLS


def to_mermaid(picture: Picture) -> str:
    """Returns a Mermaid flowchart from left to right, or from top to bottom if it has many boxes."""
    count = sum(len(cluster.boxes) for cluster in picture.clusters)
    title = picture.title.replace("\\", "\\\\").replace('"', "'")
    lines = ["---", f'title: "{title}"', "---", f"flowchart {'LR' if count <= 16 else 'TB'}"]
    lines.append(f"  %% {picture.subtitle}")
    for place, cluster in enumerate(picture.clusters):
        if not cluster.name:
            lines.extend(f"  {_box(box)}" for box in cluster.boxes)
            continue
        lines.append(f'  subgraph stage{place}["{_text((cluster.name, *cluster.lines))}"]')
        lines.extend(f"    {_box(box)}" for box in cluster.boxes)
        lines.append("  end")
        lines.append(f"  style stage{place} fill:{FILLS[place % len(FILLS)]},stroke:{BORDERS[place % len(BORDERS)]}")
    for box in (box for cluster in picture.clusters for box in cluster.boxes if box.edits):
        color, fill = EDITS[box.edits[0][0]]
        lines.append(f"  style {box.id} fill:{fill},stroke:{color},stroke-width:3px")
    styles: dict[str, list[int]] = {CUT: [], CARRIED: []}
    number = 0
    for edge in picture.edges:
        for target in edge.targets:
            lines.append(f"  {edge.source} {_arrow(edge)} {target}")
            if edge.kind in ("cut", "carried"):
                styles[CUT if edge.kind == "cut" else CARRIED].append(number)
            number += 1
    for color, numbers in styles.items():
        if numbers:
            width = 4 if color == CUT else 1
            lines.append(f"  linkStyle {','.join(map(str, numbers))} stroke:{color},stroke-width:{width}px")
    return "\n".join([*lines, ""])


def _box(box: Box) -> str:
    shape = [] if not box.shape else [box.shape if box.is_input else f"→ {box.shape}"]
    mark = [f"● {box.mark}"] if box.mark else []
    text = _text((box.title, *box.lines, *shape, *box.edits, *mark))
    opening, closing = ("[[", "]]") if box.count > 1 else ("([", "])") if box.is_input else ("[", "]")
    return f'{box.id}{opening}"{text}"{closing}'


def _arrow(edge: Edge) -> str:
    arrow = {"flow": "-->", "open": "-->", "cut": "==>", "carried": "-.->"}[edge.kind]
    return f'{arrow}|"{_text(edge.label)}"|' if edge.label else arrow


def _text(lines: tuple[str, ...]) -> str:
    first, *rest = (
        line.replace("#", "#35;").replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
        for line in lines
    )
    return "<br/>".join([f"<b>{first}</b>", *rest])
