"""What an HTTP request asks of the engine: ClickHouse's URL parameters and headers, read into one frozen value.

Settings in the URL go by a list for readers: what shapes the answer is applied, limits may only be lowered, what steers a
transport that does not exist here is accepted and passed over, anything else is refused. A writer may give any setting.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from leadline.store.engine.exceptions import (
    AUTHENTICATION_FAILED,
    CANNOT_PARSE_NUMBER,
    NOT_IMPLEMENTED,
    READONLY,
    UNKNOWN_SETTING,
    EngineError,
    refusal,
)

WRITER = "leadline_writer"
READERS = ("default", "leadline_reader")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Read by the front itself, or without meaning where no session outlives a request.
_FRONT = _words(
    """query database default_format user password quota_key query_id wait_end_of_query enable_http_compression
    session_id session_timeout session_check close_session client_protocol_version buffer_size http_zlib_compression_level
    send_progress_in_http_headers http_headers_progress_interval_ms add_http_cors_header cancel_http_readonly_queries_on_client_close
    http_write_exception_in_output_format http_response_buffer_size stacktrace role log_comment log_queries log_query_settings
    async_insert wait_for_async_insert insert_deduplicate insert_deduplication_token readonly compress decompress
    max_query_size output_format_parallel_formatting input_format_parallel_parsing"""
)
# Of those, what a writer's session does take.
_FRONT_FOR_READERS_ONLY = _words(
    "async_insert wait_for_async_insert insert_deduplicate insert_deduplication_token max_query_size input_format_parallel_parsing"
)
_SHAPES = re.compile(
    r"""output_format_(?!.*schema)\w+|format_(csv_delimiter|csv_null_representation|tsv_null_representation|binary_max_\w+)
    |date_time_output_format|date_time_overflow_behavior|bool_(true|false)_representation|session_timezone|extremes|limit|offset
    |max_block_size|max_result_rows|max_result_bytes|result_overflow_mode|max_rows_to_read|max_bytes_to_read|read_overflow_mode
    |max_rows_to_group_by|group_by_overflow_mode|timeout_overflow_mode|max_columns_to_read|priority
    |join_use_nulls|join_algorithm|group_by_use_nulls|transform_null_in|aggregate_functions_null_for_empty|prefer_column_name_to_alias
    |asterisk_include_\w+_columns|cast_keep_nullable|count_distinct_implementation|distributed_product_mode|enable_analyzer
    |empty_result_for_aggregation_by_empty_set|final|do_not_merge_across_partitions_select_final|union_default_mode|additional_\w+_filters?
    |optimize_(read_in_order|aggregation_in_order|move_to_prewhere|skip_unused_shards)|use_uncompressed_cache|max_final_threads""",
    re.VERBOSE,
)
_LIMITS = frozenset(("max_execution_time", "max_memory_usage", "max_threads"))
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Parameters
    ----------
    writer : bool
        Whether the writer's token came with it.
    query : str
        From the URL; the body follows it.
    database, default_format, query_id : str
        Empty where not said.
    parameters : mapping
        `param_*`, as ClickHouse escapes them.
    settings : mapping
        To be set for this query.
    wait : bool
        Whether the whole result is made before the first byte goes out.
    compress : bool
        Whether Accept-Encoding is heeded.
    """

    writer: bool
    query: str = ""
    database: str = ""
    default_format: str = ""
    query_id: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    wait: bool = False
    compress: bool = True


