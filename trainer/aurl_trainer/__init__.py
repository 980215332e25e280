"""Aurl's trainer: data preparation, models, training loop, launcher and command line.

Importing this package loads nothing heavy: the launcher must answer before torch is in memory.
"""

__version__ = "0.2.0"
