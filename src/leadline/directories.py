"""Where something is kept, and what is said where it cannot be."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from leadline.errors import ConfigError, reason


def own_directory(setting: str, path: Path, *files: str) -> None:
    """Makes the directory where it is missing.

    Raises `ConfigError`, saying which setting to change, where it, or one of `files` that is in it already, cannot be written. What else lies
    there does not matter: a volume of its own has a `lost+found`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        for found in (path, *(path / name for name in files if (path / name).exists())):
            if not os.access(found, os.W_OK):
                raise PermissionError(0, f"{found} may not be written by {_user()}")
    except OSError as error:
        raise cannot_keep(setting, path, error) from error


def cannot_keep(setting: str, path: Path, error: OSError) -> ConfigError:
    """The error for a place that is not there, forbidden, or something else."""
    return ConfigError(
        [
            f"{setting}: nothing can be kept in {path} ({reason(error)}). "
            f"Give it to the user who runs Leadline, or keep it elsewhere: --set {setting}=PATH, or --data DIR for everything"
        ]
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"
