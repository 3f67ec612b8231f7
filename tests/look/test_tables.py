"""Tables of the commands are whole wherever they are printed."""

from __future__ import annotations

import io

from rich.console import Console

from leadline.look.tables import accounting_table
from leadline.model.accounting import TERMS


def test_the_accounting_is_whole_in_eighty_columns() -> None:
    """Billions of each signal: no digit is cut, and each term has its line."""
    text = io.StringIO()
    terms = dict.fromkeys((*TERMS, "lost"), 9_876_543_210)
    signals = dict.fromkeys(("traces", "metrics", "logs", "predictions"), terms)
    Console(file=text, width=80).print(accounting_table("all", signals))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.getvalue().splitlines() if line.startswith("│")]
    assert rows == [[term.replace("_", " "), *["9,876,543,210"] * len(signals)] for term in (*TERMS, "lost")]
