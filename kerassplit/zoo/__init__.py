"""Turns names and files into models, and photographs into arrays.

In reading order:

- `names`: what users call models, checked without Keras.
- `layer_names`: names of tensors in a `.keras` file, likewise.
- `user_code`: imports the user's own layers.
- `downloads`: downloads that fail quickly.
- `random_weights`: random weights that hide no mistakes.
- `model_config`: the config of a model file, checked before Keras reads it.
- `model_file`: the rest of a model file, likewise.
- `models`: names and files to models: `load_model`.
- `pixels`: an opened image to pixels.
- `photos`: a photograph to what a model takes.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerassplit.zoo.models import load_model as load_model

# As in `kerassplit` itself, Keras is imported when a name is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"models": ["load_model"]})
