"""Colors with the same meaning in every picture and chart."""

CUT = "#C62828"
EDITS = {"+": ("#0B5394", "#D6E8FA"), "≠": ("#7A4F00", "#FFE8B0")}
"""Color and fill of what was inserted (+) or replaced (≠): blue and yellow differ for color-blind people, too."""
