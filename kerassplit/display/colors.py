"""Colors that mean the same in every picture and chart."""

CUT = "#C62828"
