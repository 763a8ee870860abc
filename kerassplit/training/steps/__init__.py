"""Runs training steps through the stages of a split.

In reading order:

- `gradients`: vector-Jacobian products on each backend.
- `loss`: the loss of a batch and its gradients.
- `optimizers`: one optimizer for each stage.
- `stage_trainer`: trains one stage.
- `train_step`: a step through all of them: `train_step`.
"""
