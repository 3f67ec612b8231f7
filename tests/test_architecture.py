"""Who may import whom (docs/architecture.md), read from the sources themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "leadline"
STAGES = ("receive", "journal", "decode", "sketch", "sample", "store", "evaluate", "act")
BASE = ("errors", "clock", "names", "addresses", "directories", "expression", "settings", "_kernel")
ALLOWED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("errors", "clock", "names", "_kernel"), ()),
    "expression": ("errors", "model"),
    **dict.fromkeys(("settings", "addresses", "directories"), ("errors",)),
    "model": ("errors", "names", "model", "_kernel"),
    "sdk": ("names", "sdk"),
    **{stage: (*BASE, "model", stage) for stage in STAGES},
    "testing": (*BASE, "model", *STAGES, "testing"),
    "flow": (*BASE, "model", *STAGES),
    "look": (*BASE, "model", *STAGES, "flow", "look", "testing", "sdk"),
}


def _imports(path: Path) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full, not relative"
            names = [f"leadline.{alias.name}" for alias in node.names] if node.module == "leadline" else [node.module or ""]
        found += [(name.split(".")[1], node.lineno) for name in names if name.startswith("leadline.")]
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_way_of_the_data(path: Path) -> None:
    """A stage imports the model and itself; it reaches a neighbour only through `model/ports.py`."""
    place = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if place == "__init__":
        return
    assert place in ALLOWED, f"{path}: give {place!r} a line in ALLOWED"
    for name, line in _imports(path):
        assert name in ALLOWED[place] or name == "__version__", f"{path}:{line}: {place} may not import leadline.{name}"


def test_flow_stays_one_screen() -> None:
    """`flow.py` is read first: it fits on a screen."""
    assert len((SOURCE / "flow.py").read_text().splitlines()) <= 120


def test_importing_leadline_loads_nothing_heavy() -> None:
    """`import leadline` starts nothing and loads no stage."""
    code = "import sys, leadline; print(sorted(name for name in sys.modules if name.split('.')[0] in {'numpy', 'grpc', 'chdb', 'scipy'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
