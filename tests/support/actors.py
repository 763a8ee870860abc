"""Processes that Ray runs for a test."""

import psutil


def processes_of(kind: str) -> list[psutil.Process]:
    """Returns the child processes that are actors of a class, by their command lines."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if kind in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


def gone(processes: list[psutil.Process], seconds: float = 20) -> bool:
    """True if the processes end within some seconds."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]
