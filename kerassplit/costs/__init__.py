"""What the calls of a model cost: parameters, bytes, FLOPs and seconds.

records: costs of a call, a block, a tensor, a variable.
memory: bytes that live at one time.
figures: all of a model's records, and their totals.
tables: figures as tables for people.
chart: figures as a picture.
profile: `Profile`: figures that can be printed, drawn, written and read.
timing: seconds of blocks on this device.
profiling: `profile`: from a model to its `Profile`.
"""
