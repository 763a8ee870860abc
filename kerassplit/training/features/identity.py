"""Identity of a feature cache, and how two identities differ."""

from collections.abc import Mapping
from typing import Any, TypedDict

from kerassplit.cutting.crossing import CrossingTensor
from kerassplit.display.units import format_shape
from kerassplit.graph.fingerprint import digest_of_calls, digest_of_weights
from kerassplit.text import listed
from kerassplit.training.features.head import FeatureHead
from kerassplit.training.features.rows import Data, Rows, digest_of

_PLAIN = {"preprocess": "the preprocessing", "storage": "the storage", "repeats": "repeats"}


class _Head(TypedDict):
    layers: str
    weights: str


class _Data(TypedDict):
    rows: int | None
    batches: int | None
    batch: int
    spec: dict[str, str]
    content: dict[str, str]


class Identity(TypedDict):
    """Identity of a cache, as returned by `identity_of` and `first_rows`."""

    head: _Head
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    data: _Data
    preprocess: str
    storage: str
    repeats: int
    first: "_First"


_First = TypedDict("_First", {"rows": int, "came as": dict[str, str], "prepared as": str})


def identity_of(head: FeatureHead, data: Data, preprocess: str, storage: str, repeats: int) -> dict[str, Any]:
    """Identifies a cache. Names of layers and tensors do not count, as Keras changes them when code is run again.

    Args:
        head: Computes the features.
        data: The rows.
        preprocess: Name of the preprocessing.
        storage: Dtype in which features are stored.
        repeats: Number of passes over the data.
    """
    takes = head.route.takes
    known = [*head.stage.outputs, *(tensor.name for tensor in takes)]
    return {
        "head": {"layers": digest_of_calls(head.stage.model), "weights": digest_of_weights(head.stage.model)},
        "takes": [_described(tensor) for tensor in takes],
        "gives": [f"{_described(tensor)} (number {known.index(tensor.name)})" for tensor in head.tensors],
        "data": {
            "rows": data.rows,
            "batches": data.batches,
            "batch": data.first.rows,
            "spec": data.first.spec,
            "content": data.content(),
        },
        "preprocess": preprocess,
        "storage": storage,
        "repeats": repeats,
    }


def _described(tensor: CrossingTensor) -> str:
    return f"{format_shape(tensor.shape)} {tensor.dtype}"


def first_rows(rows: Rows, prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Identifies the first rows, both raw and preprocessed."""
    return {"rows": rows.rows, "came as": rows.digests(), "prepared as": digest_of(dict(prepared))}


def differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describes how two identities differ; empty if they do not.

    Args:
        was: Identity of the existing cache, with its `"first"` rows.
        now: Identity of the requested cache, likewise.
    """
    found = [f"the head has other {part}" for part, digest in now["head"].items() if digest != was["head"][part]]
    found += [
        f"the head {past} {', '.join(was[key])} and now {key} {', '.join(now[key])}"
        for key, past in (("takes", "took"), ("gives", "gave"))
        if was[key] != now[key]
    ]
    found += [f"{words} was {was[key]} and is now {now[key]}" for key, words in _PLAIN.items() if was[key] != now[key]]
    data = _differing_data(was, now)
    if not data and not found and was["first"]["prepared as"] != now["first"]["prepared as"] and now["repeats"] == 1:
        found.append(
            "the preprocessing returns other values for the same rows (it was changed, or draws random numbers: for "
            "augmented passes see `repeats`)"
        )
    return found + data


def _differing_data(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    before, data = was["data"], now["data"]
    if before["spec"] != data["spec"]:
        names, both = before["spec"] | data["spec"], (before["spec"], data["spec"])
        rows = [(name, *(spec.get(name, "missing") for spec in both)) for name in names]
        return [f"a row of the {name} was {one} and is now {other}" for name, one, other in rows if one != other]
    if before["rows"] != data["rows"] or not _may_be_as_many(before, data):
        return [f"the data had {_many(before)} and now has {_many(data)}"]
    changed = [name for name, digest in data["content"].items() if digest != before["content"].get(name)]
    if changed:
        return [f"the data has other {listed(changed)}"]
    first, there = was["first"]["came as"], now["first"]["came as"]
    changed = [name for name, digest in there.items() if digest != first.get(name)]
    if not changed or (not data["content"] and now["repeats"] > 1):
        return []
    return [
        f"the first rows of the data have other {listed(changed)} (if the data is shuffled or augmented, cache it "
        "without that)"
    ]


def _may_be_as_many(before: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """True if two streams can have equally many rows, given the batches they announce and a possibly short last one."""
    if None in (before["batches"], data["batches"]):
        return True
    return all(
        (one["batches"] - 1) * one["batch"] < other["batches"] * other["batch"]
        for one, other in ((before, data), (data, before))
    )


def _many(data: Mapping[str, Any]) -> str:
    if data["rows"] is not None:
        return f"{data['rows']} rows"
    if data["batches"] is not None:
        return f"{data['batches']} batches of {data['batch']} rows"
    return "an unknown number of rows"
