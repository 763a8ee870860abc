"""Loads a `keras.Model` from a file or by the name of an architecture.

Weights are never silently random: they are requested or downloaded, or an error explains why they could not be.
"""

import contextlib
import io
import json
import os
import random
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import keras

from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.files.untrusted import hashed, opened
from kerassplit.graph.internals.loading import load_file, load_h5_file
from kerassplit.graph.sizes import Shape
from kerassplit.zoo.downloads import impatient, in_thread, unreachable
from kerassplit.zoo.model_file import find_problem, find_problem_in_h5
from kerassplit.zoo.names import check_model, find_architecture, is_file_name
from kerassplit.zoo.random_weights import randomize, smooth_noise
from kerassplit.zoo.user_code import gone_with_old_keras, keras_reason, way_to_code


def architecture_module(name: str) -> ModuleType:
    """Returns the module in `keras.applications` with an architecture's `preprocess_input` and `decode_predictions`."""
    module = getattr(keras.applications, name).__module__.rsplit(".", 1)[-1]
    return getattr(keras.applications, module)


def load_model(
    name_or_file: str | Path,
    *,
    weights: str | Path | None = None,
    input_shape: Sequence[int | None] | None = None,
    seed: int = 0,
    unsafe: bool = False,
) -> keras.Model:
    """Opens a model file, or builds an architecture of `keras.applications`.

    Args:
        name_or_file: A `.keras` or `.h5` file, or a name such as `"ResNet50"` (case-insensitive).
        weights: `"imagenet"` (downloaded by Keras, once), `"random"` (seeded, with random batch-norm statistics), or a
            weights file. `None`: a file's own weights; for an architecture only the structure, with meaningless weights
            that take no memory. Unnamed layers are numbered from 0, whatever was built before.
        input_shape: Shape of one sample, such as `(160, 160, 3)`; architectures only.
        seed: Seed for random weights, and for other random state created with the model (dropout). The same seed gives
            the same weights in every process; the global generators of Python, NumPy and Keras are left unchanged.
        unsafe: Allows a file to contain code: the functions of `Lambda` layers run with your permissions. Use it only
            for files from sources you trust.

    Returns:
        The model, not compiled.

    Raises:
        SplitError: There is no such file or architecture, it cannot be opened or built, or its weights are unavailable.
            Its cause is Keras's own error.

    Example:

    >>> load_model("ResNet50", weights="random", input_shape=(64, 64, 3)).output_shape
    (None, 1000)
    """
    check_model(name_or_file, weights, input_shape)
    if is_file_name(name_or_file):
        return _open_file(Path(name_or_file), weights, seed, unsafe)
    name = find_architecture(str(name_or_file)) or str(name_or_file)
    shape = None if input_shape is None else tuple(input_shape)
    if weights == "imagenet":
        return _with_imagenet(name, shape, seed)
    with _random_state_kept(seed):
        if weights is None:
            return _in_own_thread(lambda: _structure(name, shape))
        model = _in_own_thread(lambda: _built(name, shape))
    if weights == "random":
        pixels = smooth_noise([128 if side is None else side for side in model.input_shape[1:]], seed)
        randomize(model, seed, architecture_module(name).preprocess_input(pixels[None]))
    else:
        _load_weights(model, weights)
    return model


def _built(name: str, shape: Shape | None, weights: str | None = None) -> keras.Model:
    try:
        build = getattr(keras.applications, name)
        return build(weights=weights, **({} if shape is None else {"input_shape": shape}))
    except ValueError as error:
        what = "" if shape is None else f" for the input shape {shape}"
        raise SplitError(f"Keras cannot build {name}{what}: {keras_reason(error)}") from error


def _structure(name: str, shape: Shape | None) -> keras.Model:
    """Builds the model with variables that never get values, so that even the largest takes no time or memory."""
    with keras.StatelessScope(initialize_variables=False):
        return _built(name, shape)


def _with_imagenet(name: str, shape: Shape | None, seed: int) -> keras.Model:
    remedy = "Pass a weights file (weights=FILE, --weights FILE), or use weights='random' (--weights random)."
    refusal = unreachable()
    # A cached file needs no network, so Keras looks for it anyway, but does not wait for a download.
    quiet = contextlib.redirect_stdout(io.StringIO()) if refusal else contextlib.nullcontext()  # hides "Downloading"
    with impatient(reachable=refusal is None), _random_state_kept(seed), quiet:
        try:
            return _in_own_thread(lambda: _built(name, shape, "imagenet"))
        except SplitError:
            raise
        except Exception as error:  # Keras raises a bare Exception when a download fails
            reason = refusal or keras_reason(error)
            raise SplitError(f"The ImageNet weights of {name} could not be downloaded: {reason} {remedy}") from error


