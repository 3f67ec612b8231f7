"""Outbox and checkpoint change together or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from leadline.journal.state import Checkpoint, State
from leadline.model.accounting import Ledger
from leadline.model.blocks import Block


def _block(token: str, rows: int = 3) -> Block:
    return Block("predictions", ("a", "b"), "RowBinary", token.encode() * rows, token, rows, {("predictions", "fraud"): rows})


@pytest.fixture(params=["disk", "memory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "disk" else None


def test_a_block_waits_until_it_is_acknowledged(directory: Path | None) -> None:
    """Its items count as waiting, then as kept; its data goes."""
    state = State(directory)
    state.produce([_block("c/1/predictions/0"), _block("c/1/empty/0", rows=0)], Checkpoint((1, 1), 1, Ledger()))
    ((number, block),) = state.pending()
    assert block.data == b""
    assert state.load(block).data == b"c/1/predictions/0" * 3
    assert state.kept_and_waiting().rows()[0][2]["waiting"] == 3
    assert state.pending_bytes == len(b"c/1/predictions/0" * 3)
    state.acknowledge(number)
    terms = state.kept_and_waiting().rows()[0][2]
    assert (terms["waiting"], terms["kept"]) == (0, 3)
    assert state.pending() == []
    assert state.pending_bytes == 0
    state.close()


def test_a_restart_finds_everything(tmp_path: Path) -> None:
    """Checkpoint, blocks, what was kept and what was reported."""
    state = State(tmp_path)
    ledger = Ledger({("traces", ""): {"received": 7}})
    state.produce([_block("c/9/predictions/0"), _block("c/9/predictions/1")], Checkpoint((8, 9), 8, ledger))
    state.acknowledge(state.pending()[0][0])
    state.report(ledger, Block("accounting", ("x",), "JSONEachRow", b"{}", "c/1/accounting/0", 1))
    state.remember("reports", 1)
    state.close()
    again = State(tmp_path)
    checkpoint = again.checkpoint()
    assert (checkpoint.produced, checkpoint.applied, checkpoint.ledger.rows()) == ((8, 9), 8, ledger.rows())
    assert [block.token for _, block in again.pending()] == ["c/9/predictions/1", "c/1/accounting/0"]
    assert again.kept_and_waiting().get(("predictions", "fraud"), "kept") == 3
    assert again.reported.rows() == ledger.rows()
    assert again.recall("reports") == 1
    again.close()


def test_files_without_a_block_are_removed_at_start(tmp_path: Path) -> None:
    """A crash between writing a file and noting it, or between noting and removing, leaves nothing behind."""
    state = State(tmp_path)
    state.produce([_block("c/1/predictions/0")], Checkpoint((1, 1), 1, Ledger()))
    state.close()
    (tmp_path / "outbox" / "c~2~predictions~0").write_bytes(b"half")
    again = State(tmp_path)
    assert [path.name for path in (tmp_path / "outbox").iterdir()] == ["c~1~predictions~0"]
    again.close()
