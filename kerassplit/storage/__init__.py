"""Keeps splits on disk: as Keras files, and in other formats.

In reading order:

- `structure`: what both manifests have in common.
- `manifest`: `kerassplit.json`: read, checked, written.
- `saving`: stages saved and loaded.
- `exports/`: stages for other runtimes.
"""