@contextlib.contextmanager
def _random_state_kept(seed: int) -> Iterator[None]:
    """Derives Keras's default seeds (initial weights, dropout) from `seed`, and restores the user's random state.

    Keras draws them from Python's `random` and uses no other global generator.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _in_own_thread(build: Callable[[], keras.Model]) -> keras.Model:
    """Builds a model in a separate thread, because Keras keeps its global state per thread.

    There, unnamed layers are numbered from 0, whatever was built before, so that names are the same in every process;
    and variables without values are not kept for later initialization.
    """
    policy, logging = keras.config.dtype_policy(), keras.config.is_interactive_logging_enabled()
    distribution = keras.distribution.distribution()

    def run() -> keras.Model:
        keras.config.set_dtype_policy(policy)
        if not logging:
            keras.config.disable_interactive_logging()
        if distribution is not None:
            keras.distribution.set_distribution(distribution)
        return build()

    return in_thread(run).result()


def _open_file(path: Path, weights: str | Path | None, seed: int, unsafe: bool) -> keras.Model:
    try:
        model = _read(path, unsafe)
    except SplitError:
        raise
    except Exception as error:  # h5py, zipfile, json and Keras raise unrelated errors
        if not unsafe and "safe_mode" in str(error):
            raise SplitError(
                f"'{path}' contains code (a Lambda layer, for example) that would run with your permissions. If "
                "you trust its source, pass unsafe=True (--unsafe)."
            ) from error
        load = f"keras.saving.load_model('{path}', custom_objects={{objects}}) returns the model to pass on"
        version = _written_by(path)
        gone = gone_with_old_keras(error, version)
        way = "" if gone else f"{way_to_code(error, load)}{_way_to_weights(path)}"
        reason = f"{gone or keras_reason(error)}{_version_note(version)}{way}"
        raise SplitError(f"'{path}' cannot be opened as a Keras model: {reason}") from error
    if not isinstance(model, keras.Model):
        raise UnsupportedModelError(f"'{path}' contains a {type(model).__name__}, not a keras.Model.")
    if weights == "random":
        randomize(model, seed)
    elif weights is not None:
        _load_weights(model, weights)
    return model


def _read(path: Path, unsafe: bool) -> Any:
    """Loads a file after checking it: Keras reads the same bytes that were checked."""
    check, load = (find_problem, load_file) if path.suffix == ".keras" else (find_problem_in_h5, load_h5_file)
    place = Path(os.path.realpath(path))  # follows the user's own link, but not one put there afterwards
    with opened(place.parent, place.name) as file, hashed(file, path) as (stream, _):
        reason = None if unsafe else check(stream)
        if reason:
            raise SplitError(
                f"'{path}' contains something that Keras never writes: {reason}. Nothing was loaded. If you trust its "
                "source, pass unsafe=True (--unsafe)."
            )
        return load(stream, not unsafe)


def _way_to_weights(path: Path) -> str:
    """Explains how to use a file that only contains weights; empty for other files."""
    try:
        with h5py.File(path) as file:
            alone = "model_config" not in file.attrs and ("layer_names" in file.attrs or {"layers", "vars"} & {*file})
    except OSError:
        return ""
    if not alone:
        return ""
    return (
        "\nIt contains only weights. Name the model they belong to, a file or an architecture, and pass them with "
        f"weights='{path}' (--weights {path})."
    )


def _written_by(path: Path) -> str:
    """Returns the version of Keras that wrote a model file; empty if the file does not contain it."""
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
        else:
            with h5py.File(path) as file:
                version = file.attrs["keras_version"]
        return version.decode() if isinstance(version, bytes) else str(version)
    except Exception:  # damaged, or not a model: Keras's own error has to suffice
        return ""


def _version_note(version: str) -> str:
    """Explains which other version of Keras wrote a model file, and what to do with an old one."""
    if version in ("", keras.__version__):
        return ""
    old = version.startswith(("1.", "2."))
    remedy = " Load it with that version, build the model with this one, and copy: new.set_weights(old.get_weights())."
    return f" It was written by Keras {version}; this is Keras {keras.__version__}.{remedy if old else ''}"


def _load_weights(model: keras.Model, weights: str | Path) -> None:
    path = Path(weights)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras only warns about missing weights, and continues
            model.load_weights(path)
    except Exception as error:  # as above
        raise SplitError(f"'{path}' contains no weights for '{model.name}': {keras_reason(error)}") from error
