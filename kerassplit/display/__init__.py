"""Formats numbers, tables, progress bars and charts for people.

In reading order:

- `units`: formats and parses numbers with units.
- `colors`: colors with one meaning everywhere.
- `rich_table`: objects that print as tables, and the console that prints them.
- `table`: tables that fit the screen and keep names whole.
- `progress`: a progress bar on standard error.
- `file_formats`: file formats of pictures and charts.
- `chart`: charts drawn with matplotlib.
"""
