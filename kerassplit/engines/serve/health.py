"""Health of a served application, from Ray Serve's controller and the folder of the stages."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ray import serve

from kerassplit.engines.serve.stage import LOGGER, Pinned

_FRESH = 1.0  # seconds for which a state is cached


@dataclass(frozen=True)
class State:
    """Health of the stages.

    Attributes:
        status: `"ok"`, `"degraded"` (a stage lacks some of its processes) or `"down"` (a stage has none).
        reason: Explanation, if not ok.
        lost: True if a stage is down and cannot restart because the folder changed.
    """

    status: str
    reason: str | None = None
    lost: bool = False


class Health:
    """Watches the stages of an application.

    Args:
        app: Name of the application.
        wanted: Expected number of processes per stage.
        pinned: Folder of the stages.
    """

    def __init__(self, app: str, wanted: Mapping[str, int], pinned: Pinned):
        self._app, self._wanted, self._pinned = app, wanted, pinned
        self._state, self._until = State("ok"), 0.0
        self._lock = asyncio.Lock()

    async def state(self) -> State:
        """Returns the state, at most a second old; the last known one while the controller is unavailable."""
        async with self._lock:
            if time.monotonic() >= self._until:
                try:
                    self._state = await asyncio.to_thread(self._look)
                except Exception:  # the stages may be fine while the controller is not
                    LOGGER.exception("Cannot query the state of the stages.")
                self._until = time.monotonic() + _FRESH
        return self._state

    def _look(self) -> State:
        deployments = serve.status().applications[self._app].deployments
        running = {name: _running(deployments.get(name)) for name in self._wanted}
        missing = [name for name, count in self._wanted.items() if running[name] < count]
        if not missing:
            return State("ok")
        counts = "; ".join(f"stage '{name}' has {running[name]} of {self._wanted[name]} processes" for name in missing)
        changed = self._pinned.changed()
        why = f"Restarts fail: {changed}. Redeploy the application." if changed else "Restarting."
        down = [name for name in missing if not running[name]]
        reason = f"{counts[:1].upper()}{counts[1:]}. {why}"
        return State("down" if down else "degraded", reason, lost=bool(changed and down))


def _running(deployment: object) -> int:
    states: Mapping[str, int] = getattr(deployment, "replica_states", {})
    return states.get("RUNNING", 0)
