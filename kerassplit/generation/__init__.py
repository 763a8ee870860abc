"""Language models over stages: each stage holds the caches of its own transformer blocks.

In reading order:

- `task`: what a causal language model of KerasHub consists of, and which ones are refused.
- `step`: the forward pass with caches as a graph, cut between blocks.
- `sampling`: tokens from logits, as KerasHub's samplers choose them.
- `shell`: a task without weights on disk: its preprocessor and its sampler.
- `generation`: `Generation`, `split_generation`, `load_generation`.
"""
