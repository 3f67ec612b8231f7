"""What commands print alike: the console, and the accounting as a table."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from leadline.model.accounting import TERMS

_WIDTH = 140
"""Columns in a file or a pipe, which have no width of their own."""


def console() -> Console:
    """As wide as the terminal; elsewhere as wide as ``COLUMNS`` says, if that is more than 140."""
    if sys.stdout.isatty():
        return Console()
    said = os.environ.get("COLUMNS", "")
    return Console(width=max(_WIDTH, int(said) if said.isdecimal() else 0))


def accounting_table(title: str, signals: Mapping[str, Mapping[str, int]]) -> Table:
    """Where every item went: a column a signal, its terms below what they add up to. What is lost is red."""
    table = Table("", title=title, title_justify="left")
    for signal in signals:
        table.add_column(signal, justify="right", no_wrap=True)
    for term in (*TERMS, "lost"):
        counts = [terms[term] for terms in signals.values()]
        table.add_row(term.replace("_", " "), *(f"[bold red]{n:,}[/]" if n and term == "lost" else f"{n:,}" for n in counts))
    return table
