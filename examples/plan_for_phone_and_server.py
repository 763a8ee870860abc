"""Find out what a model costs, and where to cut it between a phone and a server, and for four identical boards.

A phone computes slowly, a server computes fast, and sending data between them takes time. Where should the phone stop
and the server continue? That depends on the network: over a slow one, everything runs on the phone; over a fast one,
the photograph itself is sent; in between, the best cut is inside the model, where few bytes cross. The same planner
balances the load over several identical devices.

The devices' speeds and the bandwidths are made up; measure your own with `ks.profile(model, measure=True)` on each
device. A model's costs do not depend on its weights. The plan is written to a temporary folder.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import kerassplit as ks

model = keras.applications.MobileNetV2(weights=None)

# What does it cost? Blocks are between the places where one tensor crosses.
costs = ks.profile(model)
print(f"{model.name}: {costs.parameters:,} parameters, {costs.flops:,} FLOPs, {len(costs.blocks)} blocks")
for block in costs.blocks[:3]:
    print(f"  up to {block.name}: {block.flops:,} FLOPs, then {block.crossing_bytes:,} bytes cross")

# One picture as fast as possible, on a phone with a server's help.
phone, server = ks.Device("phone", "20 GFLOPS"), ks.Device("server", "5 TFLOPS")
for bandwidth in ("5 Mbit/s", "100 Mbit/s", "1 Gbit/s"):
    plan = ks.plan(model, [phone, server], links=ks.Link(bandwidth, "5 ms"), objective="latency", profile=costs)
    where = f"cut at {plan.at[0]}" if plan.at else f"all on the {plan.stages[0].device}"
    print(f"{bandwidth:>10}: {where}, {plan.value * 1000:.1f} ms")

# At every bandwidth, with exact breakpoints.
print(ks.plan_sweep(model, [phone, server], latency="5 ms", profile=costs))

# As many pictures as possible, on four boards with 64 MiB each.
boards = ks.Device("board", "10 GFLOPS", memory="64 MiB", count=4)
plan = ks.plan(model, boards, links=ks.Link("200 Mbit/s"), profile=costs)
print(plan)

with tempfile.TemporaryDirectory() as folder:
    plan.save(Path(folder) / "plan.json")
    again = ks.Plan.load(Path(folder) / "plan.json")

split = ks.split(model, again)
split.summary()

# If a limit rules out every plan, the error says what would be enough.
try:
    ks.plan(model, ks.Device("chip", memory="2 MiB", count=4), profile=costs)
except ks.PlanError as error:
    print(error)
