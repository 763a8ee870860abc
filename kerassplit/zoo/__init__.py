"""Turns names and files into models, and photographs into arrays.

In reading order:

- `user_code`: imports the user's own layers.
- `downloads`: downloads that fail quickly.
- `random_weights`: random weights that hide no mistakes.
- `model_config`: the config of a model file, checked before Keras reads it.
- `model_file`: the rest of a model file, likewise.
- `models`: names and files to models: `load_model`.
- `pixels`: an opened image to pixels.
- `photos`: a photograph to what a model takes.
"""

from kerassplit.zoo.models import load_model

__all__ = ["load_model"]
