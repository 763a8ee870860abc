"""The dtypes in which features are stored."""

import keras
import ml_dtypes
import numpy as np

from kerassplit.errors import SplitError

STORAGE = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def backend_type(dtype: str) -> str:
    """Returns the dtype of a tensor built from an array: by default, JAX narrows 64-bit dtypes, with a warning."""
    wide = np.dtype(dtype).kind in "iuf" and np.dtype(dtype).itemsize == 8
    return keras.backend.standardize_dtype(keras.ops.convert_to_tensor(np.zeros(1, dtype)).dtype) if wide else dtype


def stored_type(dtype: np.dtype, storage: str) -> np.dtype:
    """Returns the dtype in which features are stored: never a larger one; integers stay as they are.

    >>> stored_type(np.dtype("float32"), "float16"), stored_type(np.dtype("int8"), "float16")
    (dtype('float16'), dtype('int8'))
    """
    wanted = np.dtype(STORAGE[storage])
    is_floating = dtype.kind == "f" or dtype == ml_dtypes.bfloat16
    return wanted if is_floating and wanted.itemsize < dtype.itemsize else dtype


def as_stored(name: str, array: np.ndarray, storage: str) -> np.ndarray:
    """Converts features to the dtype in which they are stored.

    Raises:
        SplitError: Their values are too large for it.
    """
    with np.errstate(over="ignore"):
        kept = array.astype(stored_type(array.dtype, storage), order="C", copy=False)
    if kept.dtype != array.dtype and not np.all(np.isfinite(kept) | ~np.isfinite(array)):
        largest = np.max(np.abs(array), initial=0, where=np.isfinite(array))
        raise SplitError(
            f"'{name}' reaches {largest:.6g}, which is more than {storage} can hold. Store it as another type: "
            "bfloat16 has the range of float32, float16 goes up to 65,504."
        )
    return kept
