"""Reads and writes what lies on disks: whole or not at all, and from strangers.

In reading order:

- `sizes`: bytes as people write and read them.
- `untrusted`: files of a folder that anyone may have written.
- `atomic_file`: files that users name: read if regular, written whole.
- `locks`: locks between processes.
- `atomic_folder`: folders that appear whole or not at all.
- `untrusted_json`: JSON from anyone, as records of stated types.
- `saved`: records that `save` writes and `load` reads.
- `npy`: the `.npy` format, read from anyone.
- `values`: values from outside as the type a model takes, and counts.
- `arrays`: arrays in `.npy` and `.npz` files, read part by part.
- `growing_array`: `.npy` files to which rows are added, and which of these survived a crash.
- `native_output`: what C and C++ write to standard error.
"""
