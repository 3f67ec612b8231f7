"""OTLP values as the texts that the kernel makes of them, and as fragments of JSON lines."""

from __future__ import annotations

import base64
import json
import math
from decimal import Decimal
from json.encoder import encode_basestring as quoted
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue

__all__ = ["any_text", "nanoseconds_json", "number_json", "number_text", "quoted"]

_LAST_NS = 2**63 - 1


def number_text(number: float) -> str:
    """The shortest text that reads back as the number, as ClickHouse's ``toString`` writes it and the kernel does."""
    if math.isnan(number) or math.isinf(number):
        return "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"
    text = repr(number)
    if number == 0 or 1e-6 <= abs(number) < 1e21:
        return (format(Decimal(text), "f") if "e" in text else text).removesuffix(".0")
    mantissa, _, exponent = (text if "e" in text else f"{Decimal(text):e}").partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def any_text(value: AnyValue) -> str:
    """A value as text: scalars plainly, bytes in base64, arrays and maps as JSON, an empty value as ''."""
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return number_text(value.double_value)
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case None:
            return ""
        case _:
            return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))


def _plain(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "array_value":
            return [_plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return {item.key: _plain(item.value) for item in value.kvlist_value.values}
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value" if math.isfinite(value.double_value):
            return value.double_value
        case None:
            return None
        case _:
            return any_text(value)


def number_json(number: float) -> str:
    """A Float64 for JSONEachRow. ClickHouse reads NaN and the infinities in quotes, and no others."""
    return repr(number) if math.isfinite(number) else f'"{number_text(number)}"'


def nanoseconds_json(time_ns: int) -> str:
    """Unix seconds with nine decimals for a DateTime64(9), which ends in 2262."""
    time_ns = min(time_ns, _LAST_NS)
    return f"{time_ns // 1_000_000_000:010d}.{time_ns % 1_000_000_000:09d}"
