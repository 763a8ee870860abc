"""Exports stages for other runtimes, compares and runs them.

In reading order:

- `formats/`: one module per format.
- `manifest`: reads and checks `kerassplit-export.json`.
- `reasons`: errors of other libraries, shortened.
- `running`: runs exported stages, without Keras.
- `worker`: the process that traces, converts and runs.
- `processes`: starts that process.
- `receipt`: the result: what was written, and how close its numbers are.
- `comparing`: compares exported stages with the stages in Keras.
- `export`: the whole export: `Split.export`.
"""
