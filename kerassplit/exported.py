"""Runs exported stages with NumPy and the runtime of their format, without Keras."""

from kerassplit.storage.exports.running import run_exported

__all__ = ["run_exported"]