def read(pairs: Iterable[tuple[str, str]], headers: Mapping[str, str], *, token: str, ceilings: Mapping[str, float]) -> Ask:
    """Reads URL parameters and headers (names in lower case).

    Parameters
    ----------
    token : str
        The writer's password.
    ceilings : mapping
        The reader's limits (`max_execution_time`, `max_memory_usage`, `max_threads`): a request may lower them.

    Raises
    ------
    EngineError
        For a wrong password, or a setting that may not be set.
    """
    given = dict(pairs)
    writer = _is_writer(given, headers, token)
    parameters = {name.removeprefix("param_"): value for name, value in given.items() if name.startswith("param_")}
    settings = {}
    for name, value in given.items():
        if name.startswith("param_"):
            continue
        if name in ("compress", "decompress") and _true(value):
            message = f"{name}=1 (ClickHouse's own block compression) is not done here; use Accept-Encoding and Content-Encoding"
            raise refusal(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", message)
        if name in _FRONT and not (writer and name in _FRONT_FOR_READERS_ONLY):
            if name == "readonly" and not writer and value not in ("", "1", "2"):
                raise refusal(READONLY, "READONLY", "Cannot modify 'readonly' setting in readonly mode")
            continue
        if not _NAME.fullmatch(name):
            raise refusal(UNKNOWN_SETTING, "UNKNOWN_SETTING", f"Unknown setting '{name[:100]}'")
        if writer or _SHAPES.fullmatch(name):
            settings[name] = value
        elif name in _LIMITS:
            settings[name] = _lowered(name, value, ceilings[name])
        else:
            message = f"Cannot modify '{name}' setting in readonly mode: readers may set what shapes the answer, and lower limits"
            raise refusal(READONLY, "READONLY", message)
    return Ask(
        writer=writer,
        query=given.get("query", ""),
        database=given.get("database", "") or headers.get("x-clickhouse-database", ""),
        default_format=given.get("default_format", "") or headers.get("x-clickhouse-format", ""),
        query_id=given.get("query_id", "") or headers.get("x-clickhouse-query-id", ""),
        parameters=parameters,
        settings=settings,
        wait=_true(given.get("wait_end_of_query", "0")),
        compress=_true(given.get("enable_http_compression", "1")),
    )


def _true(value: str) -> bool:
    return value.lower() not in ("", "0", "false")


def _lowered(name: str, value: str, ceiling: float) -> str:
    try:
        number = float(value)
    except ValueError:
        raise refusal(CANNOT_PARSE_NUMBER, "CANNOT_PARSE_NUMBER", f"{name}: expected a number, got '{value[:100]}'") from None
    if not 0 < number <= ceiling:
        number = ceiling
    return f"{number:.15g}"


def _is_writer(given: Mapping[str, str], headers: Mapping[str, str], token: str) -> bool:
    ways = []
    if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        ways.append((headers.get("x-clickhouse-user", "default"), headers.get("x-clickhouse-key", "")))
    if authorization := headers.get("authorization", ""):
        scheme, _, rest = authorization.partition(" ")
        if scheme.lower() != "basic":
            raise _unknown(f"expected Basic authorization, got {scheme[:20]}")
        try:
            user, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise _unknown("the Basic authorization header does not decode") from None
        ways.append((user, password))
    if "user" in given or "password" in given:
        ways.append((given.get("user", "default"), given.get("password", "")))
    if len(ways) > 1:
        raise _unknown("Invalid authentication: give the user in one way only (headers, Basic, or URL)")
    user, password = ways[0] if ways else ("default", "")
    if user == WRITER and hmac.compare_digest(password.encode(), token.encode()):
        return True
    if user in READERS and not password:
        return False
    raise _unknown(
        f"{user[:100]}: Authentication failed: password is incorrect, or there is no user with such name. "
        "Readers are user default, without a password"
    )


def _unknown(message: str) -> EngineError:
    return refusal(AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED", message)


_WILDCARDS = ("0.0.0.0", "::")


def host_of(header: str) -> str:
    """The name in a Host or Origin header, lower case, without scheme, port and brackets."""
    name = header.strip().lower().partition("://")[2] or header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if name.count(":") == 1 else name


def may_ask(headers: Mapping[str, str], *, listen: str, allowed: Iterable[str]) -> bool:
    """Whether Host and Origin name this machine, so that no web page reaches the engine by a name of its own (DNS rebinding).

    Loopback names, the address listened on and `allowed` pass; on a wildcard address so does any bare IP address.
    """
    names = {"localhost", "127.0.0.1", "::1", listen, *(name.lower() for name in allowed)} - set(_WILDCARDS)

    def passes(header: str) -> bool:
        name = host_of(header)
        if name in names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or listen in _WILDCARDS

    if headers.get("sec-fetch-site", "none") == "cross-site":
        return False
    return passes(headers.get("host", "localhost")) and ("origin" not in headers or passes(headers["origin"]))
