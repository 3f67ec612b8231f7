"""Leadline measures every prediction of your models and keeps a sample worth looking at.

The way of the data, a folder each: `sdk` (in the model server) → `receive` (OTLP in) → `journal` (acknowledged = on
disk) → `decode` (bytes to columns) → `sketch` (every prediction) → `sample` (whole traces, to a budget) → `store`
(ClickHouse) → `evaluate` (rules) → `act` (Alertmanager) → `look` (commands, pages). `flow.py` joins them: read it first.
"""

__version__ = "0.1.0"
