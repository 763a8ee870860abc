"""A mixed integer program written down row by row, and handed to HiGHS (Huangfu and Hall, 2018) through SciPy."""

import math
from collections.abc import Iterable

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import coo_array

Term = tuple[int, float]  # a variable and its factor
INFEASIBLE = 2  # the status that SciPy gives then


class MixedProgram:
    """Variables from 0 up, and rows that bound sums of them. The sum of cost times variable is to be least."""

    def __init__(self):
        self._integral: list[bool] = []
        self._upper: list[float] = []
        self._cost: list[float] = []
        self._rows: list[int] = []
        self._columns: list[int] = []
        self._factors: list[float] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def variable(self, upper: float = 1.0, integral: bool = False, cost: float = 0.0) -> int:
        """A new variable from 0 to `upper`."""
        self._integral.append(integral)
        self._upper.append(upper)
        self._cost.append(cost)
        return len(self._cost) - 1

    def row(self, terms: Iterable[Term], low: float = -math.inf, high: float = math.inf) -> None:
        """`low` <= the sum of factor × variable <= `high`."""
        for variable, factor in terms:
            self._rows.append(len(self._low))
            self._columns.append(variable)
            self._factors.append(factor)
        self._low.append(low)
        self._high.append(high)

    def solve(self, time_limit: float) -> OptimizeResult:
        """What `scipy.optimize.milp` gives, after at most so many seconds."""
        shape = (len(self._low), len(self._cost))
        table = coo_array((self._factors, (self._rows, self._columns)), shape=shape)
        return milp(
            np.array(self._cost),
            integrality=np.array(self._integral, dtype=np.int8),
            bounds=Bounds(0.0, np.array(self._upper)),
            constraints=LinearConstraint(table.tocsc(), np.array(self._low), np.array(self._high)),
            options={"time_limit": time_limit, "mip_rel_gap": 1e-9},
        )
