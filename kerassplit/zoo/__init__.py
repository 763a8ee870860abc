"""Loads models by name or file, and converts photographs to arrays.

In reading order:

- `names`: names of architectures and model files, checked without Keras.
- `layer_names`: names of tensors in a `.keras` file, also without Keras.
- `user_code`: imports custom layers.
- `downloads`: downloads that fail quickly.
- `random_weights`: random weights that reveal mistakes.
- `model_config`: checks the config of a model file before Keras reads it.
- `model_file`: checks the rest of a model file.
- `models`: loads a model by name or file: `load_model`.
- `pixels`: converts an opened image to pixels.
- `photos`: converts a photograph to model input.
- `encoding`: measures what photographs take as files: `encoded_bytes`.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kerassplit.zoo.models import load_model as load_model

# As in `kerassplit` itself, Keras is imported when a name is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"models": ["load_model"]})
