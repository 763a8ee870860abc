"""From a model and its devices to a plan: translates between Keras models and the solver's plain numbers.

- `devices`: the devices and links to plan for.
- `results`: plans and sweeps as plain data; `tables` and `charts` show them.
- `plan`, `sweep`: the public classes `Plan` and `Sweep`.
- `work`: the cost of everything on each device.
- `compression`, `transport`: how tensors travel over links.
- `task`: the complete planning task.
- `options`: checks the arguments of `plan` and turns them into a task.
- `graph_problem`, `graph_answers`: the placement problem of a model, and its solutions.
- `answers`: turns a solution into a plan.
- `reporting`: progress of a search.
- `refusals`, `hints`: explain why there is no plan, and suggest better ones.
- `planner`, `sweeper`: the entry points `plan` and `plan_sweep`.
- `solver/`: plain numbers, no Keras.
"""
