"""Running stages: in this process, on Ray, behind HTTP."""
