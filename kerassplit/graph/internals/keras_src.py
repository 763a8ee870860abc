"""Every private Keras name that kerassplit uses, in one place, and the error for a Keras that lacks one."""

# ruff: noqa: F401 (imported from here elsewhere)

from typing import TYPE_CHECKING, Any

import keras

from kerassplit._version import __version__
from kerassplit.errors import UnsupportedModelError

_TESTED = "3.13 to 3.15"


def unknown_keras(missing: str) -> UnsupportedModelError:
    """Returns the error for a Keras that lacks a private name that kerassplit needs."""
    return UnsupportedModelError(
        f"Keras {keras.__version__} has no {missing}, which kerassplit {__version__} needs; it was tested with Keras "
        f"{_TESTED}. Install one of these (pip install 'keras<3.16'), or a newer kerassplit."
    )


try:
    from keras.src.backend import compute_output_spec
    from keras.src.backend.common import global_state
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
    from keras.src.layers.layer import CallContext, CallSpec
    from keras.src.legacy.saving.legacy_h5_format import load_model_from_hdf5
    from keras.src.legacy.saving.saving_options import keras_option_scope
    from keras.src.legacy.saving.saving_utils import model_from_config
    from keras.src.models.functional import Functional
    from keras.src.ops import function as keras_function
    from keras.src.ops.function import make_node_key
    from keras.src.ops.node import KerasHistory, Node
    from keras.src.ops.symbolic_arguments import SymbolicArguments
    from keras.src.saving.saving_lib import load_model
    from keras.src.saving.serialization_lib import SafeModeScope
except ImportError as error:
    raise unknown_keras(f"'{error.name}' as it was ({error})") from error

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Keeps pyright quiet about imports from here: Keras has no type information."""
