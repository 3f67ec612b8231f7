"""The pure parts of the engine's front: settings and users, joining pieces, content codings, hosts."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadline.store.engine import asking, codings, stitching
from leadline.store.engine.exceptions import EngineError, in_stream, refusal

CEILINGS = {"max_execution_time": 60.0, "max_memory_usage": 1e9, "max_threads": 2.0}
TOKEN = "the-writers-token-of-tests"


def read(headers: Mapping[str, str] | None = None, **parameters: str) -> asking.Ask:
    return asking.read(parameters.items(), headers or {}, token=TOKEN, ceilings=CEILINGS)


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "parameters", "writer"),
    [
        ({}, {}, False),
        ({}, {"user": "default"}, False),
        (basic("default", ""), {}, False),
        (basic("leadline_reader", ""), {}, False),
        (basic("leadline_writer", TOKEN), {}, True),
        ({"x-clickhouse-user": "leadline_writer", "x-clickhouse-key": TOKEN}, {}, True),
        ({}, {"user": "leadline_writer", "password": TOKEN}, True),
    ],
)
def test_users(headers: dict[str, str], parameters: dict[str, str], writer: bool) -> None:
    """Anybody reads; who has the token writes; each of ClickHouse's ways to say it works."""
    assert read(headers, **parameters).writer is writer


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [
        (basic("leadline_writer", "wrong"), {}),
        (basic("leadline_writer", ""), {}),
        (basic("default", "x"), {}),
        (basic("root", ""), {}),
        ({"authorization": "Basic %%"}, {}),
        ({"authorization": "Bearer x"}, {}),
        (basic("default", ""), {"user": "leadline_writer", "password": TOKEN}),
        ({"x-clickhouse-key": TOKEN}, {}),
    ],
)
def test_wrong_users(headers: dict[str, str], parameters: dict[str, str]) -> None:
    """A wrong password is refused, not made a reader; two ways at once are refused."""
    with pytest.raises(EngineError) as caught:
        read(headers, **parameters)
    assert (caught.value.code, caught.value.status) == (516, 403)


@pytest.mark.parametrize(
    ("name", "value", "applied"),
    [
        ("max_execution_time", "5", "5"),
        ("max_execution_time", "0", "60"),
        ("max_execution_time", "1e9", "60"),
        ("max_execution_time", "-1", "60"),
        ("max_memory_usage", "1000", "1000"),
        ("max_threads", "64", "2"),
        ("output_format_json_quote_64bit_integers", "0", "0"),
        ("session_timezone", "Europe/Berlin", "Europe/Berlin"),
        ("send_progress_in_http_headers", "1", None),
        ("wait_end_of_query", "1", None),
        ("readonly", "1", None),
        ("log_comment", "mine", None),
        ("session_id", "x", None),
    ],
)
def test_readers_settings(name: str, value: str, applied: str | None) -> None:
    """Limits go down only; what shapes the answer is applied; what steers the transport is passed over."""
    assert read({}, **{name: value}).settings.get(name) == applied


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("readonly", "0", 164),
        ("max_memory_usage_for_user", "0", 164),
        ("output_format_schema", "/tmp/x", 164),
        ("format_schema", "/etc/passwd", 164),
        ("allow_introspection_functions", "1", 164),
        ("format_template_resultset", "/etc/passwd", 164),
        ("max_threads", "many", 72),
        ("compress", "1", 48),
        ("a b", "1", 115),
        ("X", "1", 115),
    ],
)
def test_settings_that_readers_may_not_have(name: str, value: str, code: int) -> None:
    """What is not on the list is refused, with ClickHouse's code."""
    with pytest.raises(EngineError) as caught:
        read({}, **{name: value})
    assert caught.value.code == code


def test_a_writer_may_set_anything_but_its_name_is_checked() -> None:
    """Names go into SQL, so they are names."""
    given = read(basic("leadline_writer", TOKEN), insert_deduplication_token="t'", async_insert="0", anything="1")
    assert given.settings == {"insert_deduplication_token": "t'", "async_insert": "0", "anything": "1"}
    with pytest.raises(EngineError):
        read(basic("leadline_writer", TOKEN), **{"a=1,b": "1"})


@pytest.mark.parametrize(
    ("headers", "listen", "allowed", "passes"),
    [
        ({"host": "localhost:8123"}, "127.0.0.1", (), True),
        ({"host": "127.0.0.1:8123", "origin": "http://127.0.0.1:8080"}, "127.0.0.1", (), True),
        ({"host": "[::1]:8123"}, "::1", (), True),
        ({}, "127.0.0.1", (), True),
        ({"host": "evil.example:8123"}, "127.0.0.1", (), False),
        ({"host": "127.0.0.1.evil.example"}, "127.0.0.1", (), False),
        ({"host": "localhost", "origin": "https://evil.example"}, "127.0.0.1", (), False),
        ({"host": "localhost", "origin": "null"}, "127.0.0.1", (), False),
        ({"host": "localhost", "sec-fetch-site": "cross-site"}, "127.0.0.1", (), False),
        ({"host": "10.1.2.3"}, "127.0.0.1", (), False),
        ({"host": "10.1.2.3"}, "0.0.0.0", (), True),
        ({"host": "evil.example"}, "0.0.0.0", (), False),
        ({"host": "Metrics.Intern:8123"}, "0.0.0.0", ("metrics.intern",), True),
    ],
)
def test_hosts(headers: dict[str, str], listen: str, allowed: tuple[str, ...], passes: bool) -> None:
    """A web page cannot reach the engine under a name of its own."""
    assert asking.may_ask(headers, listen=listen, allowed=allowed) is passes


