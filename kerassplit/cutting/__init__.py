"""Cuts models: split points, sub-models, stages, pieces, joining, and the proof that nothing changed.

- `frontiers`: what crosses where.
- `points`, `explaining`, `largest_layer`: where to cut, and why not elsewhere.
- `tensors`: all that can be named.
- `crossings`: where two tensors or more cross.
- `blocks`: what lies between two split points.
- `submodel`: a part of a model as a model.
- `crossing`, `arrays`, `stages`: stages and what goes between them, as data.
- `stage_parts`, `cuts`: a model into stages.
- `sharing`, `copying`: layers that several stages share; copies of splits.
- `pieces`: taps, blocks, a Sequential model of blocks.
- `piece_tensors`, `adapters`, `joining`: pieces into one model.
- `exits`: trained exits at taps.
- `comparison`, `structure`, `trial`, `receipt`, `verifying`: the proof.
"""
