"""Places any graph on any devices, with proof or a bound: plain numbers in and out, no Keras.

- `problem`: nodes, tensors, devices and limits.
- `place`: the door: which method answers.
- `contract`: nodes that stay together become one.
- `closed_sets`, `device_orders`: every cut, and every order of devices.
- `stages`, `stage_costs`: what stages cost, by definition and for many at a time.
- `dynamic_program`, `listed`: exact where the closed sets can be listed.
- `local_search`: a good placement where they cannot.
- `partition`, with `stage_bounds` and `least_crossing`: how good that is at most.
- `bounds`: the work that there is.
- `infeasible`: why there is no placement.
- `sweep`: which plan is best at which bandwidth.
- `minimum_cut`: two devices and latency.
"""
