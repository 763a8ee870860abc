"""Saves splits to disk: as Keras files, and in other formats.

In reading order:

- `structure`: fields that both manifests share.
- `manifest`: reads, checks and writes `kerassplit.json`.
- `saving`, `loading`: write and read stages.
- `exports/`: exports stages for other runtimes.
"""
