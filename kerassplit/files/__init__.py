"""Reads files from untrusted sources, and writes files completely or not at all.

In reading order:

- `sizes`: formats and parses numbers of bytes.
- `untrusted`: reads files of a folder from an untrusted source.
- `atomic_file`: files named by users: only regular ones are read, writes are atomic.
- `locks`: locks between processes.
- `atomic_folder`: folders that appear complete or not at all.
- `untrusted_json`: reads untrusted JSON into typed records.
- `saved`: records with `save` and `load`.
- `npy`: reads untrusted `.npy` data.
- `values`: checks and converts values for a model, and counts.
- `arrays`: reads arrays in `.npy` and `.npz` files in parts.
- `growing_array`: `.npy` files that rows are appended to, and that survive crashes.
- `native_output`: captures what C and C++ libraries write to standard error.
"""
