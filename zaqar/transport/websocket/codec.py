# SPDX-License-Identifier: Apache-2.0
"""Decodes and encodes frames: text frames are JSON, binary frames are MessagePack.

Both are read as strictly as the body of a request over HTTP (:mod:`zaqar.schemas.strict_json`). MessagePack may only
have values that JSON has too: no binary data, no extensions, no timestamps, no NaN, and only strings as keys.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import msgpack
import msgspec

from zaqar.errors import InvalidInput
from zaqar.schemas import strict_json
from zaqar.schemas.strict_json import INT64_MAX, INT64_MIN, MAX_DEPTH, Document

FRAME = "frame"
"""The name in errors for a frame that cannot be decoded."""


class Format(enum.Enum):
    JSON = "json"
    MESSAGEPACK = "messagepack"


@dataclass(slots=True)
class Frame:
    """A request frame that was decoded. The types of its members are not checked yet.

    ``body`` is {} if the frame has none, or null. ``raw`` is the body as JSON; for a text frame it has the bytes that
    the client sent. ``echo`` is the encoded body for a reply in the same format.
    """

    format: Format
    action: Any
    headers: Any
    body: Any
    raw: bytes
    echo: msgspec.Raw


class _Outer(msgspec.Struct):
    """A frame whose body is not decoded."""

    body: msgspec.Raw = msgspec.Raw()


_json_decoder = msgspec.json.Decoder(_Outer)
_pack_decoder = msgspec.msgpack.Decoder(_Outer)
_NO_OBJECT = "Unexpected body type. Expected an object with 'action', 'headers' and 'body'."
_JSON_IN_BINARY = "Binary frames are MessagePack, and this one looks like JSON. Send JSON in a text frame."
_NO_BODY = {Format.JSON: msgspec.Raw(b"{}"), Format.MESSAGEPACK: msgspec.Raw(b"\x80")}


def format_of(frame: str | bytes) -> Format:
    return Format.JSON if isinstance(frame, str) else Format.MESSAGEPACK


def decode(frame: str | bytes) -> Frame:
    """The members of a request frame. InvalidInput if it is not one object, or breaks a rule of its format."""
    return _decode_text(frame) if isinstance(frame, str) else _decode_binary(frame)


def _decode_text(text: str) -> Frame:
    try:
        raw = text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(FRAME, "not valid UTF-8") from exc
    document = strict_json.decode_text(text, field=FRAME)
    if not isinstance(document, dict):
        raise InvalidInput(FRAME, _NO_OBJECT)
    body = document.get("body")
    if body is None:
        return _make_frame(Format.JSON, document, {}, b"{}", _NO_BODY[Format.JSON])
    try:
        echo = _json_decoder.decode(raw).body
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(FRAME, "not valid JSON") from exc
    return _make_frame(Format.JSON, document, body, bytes(echo), echo)


def _decode_binary(raw: bytes) -> Frame:
    if raw[:1] == b"{":
        # In MessagePack that is the number 123, which is no request either.
        raise InvalidInput(FRAME, _JSON_IN_BINARY)
    try:
        # This must be first: it takes no memory for the length that the header of an array or map claims.
        echo = _pack_decoder.decode(raw).body
        document = msgpack.unpackb(
            raw, raw=False, strict_map_key=True, object_pairs_hook=_unique, ext_hook=_refuse_extension
        )
    except InvalidInput:
        raise
    except UnicodeDecodeError as exc:
        raise InvalidInput(FRAME, "a string is not valid UTF-8") from exc
    except msgspec.ValidationError as exc:
        raise InvalidInput(FRAME, _NO_OBJECT) from exc
    except RecursionError as exc:
        raise InvalidInput(FRAME, f"nested deeper than {MAX_DEPTH} levels") from exc
    except (ValueError, msgpack.UnpackException) as exc:
        raise InvalidInput(FRAME, "not valid MessagePack") from exc
    if not isinstance(document, dict):
        raise InvalidInput(FRAME, _NO_OBJECT)
    _check_values(document)
    body = document.get("body")
    if body is None:
        return _make_frame(Format.MESSAGEPACK, document, {}, b"{}", _NO_BODY[Format.MESSAGEPACK])
    return _make_frame(Format.MESSAGEPACK, document, body, msgspec.json.encode(body), echo)


def _make_frame(format_: Format, document: dict[str, Any], body: Any, raw: bytes, echo: msgspec.Raw) -> Frame:
    checked = Document(raw)
    checked.value = body
    return Frame(format_, document.get("action"), document.get("headers"), body, checked, echo)


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidInput(FRAME, "a key is given twice in one map")
    return members


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise InvalidInput(FRAME, "holds an extension type, which JSON has no form of")


_ONLY_STRINGS = frozenset({str})
_HARMLESS = frozenset({str, bool, type(None)})


def _check_values(document: dict[Any, Any]) -> None:
    """InvalidInput if strict JSON cannot hold the document. Goes level by level, because Python limits recursion."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            values: Any = container
            if type(container) is dict:
                if not _ONLY_STRINGS.issuperset(map(type, container)):
                    raise InvalidInput(FRAME, "a key is not a string")
                values = container.values()
            # PERF: one call for all that is harmless, as most of what comes is.
            if _HARMLESS.issuperset(map(type, values)):
                continue
            for value in values:
                kind = type(value)
                if kind is dict or kind is list:
                    below.append(value)
                elif kind not in _HARMLESS:
                    _check_scalar(value)
        if not below:
            return
        level = below
    raise InvalidInput(FRAME, f"nested deeper than {MAX_DEPTH} levels")


def _check_scalar(value: object) -> None:
    if type(value) is int:
        if not INT64_MIN <= value <= INT64_MAX:
            raise InvalidInput(FRAME, "an integer does not fit into 64 bits")
    elif type(value) is float:
        if not math.isfinite(value):
            raise InvalidInput(FRAME, "NaN and infinity have no form in JSON")
    else:
        raise InvalidInput(FRAME, "holds binary data or a timestamp, which JSON has no form of")


def encode(format_: Format, document: Any) -> str | bytes:
    """A frame with the document: text for JSON, bytes for MessagePack.

    ``document`` is anything that ``msgspec.json.encode`` takes. A ``msgspec.Raw`` in it is JSON.
    """
    text = msgspec.json.encode(document)
    return text.decode() if format_ is Format.JSON else _to_messagepack(text)


def encode_reply(format_: Format, *, request: Mapping[str, Any], body: Any, headers: Mapping[str, Any]) -> str | bytes:
    """A reply frame.

    ``request`` is the repeated request, in which a ``msgspec.Raw`` is in the same format; ``body`` is anything that
    ``msgspec.json.encode`` takes, in which a ``msgspec.Raw`` is JSON; ``headers`` has the status.
    """
    if format_ is Format.JSON:
        return msgspec.json.encode({"request": request, "body": body, "headers": headers}).decode()
    packed = msgspec.Raw(_to_messagepack(msgspec.json.encode(body)))
    return msgspec.msgpack.encode({"request": request, "body": packed, "headers": headers})


def _to_messagepack(text: bytes) -> bytes:
    """JSON from a store or from the service, converted to MessagePack."""
    try:
        return msgspec.msgpack.encode(msgspec.json.decode(text))
    except (ValueError, OverflowError):
        # PERF: almost no document has a number that is too large, so do not search for one before.
        return msgspec.msgpack.encode(json.loads(text, parse_int=_nearest))


def _nearest(text: str) -> int | float:
    # Clients cannot post such a number, but other software may have written it to the store.
    if len(text) <= 20 and INT64_MIN <= (number := int(text)) < 2**64:
        return number
    return float(text)
