"""The schema of a feature vector: names, dtypes and roles in order, with an id that is a hash of them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from leadline import names

CATEGORICAL: Final = "categorical"
DTYPES: Final = ("float32", "float64", "int64", "bool", CATEGORICAL)

_SPELLINGS: Final = {
    **dict.fromkeys(("float32", "float", "float16", "f4", "f2", "numeric", "number"), "float32"),
    **dict.fromkeys(("float64", "double", "f8"), "float64"),
    **dict.fromkeys(("int", "integer", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))), "int64"),
    **dict.fromkeys(("bool", "boolean"), "bool"),
    **dict.fromkeys((CATEGORICAL, "category", "str", "string", "object", "text", "large_string"), CATEGORICAL),
}


@dataclass(frozen=True, slots=True)
class Schema:
    """Ordered features.

    Parameters
    ----------
    names, dtypes, roles : tuple of str, one entry a feature
        `dtypes` are of `DTYPES`; `roles` say what a column is for: ``feature``, or a word of yours such as ``personal``,
        and then the collector does not measure it.
    """

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    roles: tuple[str, ...]
    id: str = field(init=False)
    numeric: tuple[int, ...] = field(init=False, compare=False)
    categorical: tuple[int, ...] = field(init=False, compare=False)
    wide: bool = field(init=False, compare=False)
    """A feature is declared float64, so that the packed vector is."""
    single: struct.Struct = field(init=False, compare=False)
    double: struct.Struct = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"features: expected distinct names, got {twice} more than once")
        hashed = hashlib.sha256("\n".join(f"{name}\t{dtype}" for name, dtype in zip(self.names, self.dtypes, strict=True)).encode())
        numeric = tuple(i for i, dtype in enumerate(self.dtypes) if dtype != CATEGORICAL)
        for name, value in {
            "id": hashed.hexdigest()[:16],
            "numeric": numeric,
            "categorical": tuple(i for i, dtype in enumerate(self.dtypes) if dtype == CATEGORICAL),
            "wide": "float64" in self.dtypes,
            "single": struct.Struct(f"<{len(numeric)}f"),
            "double": struct.Struct(f"<{len(numeric)}d"),
        }.items():
            object.__setattr__(self, name, value)


def declared(features: Mapping[str, object] | Iterable[str], roles: Mapping[str, str]) -> Schema:
    """The schema a user states: name -> dtype, or names alone (then all are float32)."""
    if isinstance(features, Mapping):
        dtypes = {str(name): _dtype(str(name), dtype) for name, dtype in features.items()}
    else:
        names = [str(name) for name in features]
        dtypes = dict.fromkeys(names, "float32")
        if len(dtypes) != len(names):
            raise ValueError(f"features: expected distinct names, got {sorted({n for n in names if names.count(n) > 1})} more than once")
    return _schema(dtypes, roles)


def inferred(row: Mapping[str, object], roles: Mapping[str, str]) -> Schema:
    """The schema of an example: text is categorical, True and False are bool, integers int64, everything else float32."""
    return _schema({name: _dtype_of(value) for name, value in row.items()}, roles)


def announcement(schema: Schema) -> dict[str, Any]:
    """What a reader must know to unpack: attributes of the scope, or of a span whose scope announces another schema."""
    return {
        names.FEATURES_SCHEMA_ID: schema.id,
        names.FEATURES_NAMES: schema.names,
        names.FEATURES_DTYPES: schema.dtypes,
        names.FEATURES_ROLES: schema.roles,
    }


def _schema(dtypes: Mapping[str, str], roles: Mapping[str, str]) -> Schema:
    return Schema(tuple(dtypes), tuple(dtypes.values()), tuple(roles.get(name, "feature") for name in dtypes))


def _dtype(name: str, dtype: object) -> str:
    spelled = dtype.__name__ if isinstance(dtype, type) else str(dtype)
    if (known := _SPELLINGS.get(spelled.lower())) is None:
        raise ValueError(f"features[{name!r}]: expected a dtype of {', '.join(DTYPES)}, got {dtype!r}")
    return known


def _dtype_of(value: object) -> str:
    if isinstance(value, str):
        return CATEGORICAL
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if isinstance(value, bool) or kind == "b":
        return "bool"
    if isinstance(value, int) or kind in {"i", "u"}:
        return "int64"
    return CATEGORICAL if kind in {"U", "S"} else "float32"
