"""Writes a picture as plain text, for terminals."""

from kerassplit.pictures.picture import Box, Cluster, Edge, Picture


def to_text(picture: Picture) -> str:
    """Returns a picture as text: one line per box and, below each stage, the tensors that cross from it."""
    lines = [picture.title, picture.subtitle, ""]
    cells = [_cells(box) for cluster in picture.clusters for box in cluster.boxes]
    widths = [max((len(row[column]) for row in cells), default=0) for column in range(3)]
    names = {box.id: box.title for cluster in picture.clusters for box in cluster.boxes}
    incoming: dict[str, list[str]] = {}
    for edge in picture.edges:
        if not edge.label:
            for target in edge.targets:
                incoming.setdefault(target, []).append(edge.source)
    for cluster in picture.clusters:
        lines.extend(_cluster_lines(cluster, widths, names, incoming))
        ours = {box.id for box in cluster.boxes}
        for edge in picture.edges:
            if edge.label and edge.source in ours:
                lines.append(_crossing_line(edge, names))
    return "\n".join([*lines, ""])


def _cluster_lines(
    cluster: Cluster, widths: list[int], names: dict[str, str], incoming: dict[str, list[str]]
) -> list[str]:
    lines = [" · ".join((f"┌─ {cluster.name}", *cluster.lines))] if cluster.name else []
    before = None
    for box in cluster.boxes:
        cells = [cell.ljust(width) for cell, width in zip(_cells(box), widths, strict=True)]
        line = "  ".join(["│" if cluster.name else "", *cells])
        line += "".join(f"  {edit}" for edit in box.edits)
        if box.mark:
            line += f"  ● {box.mark}"
        sources = list(dict.fromkeys(incoming.get(box.id, [])))
        if sources and sources != [before]:
            line += f"  ← {', '.join(names[source] for source in sources)}"
        lines.append(line.rstrip())
        before = box.id
    return [*lines, "└─"] if cluster.name else lines


def _crossing_line(edge: Edge, names: dict[str, str]) -> str:
    arrow = "═══▶" if edge.kind == "cut" else "- - ▶"
    return f"   {arrow} {' · '.join(edge.label)}  (to {', '.join(names[target] for target in edge.targets)})"


def _cells(box: Box) -> tuple[str, str, str]:
    title = f"‖{box.title}‖" if box.count > 1 else f" {box.title}"
    shape = box.shape if box.is_input or not box.shape else f"→ {box.shape}"
    return title, " · ".join(box.lines), shape
