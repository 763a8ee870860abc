"""Colors with the same meaning in every picture and chart."""

CUT = "#C62828"
