"""ClickHouse's errors as HTTP says them: the text, the status, and how one is told when the answer has begun."""

from __future__ import annotations

import re

SYNTAX_ERROR = 62
BAD_ARGUMENTS = 36
NOT_IMPLEMENTED = 48
CANNOT_PARSE_NUMBER = 72
UNKNOWN_SETTING = 115
TIMEOUT_EXCEEDED = 159
READONLY = 164
TOO_MANY_SIMULTANEOUS_QUERIES = 202
CANNOT_DECOMPRESS = 271
QUERY_WAS_CANCELLED = 394
TOO_MANY_ROWS_OR_BYTES = 396
ACCESS_DENIED = 497
AUTHENTICATION_FAILED = 516
SOCKET_TIMEOUT = 209
QUERY_IS_TOO_LARGE = 229
UNKNOWN_EXCEPTION = 1002

# Which status a code answers with; what is not listed is 500. Refusals are 403 here, where ClickHouse has 500 for some.
_STATUS = {
    400: (
        6,
        25,
        26,
        27,
        BAD_ARGUMENTS,
        37,
        38,
        41,
        53,
        SYNTAX_ERROR,
        CANNOT_PARSE_NUMBER,
        117,
        123,
        167,
        168,
        223,
        321,
        441,
        456,
        457,
        467,
        675,
        676,
    ),
    403: (READONLY, 192, 193, ACCESS_DENIED, 512, AUTHENTICATION_FAILED),
    404: (46, 47, 50, 56, 60, 63, 73, 78, 81, UNKNOWN_SETTING, 152, 336, 511),
    413: (QUERY_IS_TOO_LARGE,),
    501: (NOT_IMPLEMENTED,),
    503: (TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, 439, 745),
}
STATUS = {code: status for status, codes in _STATUS.items() for code in codes}

_CODE = re.compile(r"Code: (\d+)\. ")
_LONGEST = 8 * 1024


class EngineError(Exception):
    """An error of ClickHouse, or of this front in ClickHouse's words.

    Parameters
    ----------
    code : int
        ClickHouse's error code.
    text : str
        ``Code: N. DB::Exception: … (NAME)``.
    """

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1000]} … {text[-900:]}"
        super().__init__(self.text)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS.get(self.code, 500)


def refusal(code: int, name: str, message: str) -> EngineError:
    """An error of the front's own."""
    return EngineError(code, f"Code: {code}. DB::Exception: {message} ({name})")


def from_chdb(error: BaseException, version: str) -> EngineError:
    """What chdb raised, as ClickHouse would have said it."""
    text = str(error)
    at = text.find("Code: ")
    text = text[at:] if at >= 0 else f"Code: {UNKNOWN_EXCEPTION}. DB::Exception: {text or type(error).__name__} (UNKNOWN_EXCEPTION)"
    match = _CODE.match(text)
    tail = f" (version {version})"
    return EngineError(int(match[1]) if match else UNKNOWN_EXCEPTION, text.strip().removesuffix(tail) + tail)


def in_stream(error: EngineError, tag: str) -> bytes:
    """The mark that ends an answer which had begun: ``__exception__`` twice around `tag`, the text and its length."""
    body = error.text.encode() + b"\n"
    return b"\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n" % (tag.encode(), body, len(body), tag.encode())
