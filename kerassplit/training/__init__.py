"""Training what was cut."""
