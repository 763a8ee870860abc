"""Places any graph on any devices, with a proof or a bound: plain numbers in and out, no Keras.

- `problem`: nodes, tensors, devices and limits.
- `place`: the entry point; chooses the method.
- `contract`: merges nodes that stay together.
- `closed_sets`, `device_orders`: every cut, and every order of devices.
- `stages`, `stage_costs`: costs of stages, by definition and for many at a time.
- `energy`: problems of energy as problems of latency.
- `dynamic_program`, `within`, `listed`: exact if the closed sets can be listed; `within` a limit beside the objective.
- `local_search`: a good placement if they cannot.
- `partition`, with `stage_bounds` and `least_crossing`: proves lower bounds.
- `bounds`: bounds from the total work.
- `sweep`: the best plan at every bandwidth.
- `minimum_cut`: latency on two devices.
"""
