"""From a model and its devices to a plan: what the solver's plain numbers mean for a Keras model.

- `devices`: what a plan is for.
- `results`: plans and sweeps as plain data; `tables`, `chart_plan` and `chart_sweep` show them.
- `plan`, `sweep`: `Plan` and `Sweep`, what users get.
- `work`, `task`: what everything takes on each device, and all that decides what the best plan is.
- `options`: the arguments of `plan`, checked once, and the task that they make.
- `graph_problem`, `graph_answers`: the placement problem that a model makes, and its answers.
- `answers`: the plan that such an answer makes.
- `reporting`: how far a search has come.
- `refusals`, `hints`: why there is no plan, and what would make a better one.
- `planner`, `sweeper`, `even`: the doors, `plan`, `plan_sweep` and even stages.
- `solver/`: plain numbers, no Keras.
"""
