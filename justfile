# The commands that people need, in a virtual environment with `pip install -e ".[dev]"`; `just` lists them.

default:
    @just --list

# What a change needs: seven minutes on two cores
test *args:
    pytest -n 2 --dist worksteal {{args}}

# Lint, format, floors of the house, types, spelling
check:
    ruff check .
    ruff format --check .
    lint-imports
    pyright
    codespell

# Everything that CI runs, or some of its parts: style wheel tests rooms jax torch keras-3.13
ci *parts:
    bash .ci/run {{parts}}

# The documentation, into build/docs
docs:
    python -m sphinx -W docs build/docs

# The pictures of the README and of the documentation
pictures:
    python diagrams/make.py
    python docs/pictures/make.py
