"""SLOs: windows and factors (`windows.py`), burn rates and budgets (`burn.py`), verdicts and their words (`verdicts.py`)."""
