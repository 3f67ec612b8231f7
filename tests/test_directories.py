"""Where something is kept, and what is said where it cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leadline.directories import own_directory
from leadline.errors import ConfigError


def test_a_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    """And a second time nothing happens."""
    own_directory("journal.dir", tmp_path / "a" / "b")
    own_directory("journal.dir", tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_in_its_way_is_said(tmp_path: Path) -> None:
    """The setting, the place, why, and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        own_directory("journal.dir", tmp_path / "file" / "journal")
    (fault,) = caught.value.faults
    assert fault.startswith(f"journal.dir: nothing can be kept in {tmp_path}/file/journal (not a directory). ")
    assert "--set journal.dir=PATH" in fault


@pytest.mark.parametrize("name", [".", "state.db"])
def test_what_belongs_to_somebody_else_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The directory, or a file that another user left in it: a test may run as root, who may write anywhere, so the question is answered here."""
    (tmp_path / "state.db").write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / name)
    with pytest.raises(ConfigError, match="may not be written by"):
        own_directory("journal.dir", tmp_path, "lock", "state.db")


def test_what_else_lies_there_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume's `lost+found` is root's."""
    (tmp_path / "lost+found").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "lost+found")
    own_directory("journal.dir", tmp_path, "lock", "state.db")
