"""Cuts models: split points, sub-models, stages, pieces, joining, and the proof that nothing changed.

- `frontiers`: the tensors that cross at a given place.
- `points`, `explaining`, `largest_layer`: where to cut, and why not elsewhere.
- `tensors`: names of all tensors.
- `crossings`: places where several tensors cross.
- `blocks`: the regions between split points.
- `submodel`: a part of a model as a model of its own.
- `crossing`, `arrays`, `stages`: stages and the tensors between them, as data.
- `stage_parts`, `cuts`: a model cut into stages.
- `part_of_model`: stages that are saved by the config of the whole model.
- `sharing`, `copying`: layers shared by several stages; copies of splits.
- `pieces`: taps, blocks, a Sequential model of blocks.
- `piece_tensors`, `adapters`, `joining`: pieces joined into one model.
- `comparison`, `structure`, `trial`, `receipt`, `verifying`: the proof.
- `layer_weights`, `matching`, `model_comparison`, `comparing`: where two models part.
"""
