"""Trains what was cut: tails on cached features, and stages step by step.

In reading order:

- `features/`: features of a frozen head, cached on disk.
- `fine_tuning`: a tail trained on them: `fine_tune`.
- `steps/`: training steps through the stages.
- `ray/`: these steps on Ray.
"""