def document(rows: list[dict[str, Any]]) -> bytes:
    """A piece of format JSON, as ClickHouse writes it."""
    body = ",\n".join("\t\t" + json.dumps(row) for row in rows)
    statistics = '"statistics":\n\t{\n\t\t"elapsed": 0.1,\n\t\t"rows_read": 0,\n\t\t"bytes_read": 0\n\t}'
    return f'{{\n\t"meta":\n\t[\n\t],\n\n\t"data":\n\t[\n{body}\n\t],\n\n\t"rows": {len(rows)},\n\n\t{statistics}\n}}\n'.encode()


@given(st.lists(st.lists(st.dictionaries(st.text(), st.text()), min_size=1), min_size=1))
def test_json_documents_join_into_one(pieces: list[list[dict[str, str]]]) -> None:
    """All rows of all pieces, whatever text is in them, and the sum of their numbers."""
    joiner = stitching.joiner("JSON")
    assert joiner is not None
    text = b"".join(joiner.add(document(rows)) for rows in pieces) + joiner.end(elapsed_s=1.5, rows_read=7, bytes_read=9)
    read = json.loads(text)
    assert read["data"] == [row for rows in pieces for row in rows]
    assert (read["rows"], read["statistics"]) == (len(read["data"]), {"elapsed": 1.5, "rows_read": 7, "bytes_read": 9})


@pytest.mark.parametrize(
    ("form", "header"),
    [
        ("CSVWithNames", b'"a","say ""x""\n"\n'),
        ("TSVWithNamesAndTypes", b"a\tb\\n\nUInt8\tString\n"),
        ("JSONCompactEachRowWithNames", b'["a", "b"]\n'),
        ("RowBinaryWithNames", b"\x02\x01a\x80\x01" + b"b" * 128),
        ("RowBinaryWithNamesAndTypes", b"\x01\x01a\x05UInt8"),
    ],
)
def test_headers_stay_once(form: str, header: bytes) -> None:
    """The header of the first piece stays, those of the others go."""
    joiner = stitching.joiner(form)
    assert joiner is not None
    assert b"".join(joiner.add(header + rows) for rows in (b"1\n", b"2\n", b"3\n")) == header + b"1\n2\n3\n"


@pytest.mark.parametrize("form", ["Pretty", "Parquet", "XML", "Arrow", "Values", "Markdown", "Template", "nonsense"])
def test_formats_that_are_not_streamed(form: str) -> None:
    """Anything that is not known to join is made whole."""
    assert stitching.joiner(form) is None


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "lz4"])
@given(data=st.binary(max_size=5000), step=st.integers(1, 700))
def test_codings_round_trip(coding: str, data: bytes, step: int) -> None:
    """What one end encodes the other decodes, however it is cut."""
    made = codings.encoder(coding)
    assert made is not None
    assert made[0] == coding
    encoded = b"".join(made[1].compress(data[at : at + 1000]) for at in range(0, len(data), 1000)) + made[1].flush()
    decoder = codings.Decoder(coding, len(data))
    assert b"".join(piece for at in range(0, len(encoded), step) for piece in decoder.add(encoded[at : at + step])) == data
    decoder.end()


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("", None),
        ("identity", None),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0", "gzip"),
        ("lz4,zstd", "lz4"),
        ("br", None),
        ("*", "gzip"),
    ],
)
def test_the_coding_of_an_answer(accept: str, coding: str | None) -> None:
    """The fastest one that the client takes."""
    made = codings.encoder(accept)
    assert (made and made[0]) == coding


def test_a_bomb_ends_at_the_limit() -> None:
    """However small it came in."""
    decoder = codings.Decoder("gzip", 10 * 2**20)
    with pytest.raises(EngineError, match="above 10485760 bytes") as caught:
        for _ in decoder.add(gzip.compress(bytes(50 * 2**20))):
            pass
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("coding", "data"),
    [("gzip", b"plain"), ("zstd", b"plain"), ("gzip", gzip.compress(b"x" * 100)[:-4]), ("deflate", zlib.compress(b"x")[:-1])],
)
def test_corrupt_bodies(coding: str, data: bytes) -> None:
    """Broken or cut short: said so."""

    def decode() -> None:
        decoder = codings.Decoder(coding, 1000)
        list(decoder.add(data))
        decoder.end()

    with pytest.raises(EngineError, match="is not the") as caught:
        decode()
    assert caught.value.code == 271


def test_unknown_coding() -> None:
    """Refused with what is known."""
    with pytest.raises(EngineError, match="gzip, deflate, zstd"):
        codings.Decoder("br", 1)


def test_an_error_in_mid_stream_has_its_length() -> None:
    """The text, a line end, its length and the tag, between two marks."""
    marked = in_stream(refusal(159, "TIMEOUT_EXCEEDED", "too long"), "tagtagtagtagtagt")
    text = b"Code: 159. DB::Exception: too long (TIMEOUT_EXCEEDED)\n"
    assert marked == b"\r\n__exception__\r\ntagtagtagtagtagt\r\n" + text + b"%d tagtagtagtagtagt\r\n__exception__\r\n" % len(text)
