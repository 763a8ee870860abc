"""Trains split models: tails on cached features, and stages step by step.

In reading order:

- `features/`: features of a frozen head, cached on disk.
- `fine_tuning`: trains a tail on them: `fine_tune`.
- `steps/`: training steps through the stages.
- `ray/`: the same steps on Ray.
"""
