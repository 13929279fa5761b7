# SPDX-License-Identifier: Apache-2.0
"""Frames as bytes and as values: text frames are JSON, binary frames are MessagePack, whatever they hold.

Both are read as strictly as the body of a request over HTTP (:mod:`zaqar.schemas.strict_json`). Of MessagePack, only
what JSON has too is admitted: no binary data, no extensions, no timestamps, no NaN, and only strings as keys.
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
"""What errors call a frame that cannot be read at all."""


class Format(enum.Enum):
    JSON = "json"
    MESSAGEPACK = "messagepack"


@dataclass(slots=True)
class Frame:
    """A request frame that was decoded. Nothing is known about the types of its members, except those of ``raw``.

    ``body`` is {} if the frame has none, or null. ``raw`` is the same as JSON: of a text frame, the bytes that came.
    ``echo`` is the body as it can be put into a reply of the same format.
    """

    format: Format
    action: Any
    headers: Any
    body: Any
    raw: bytes
    echo: msgspec.Raw


class _Outer(msgspec.Struct):
    """A frame whose body is left as it came."""

    body: msgspec.Raw = msgspec.Raw()


_json_decoder = msgspec.json.Decoder(_Outer)
_pack_decoder = msgspec.msgpack.Decoder(_Outer)
_NO_OBJECT = "Unexpected body type. Expected an object with 'action', 'headers' and 'body'."
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
    try:
        # First of all, as it takes no memory for arrays and maps that only claim to be long.
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
    """InvalidInput unless the document has a form in strict JSON; level by level, as recursion has an end."""
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
    """A frame: text in JSON, bytes in MessagePack.

    ``document`` is anything that ``msgspec.json.encode`` takes. A ``msgspec.Raw`` in it is JSON.
    """
    text = msgspec.json.encode(document)
    return text.decode() if format_ is Format.JSON else _to_messagepack(text)


def encode_reply(format_: Format, *, request: Mapping[str, Any], body: Any, headers: Mapping[str, Any]) -> str | bytes:
    """The reply to a frame of the same format. ``body`` is as for :func:`encode`.

    A ``msgspec.Raw`` in ``request`` is in that format.
    """
    if format_ is Format.JSON:
        return msgspec.json.encode({"request": request, "body": body, "headers": headers}).decode()
    packed = msgspec.Raw(_to_messagepack(msgspec.json.encode(body)))
    return msgspec.msgpack.encode({"request": request, "body": packed, "headers": headers})


def _to_messagepack(text: bytes) -> bytes:
    """JSON that was stored or made by the service in MessagePack."""
    try:
        return msgspec.msgpack.encode(msgspec.json.decode(text))
    except (ValueError, OverflowError):
        # PERF: almost no document has a number that is too large, so nothing looks for one beforehand.
        return msgspec.msgpack.encode(json.loads(text, parse_int=_nearest))


def _nearest(text: str) -> int | float:
    # Nothing like it can be posted. A message that other software has put into the store is shown as well as it can be.
    if len(text) <= 20 and INT64_MIN <= (number := int(text)) < 2**64:
        return number
    return float(text)
