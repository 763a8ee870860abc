"""Plans from our own profiles: comparison with other rules, and the benefit of several tensors per cut.

    python benchmarks/plan_models.py [--models ResNet50 MobileNetV2 ...] [--gigabits 1]

The first tables are those of `plan.py`, for models that are measured here, cut at split points. The last one plans
ResNet50 (by seconds measured here) and NASNetLarge (by FLOPs, because measuring takes long) with one, two, three and
any number of tensors per cut. Its values are the slowest stage relative to an even share of the work, 1 if all stages
are equal. Seconds are measured for whole blocks and distributed by FLOPs within a block.
"""

import argparse
import os
import time
from collections.abc import Iterable, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from plan import FREE, Case, show
from rich.console import Console
from rich.table import Table

import kerassplit as ks
from kerassplit.costs.records import BlockCost
from kerassplit.planning.solver.problem import Link

MODELS = ("ResNet50", "MobileNetV2", "DenseNet121", "EfficientNetB0", "InceptionV3")


def pieces(profile: ks.Profile) -> list[list[BlockCost]]:
    """Groups the blocks of a model so that each group ends where one tensor crosses."""
    groups: list[list[BlockCost]] = [[]]
    for block in profile.blocks:
        groups[-1].append(block)
        if len(block.crossing) == 1:
            groups.append([])
    return groups


def measured_case(profile: ks.Profile) -> Case:
    """Returns the costs of a measured model's pieces; weights that several of them share count in each."""
    groups = pieces(profile)
    return Case(
        layers=[float(sum(len(block.calls) for block in group)) for group in groups],
        parameters=[float(sum(block.parameters for block in group)) for group in groups],
        seconds=[sum(block.seconds or 0.0 for block in group) for group in groups],
        crossing=[float(group[-1].crossing_bytes or 0) for group in groups[:-1]],
    )


def several_tensors(model: keras.Model, profile: ks.Profile, time_limit: float) -> Iterable[Sequence[str]]:
    """Returns the rows of the last table."""
    balance = "flops" if profile.seconds is None else "time"
    total = (profile.flops if profile.seconds is None else profile.seconds) or 0.0
    for devices in (2, 3, 4, 8):
        for most in (1, 2, 3, "any"):
            row = (f"{profile.model}, {balance}", f"{devices}", f"{most}")
            began = time.perf_counter()
            try:
                plan = ks.plan(
                    model, devices, balance=balance, max_crossing=most, profile=profile, time_limit=time_limit
                )
            except ks.PlanError:
                yield (*row, "too few cuts")
                continue
            took = time.perf_counter() - began
            crossing = ", ".join(str(len(stage.crossing)) for stage in plan.stages[:-1])
            slowest, bound = (f"{value * devices / total:.4f}" for value in (plan.value, plan.lower_bound))
            yield (*row, crossing, slowest, bound, plan.method, f"{took:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names in keras.applications, to be measured")
    parser.add_argument("--gigabits", type=float, default=1.0, help="bandwidth of the link, Gbit/s")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds for each plan of several tensors")
    arguments = parser.parse_args()
    console = Console(width=145)
    models = {name: getattr(keras.applications, name)(weights=None) for name in arguments.models}
    profiles = {name: ks.profile(model, measure=True) for name, model in models.items()}
    cases = [measured_case(profile) for profile in profiles.values()]
    names = ", ".join(models)
    show(console, cases, FREE, f"{names}\nSlowest stage over the optimum, moving takes no time")
    link = Link(factor=8 / (arguments.gigabits * 1e9))
    show(console, cases, link, f"{names}\nSlowest stage over the optimum, {arguments.gigabits:g} Gbit/s")

    headings = ("devices", "most tensors", "tensors in cuts", "slowest", "bound", "method", "s to plan")
    table = Table("model, balance", *headings, title="Slowest stage over an even share")
    large = keras.applications.NASNetLarge(weights=None)
    asked = {name: (model, profiles[name]) for name, model in models.items() if name == "ResNet50"}
    asked["NASNetLarge"] = (large, ks.profile(large))
    for model, profile in asked.values():
        for cells in several_tensors(model, profile, arguments.time_limit):
            table.add_row(*cells)
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
