"""Centers the texts of an SVG that Graphviz drew, so that they fit in any font.

Graphviz measures text in a font of this machine and writes where each text begins. In another font, the text would be
off center in its box. Here each text is anchored at its middle instead of its beginning, and the measured font is the
first choice for displaying it.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

_SVG = "http://www.w3.org/2000/svg"
_SHAPES = {f"{{{_SVG}}}{tag}" for tag in ("polygon", "path")}
_FAMILIES = "Helvetica,Arial,sans-serif"  # two of the same width, then any


def center_texts(svg: bytes, measured: str | None) -> bytes:
    """Centers each text of an SVG in the shape around it.

    Args:
        svg: The SVG as Graphviz writes it.
        measured: The font in which the texts were measured; `None` if there was none.
    """
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)
    families = _FAMILIES if measured is None else f"{measured},{_FAMILIES}"
    for group in root.iter(f"{{{_SVG}}}g"):
        areas = list(_areas(group))
        lines: dict[tuple[object, str | None], ElementTree.Element] = {}
        for text in group.findall(f"{{{_SVG}}}text"):
            text.set("font-family", families)
            if not areas:
                continue
            x, y = float(text.get("x", 0)), float(text.get("y", 0))
            around = [area for area in areas if area[0] <= x <= area[2] and area[1] <= y <= area[3]]
            area = min(around or areas, key=lambda area: (area[2] - area[0]) * (area[3] - area[1]))
            first = lines.setdefault((area, text.get("y")), text)
            if first is text:
                text.set("x", f"{(area[0] + area[2]) / 2:g}")
                text.set("text-anchor", "middle")
            else:  # a part of a line in another color or weight
                group.remove(text)
                first.append(_span(text))
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="utf-8") + b"\n"


def _areas(group: ElementTree.Element) -> Iterator[tuple[float, float, float, float]]:
    """Yields left, top, right and bottom of each shape in a group."""
    for shape in group:
        if shape.tag in _SHAPES:
            numbers = [float(one) for one in re.findall(r"-?[\d.]+", shape.get("points") or shape.get("d") or "")]
            yield min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def _span(text: ElementTree.Element) -> ElementTree.Element:
    span = ElementTree.Element(f"{{{_SVG}}}tspan", {"fill": "black", "font-weight": "normal"})
    span.attrib.update({key: value for key, value in text.attrib.items() if key in ("fill", "font-weight")})
    span.text = text.text
    return span
