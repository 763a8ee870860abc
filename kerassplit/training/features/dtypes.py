"""The types that features are stored as."""

import keras
import ml_dtypes
import numpy as np

from kerassplit.errors import SplitError

STORAGE = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def backend_type(dtype: str) -> str:
    """The type of a tensor made of an array of a type: JAX has none of 64 bits, unless told to, and warns of them."""
    wide = np.dtype(dtype).kind in "iuf" and np.dtype(dtype).itemsize == 8
    return keras.backend.standardize_dtype(keras.ops.convert_to_tensor(np.zeros(1, dtype)).dtype) if wide else dtype


def stored_type(dtype: np.dtype, storage: str) -> np.dtype:
    """The type that features of a type are stored as: never a larger one; integers stay as they are.

    >>> stored_type(np.dtype("float32"), "float16"), stored_type(np.dtype("int8"), "float16")
    (dtype('float16'), dtype('int8'))
    """
    wanted = np.dtype(STORAGE[storage])
    is_floating = dtype.kind == "f" or dtype == ml_dtypes.bfloat16
    return wanted if is_floating and wanted.itemsize < dtype.itemsize else dtype


def as_stored(name: str, array: np.ndarray, storage: str) -> np.ndarray:
    """Features as they are stored.

    Raises:
        SplitError: They are too large for the type.
    """
    with np.errstate(over="ignore"):
        kept = array.astype(stored_type(array.dtype, storage), order="C", copy=False)
    if kept.dtype != array.dtype and not np.all(np.isfinite(kept) | ~np.isfinite(array)):
        largest = np.max(np.abs(array), initial=0, where=np.isfinite(array))
        raise SplitError(
            f"'{name}' reaches {largest:.6g}, which is more than {storage} can hold. Store it as another type: "
            "bfloat16 goes as far as float32, float16 to 65,504."
        )
    return kept
