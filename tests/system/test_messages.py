"""Solutions that messages suggest exist where the message can occur."""

import ast
import dataclasses
import inspect
import operator
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import keras
import pytest

import kerassplit as ks
from kerassplit.engines.local import LocalOptions
from kerassplit.engines.ray.engine import RayOptions
from kerassplit.storage.exports.export import export
from kerassplit.zoo.models import load_model

PACKAGE = Path(ks.__file__).parent
KEYWORD = re.compile(r"(?<![\w.-])([a-z]\w*)=(?=True|False|None|'|\d|\(|\{|\[|\.\.\.|$)")
CALL = re.compile(r"\b([A-Za-z_][\w.]*)\(([^()`]*)\)")


@cache
def modules() -> dict[str, ast.Module]:
    """The package's modules by dotted name, except the command line and pictures, which have their own arguments."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE.parent).with_suffix("")
        if not {"cli", "pictures"} & set(place.parts):
            found[".".join(place.parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


def texts(tree: ast.AST) -> Iterator[str]:
    """Returns the strings in a piece of code, except docstrings; values in f-strings become `{}`."""
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (inside | documented):
            yield node.value


@cache
def parts() -> dict[tuple[str, str], ast.AST]:
    """Returns the functions, methods (`Class.method`), classes and constants of the package, by module and name."""
    found: dict[tuple[str, str], ast.AST] = {}
    for module, tree in modules().items():
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found[module, node.name] = node
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update({(module, one.id): node for one in targets if isinstance(one, ast.Name)})
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef):
                    found[module, f"{node.name}.{method.name}"] = method
    return found


@cache
def imported(module: str) -> dict[str, tuple[str, str]]:
    """Maps the names that a module imports from the package to what they refer to."""
    found = {}
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kerassplit"):
            found.update({one.asname or one.name: (str(node.module), one.name) for one in node.names})
    return found


@cache
def uses(part: tuple[str, str]) -> frozenset[tuple[str, str]]:
    """Returns the parts that a part names; methods by name only, if a class of the package has it."""
    module, name = part
    node, known = parts()[part], {**{own: (module, own) for at, own in parts() if at == module}, **imported(module)}
    if isinstance(node, ast.ClassDef):
        return frozenset(one for one in parts() if one[0] == module and one[1].startswith(f"{name}.__"))
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and inner.id in known:
            found.add(known[inner.id])
        elif isinstance(inner, ast.Attribute):
            own = module, f"{name.partition('.')[0]}.{inner.attr}"
            if isinstance(inner.value, ast.Name) and inner.value.id == "self" and own in parts():
                found.add(own)
            elif isinstance(inner.value, ast.Name) and inner.value.id in known:
                found.add((".".join(known[inner.value.id]), inner.attr))
            else:
                classes = {one for one in known.values() if one[1] not in ks.__all__}
                found |= {(at, f"{of}.{inner.attr}") for at, of in classes}
    return frozenset(found & parts().keys())


def reached(part: tuple[str, str]) -> set[tuple[str, str]]:
    """Returns the parts that a part uses, directly or through others."""
    seen, waiting = {part}, [part]
    while waiting:
        new = uses(waiting.pop()) - seen
        seen |= new
        waiting += new
    return seen


@cache
def entries() -> dict[str, tuple[str, str]]:
    """Returns the functions that users call, and the methods of their results, by name."""
    found = {"load_model": ("kerassplit.zoo.models", "load_model")}
    for name in ks.__all__:
        thing = getattr(ks, name)
        if inspect.isfunction(thing):
            found[name] = thing.__module__, name
        else:
            own = [made for _, made in inspect.getmembers(thing, inspect.isfunction) if made.__name__[0] != "_"]
            found |= {f"{name}.{made.__name__}": (made.__module__, made.__qualname__) for made in own}
    return {name: part for name, part in found.items() if part in parts()}


def taken_by(name: str) -> set[str]:
    """Returns the keyword arguments of a function or method of the package."""
    place, _, method = name.partition(".")
    thing = getattr(ks, place) if place in ks.__all__ else load_model
    found = set(inspect.signature(getattr(thing, method) if method else thing).parameters)
    if name == "Split.export":
        found |= set(inspect.signature(export).parameters)
    if name == "Split.verify":
        found |= taken_by("verify")
    if name == "Split.predict":
        found |= {field.name for options in (LocalOptions, RayOptions) for field in dataclasses.fields(options)}
    return found


OF_KERAS = {
    "dtype": keras.Input,
    "name": keras.Input,
    "return_sequences": keras.layers.LSTM,
    "stateful": keras.layers.LSTM,
}
"""Arguments of Keras, of layers and Inputs that the user makes."""

ELSEWHERE = {
    "allow_crossing": {"blocks", "fine_tune", "plan", "plan_sweep", "to_sequential"},  # each says what it takes
    "at": {"blocks", "plan", "plan_sweep", "to_sequential"},  # they name no outputs beside what crosses
    "batch_size": {"split_points"},  # it asks for a batch of one, or the model's own
    "input_bytes": {"Plan.plot"},  # the plan was made with it or without
    "copy_weights": {"Split.predict"},  # it copies stages itself
    "stages": {"blocks", "fine_tune", "to_sequential"},  # these give `split` no bare number
    "training": {"plan", "plan_sweep", "profile", "split"},  # where a layer cannot be traced, its FLOPs are unknown
    "safe_mode": {"Split.predict"},  # it trusts the folder that it has written itself
}
"""Where a function uses code with a message that it does not meet."""

PLANNING = {"blocks", "fine_tune", "split", "to_sequential"}
"""These cut by `split`, which may plan, and then says of arguments of `plan` that they are `plan`'s."""

