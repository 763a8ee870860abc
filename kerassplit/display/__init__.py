"""Shows people numbers, tables, progress and charts.

In reading order:

- `units`: numbers with units, written and parsed.
- `colors`: colors that mean the same everywhere.
- `rich_table`: objects that print as tables, and the console that prints them.
- `table`: tables that fit the screen and keep names whole.
- `progress`: a progress bar on standard error.
- `file_formats`: what pictures and charts are written as.
- `chart`: charts drawn by matplotlib.
"""
