"""Exports stages for other runtimes, compares and runs them.

In reading order:

- `formats/`: a file for each format.
- `manifest`: `kerassplit-export.json`: read and checked.
- `reasons`: errors of other libraries, in short.
- `running`: exported stages run, without Keras.
- `worker`: the process that traces, converts and runs.
- `processes`: starts that process.
- `receipt`: the result: what was written, and how close its numbers are.
- `comparing`: exported stages beside those in Keras.
- `export`: all of it together: `Split.export`.
"""