OF_COPIES = {("kerassplit.graph.copying", "copies_of"), ("kerassplit.graph.copying", "copy_state")}
"""What only those meet that asked for copies of layers."""


def without_calls(text: str) -> str:
    """Returns a text without function calls, whose arguments are checked."""
    while found := CALL.search(text):
        path, arguments = found.groups()
        function = path.removeprefix("kerassplit.")
        if function in ks.__all__:
            assert set(KEYWORD.findall(arguments)) <= taken_by(function), text
        elif path.startswith("keras."):
            parameters = inspect.signature(operator.attrgetter(path.removeprefix("keras."))(keras)).parameters
            assert set(KEYWORD.findall(arguments)) <= set(parameters), text
        text = text[: found.start()] + "{}" + text[found.end() :]
    return text


@pytest.mark.parametrize("name", entries())
def test_arguments_that_messages_name_are_there_where_the_message_is_met(name):
    for module, part in sorted(reached(entries()[name])):
        unmet = (module, part) in OF_COPIES and name not in ("build_submodel", "flatten")
        if unmet or isinstance(parts()[module, part], ast.ClassDef):
            continue
        for text in texts(parts()[module, part]):
            named = set(KEYWORD.findall(without_calls(text)))
            known = taken_by(name) | (taken_by("plan") if name in PLANNING else set())
            missing = {one for one in named - known if name not in ELSEWHERE.get(one, ())}
            for one in missing:
                assert one in OF_KERAS, f"'{name}' does not take {one!r}, but says ({module}.{part}): {text}"
                assert one in inspect.signature(OF_KERAS[one]).parameters


def test_the_walk_finds_the_messages_that_name_arguments():
    found = {one for name in entries() for part in reached(entries()[name]) for one in _named_in(part)}
    assert {"allow_crossing", "balance", "copy_weights", "open_sides", "overwrite", "resume", "safe_mode"} <= found


def _named_in(part: tuple[str, str]) -> set[str]:
    node = parts()[part]
    return set() if isinstance(node, ast.ClassDef) else {one for text in texts(node) for one in KEYWORD.findall(text)}
