"""Costs of a model and its calls: parameters, bytes, FLOPs and seconds.

records: costs of a call, a block, a tensor, a variable.
memory: peak bytes of live tensors.
figures: all of a model's records, and their totals.
tables: prints figures as tables.
chart: draws figures.
profile: `Profile`: figures to print, draw, save and load.
running: runs models to measure them.
timing: measures the seconds of blocks on this device.
sample: the sample that tensors are packed of.
wire_costs: measures the bytes, seconds and errors of packed tensors.
profiling: `profile`: from a model to its `Profile`.
"""
