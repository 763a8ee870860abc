"""PyTorch."""

import contextlib
from collections.abc import Sequence
from functools import partial
from types import FunctionType
from typing import Any

import keras
import torch  # pyright: ignore[reportMissingImports]

from kerassplit.graph.backends.interface import Backend, Recording, Slopes, outputs_of, slopes_of


class Torch(Backend):
    """PyTorch: `torch.compile`, `torch.autograd`."""

    def compiled(self, model, jit_compile, stateful, wait, on_trace):
        compute = torch.compile(_copy(outputs_of)) if jit_compile else outputs_of
        waits = wait and torch.cuda.is_available()
        if jit_compile:
            on_trace()  # torch itself checks that compiled code is still valid

        def run(tensors: Sequence[Any]) -> list[Any]:
            with torch.no_grad():
                results = compute(model, stateful, tensors)
            if waits:
                torch.cuda.synchronize()
            return results

        return run

    def record(self, run, tensors, watched=(), variables=(), states=()):
        taken = list(tensors)
        for place in watched:
            taken[place] = tensors[place].detach().requires_grad_()
        sources = [*(variable.value for variable in variables), *(taken[place] for place in watched)]
        results, others = run(taken)

        def back(gradients: Sequence[Any]) -> tuple[Slopes, Slopes]:
            pairs = zip(results, gradients, strict=True)
            known = [one if result.requires_grad else None for result, one in pairs]
            found = slopes_of(results, known, sources, partial(torch.autograd.grad, allow_unused=True))
            return found[: len(variables)], found[len(variables) :]

        return Recording([result.detach() for result in results], others, back)

    def without_recording(self) -> contextlib.AbstractContextManager[Any]:
        return torch.no_grad()

    def devices(self) -> tuple[str, ...]:
        return (*(f"cuda:{number}" for number in range(torch.cuda.device_count())), "cpu")

    def device_name(self) -> str:
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    def moved(self, value: Any, device: str) -> Any:
        return value.to(device) if keras.ops.is_tensor(value) else value


def _copy(function: Any) -> Any:
    """Copies a function with its code: torch compiles a piece of code only a few times, whatever the model."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


HERE = Torch("torch")
