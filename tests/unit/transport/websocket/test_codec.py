# SPDX-License-Identifier: Apache-2.0
"""Frames are read as strictly as the body of a request over HTTP, in both formats."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import msgpack
import msgspec
import pytest

from zaqar.errors import InvalidInput
from zaqar.schemas import strict_json
from zaqar.transport.websocket.codec import Format, decode, encode, encode_reply


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def packed(body: Any) -> bytes:
    frame: bytes = msgpack.packb({"action": "a", "headers": {}, "body": body})
    return frame


def packed_raw(body: bytes) -> bytes:
    """A frame whose body is these bytes, valid or not."""
    return b"\x83" + b"".join(map(msgpack.packb, ("action", "a", "headers", {}, "body"))) + body


NOT_DECODABLE: dict[str, str | bytes] = {
    "half": "{",
    "empty": "",
    "list": "[1]",
    "number": "5",
    "null": "null",
    "trailing": "{} {}",
    "byte order mark": "\ufeff{}",
    "NaN": '{"body":{"a":NaN}}',
    "infinity": '{"body":[-Infinity]}',
    "double too large": '{"body":{"a":1e400}}',
    "integer too large": '{"body":{"a":9223372036854775808}}',
    "duplicate key outside": '{"action":"a","action":"b"}',
    "duplicate body": '{"body":{},"body":{}}',
    "duplicate key inside": '{"body":{"a":{"b":1,"b":2}}}',
    "duplicate header": '{"headers":{"a":1,"a":2}}',
    "half a surrogate pair": '{"body":{"a":"\\ud800"}}',
    "half a surrogate pair as a character": '{"action":"\ud800"}',
    "deep": json.dumps({"body": nested(strict_json.MAX_DEPTH)}),
    "very deep": '{"body":' + "[" * 100_000,
    "MessagePack: empty": b"",
    "MessagePack: half": b"\x81",
    "MessagePack: list": b"\x91\x01",
    "MessagePack: number": b"\x05",
    "MessagePack: nil": b"\xc0",
    "MessagePack: never used": b"\xc1",
    "MessagePack: trailing": b"\x80\x80",
    "MessagePack: JSON": b'{"action": "a"}',
    "MessagePack: binary": packed({"a": b"b"}),
    "MessagePack: binary as the body": packed(b"b"),
    "MessagePack: binary key": packed({b"a": 1}),
    "MessagePack: binary key outside": b"\x81\xc4\x01a\x01",
    "MessagePack: integer key": packed({1: 1}),
    "MessagePack: integer key outside": b"\x81\x01\x01",
    "MessagePack: nil key": packed_raw(b"\x81\xc0\x01"),
    "MessagePack: list as key": packed_raw(b"\x81\x90\x01"),
    "MessagePack: map as key": packed_raw(b"\x81\x80\x01"),
    "MessagePack: NaN": packed([math.nan]),
    "MessagePack: infinity": packed([-math.inf]),
    "MessagePack: 2^63": packed(2**63),
    "MessagePack: 2^64-1": packed({"a": 2**64 - 1}),
    "MessagePack: extension": packed([msgpack.ExtType(5, b"x")]),
    "MessagePack: large extension": packed([msgpack.ExtType(5, b"x" * 70_000)]),
    "MessagePack: timestamp": packed([msgpack.Timestamp(1, 2)]),
    "MessagePack: timestamp outside": b"\x81\xa1a\xd6\xff\x00\x00\x00\x01",
    "MessagePack: duplicate key": packed_raw(b"\x82\xa1a\x01\xa1a\x02"),
    "MessagePack: duplicate body": b"\x82\xa4body\x80\xa4body\x80",
    "MessagePack: duplicate key in two forms": packed_raw(b"\x82\xa1a\x01\xd9\x01a\x02"),
    "MessagePack: not UTF-8": packed_raw(b"\x81\xa1a\xa1\xff"),
    "MessagePack: key not UTF-8": packed_raw(b"\x81\xa1\xff\x01"),
    "MessagePack: half a surrogate pair": packed_raw(b"\xa3\xed\xa0\x80"),
    "MessagePack: deep": packed(nested(strict_json.MAX_DEPTH)),
    "MessagePack: very deep": packed_raw(b"\x91" * 200_000 + b"\x01"),
    "MessagePack: very deep maps": packed_raw(b"\x81\xa1a" * 100_000 + b"\x01"),
    "MessagePack: an array of 4 billion": packed_raw(b"\xdd\xff\xff\xff\xff"),
    "MessagePack: a map of 4 billion": packed_raw(b"\xdf\xff\xff\xff\xff"),
    "MessagePack: a string of 4 GiB": packed_raw(b"\xdb\xff\xff\xff\xff"),
    "MessagePack: binary of 4 GiB": packed_raw(b"\xc6\xff\xff\xff\xff"),
    "MessagePack: an extension of 4 GiB": packed_raw(b"\xc9\xff\xff\xff\xff\x01"),
    "MessagePack: arrays that claim the whole frame": packed_raw(b"\xdd\x00\x04\x00\x00" * 60_000),
    "MessagePack: a map of 4 billion outside": b"\xdf\xff\xff\xff\xff",
}


@pytest.mark.parametrize("frame", NOT_DECODABLE.values(), ids=NOT_DECODABLE)
def test_frames_that_are_no_strict_object_are_refused(frame: str | bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(frame)
    assert caught.value.field == "frame"


@pytest.mark.parametrize("claim", [b"\xdd\x00\x04\x00\x00", b"\xdc\xff\xff", b"\xdf\x00\x02\x00\x00\xa1a"])
def test_lengths_that_are_only_claimed_take_no_memory(claim: bytes) -> None:
    frame = packed_raw(claim * 60_000)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput):
            decode(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(frame)


BODY = {"a": [1, -1, 2**63 - 1, -(2**63), 1.5, True, None, "\u00e9\U0001f600\0"], "": {}}


@pytest.mark.parametrize("frame", [json.dumps({"body": BODY}), msgpack.packb({"body": BODY})], ids=["json", "pack"])
def test_messagepack_with_values_of_json_is_accepted(frame: str | bytes) -> None:
    read = decode(frame)
    assert read.body == BODY
    assert json.loads(read.raw) == BODY
    # A parser of the service gets the decoded value and need not decode it again.
    assert strict_json.decode(read.raw) is read.body


@pytest.mark.parametrize("depth", [0, strict_json.MAX_DEPTH - 1])
def test_both_formats_have_the_same_limit_of_nesting(depth: int) -> None:
    assert decode(json.dumps({"body": nested(depth)})).body == decode(packed(nested(depth))).body


def test_the_body_of_a_text_frame_keeps_its_bytes() -> None:
    body = '{ "a" : 1.0e2,\n"b":"\\u0041" }'
    read = decode(f'{{"action":"a","body": {body} ,"x":1}}')
    assert bytes(read.raw) == body.encode()
    assert bytes(read.echo) == body.encode()


@pytest.mark.parametrize(
    "frame",
    [
        '{"b\\u006fdy":{"a":1}}',
        ' \n{ "x":{"body":2} , "body"\t:{"a":1} } ',
        '{"body\\u0000":1,"Body":2,"body":{"a":1},"body ":3}',
        b"\x81\xd9\x04body\x81\xa1a\x01",
        b"\xdf\x00\x00\x00\x01\xdb\x00\x00\x00\x04body\xdf\x00\x00\x00\x01\xda\x00\x01a\xd3" + b"\0" * 7 + b"\x01",
    ],
)
def test_a_body_in_any_spelling_is_the_one_that_is_repeated(frame: str | bytes) -> None:
    read = decode(frame)
    assert read.body == json.loads(read.raw) == {"a": 1}
    assert (json.loads if isinstance(frame, str) else msgpack.unpackb)(bytes(read.echo)) == {"a": 1}


def test_a_frame_without_a_body_has_an_empty_one() -> None:
    for frame in ("{}", '{"body":null}', b"\x80", msgpack.packb({"body": None})):
        read = decode(frame)
        assert (read.action, read.headers, read.body, bytes(read.raw)) == (None, None, {}, b"{}")


def test_a_map_of_many_keys_is_read() -> None:
    body = {f"k{n}": n for n in range(20_000)}
    assert decode(packed(body)).body == body


def test_a_raw_member_goes_into_both_formats() -> None:
    document = {"body": msgspec.Raw(b'{"n": [1, 2.5, "\xc3\xa9", null]}')}
    expected = {"body": {"n": [1, 2.5, "\u00e9", None]}}
    text, pack = encode(Format.JSON, document), encode(Format.MESSAGEPACK, document)
    assert text == '{"body":{"n": [1, 2.5, "\u00e9", null]}}'
    assert msgpack.unpackb(pack) == expected


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (b"[9223372036854775807,-9223372036854775808]", [2**63 - 1, -(2**63)]),
        (b"[18446744073709551615]", [2**64 - 1]),
        (b"[18446744073709551616]", [float(2**64)]),
        (b"[-9223372036854775809]", [-float(2**63)]),
        (b"[1" + b"0" * 400 + b"]", [math.inf]),
        (b"[1e400, 1]", [math.inf, 1]),
    ],
)
def test_a_stored_number_that_messagepack_cannot_hold_is_shown_as_the_nearest_one(stored: bytes, shown: Any) -> None:
    assert msgpack.unpackb(encode(Format.MESSAGEPACK, msgspec.Raw(stored))) == shown


def test_a_reply_repeats_the_body_of_the_request_as_it_came() -> None:
    for frame in ('{"body":{ "a":1.50 }}', msgpack.packb({"body": {"a": 1.5}}, use_single_float=True)):
        read = decode(frame)
        reply = encode_reply(read.format, request={"body": read.echo}, body={"n": 1}, headers={"status": 200})
        assert (b'{ "a":1.50 }' if isinstance(frame, str) else b"\xca\x3f\xc0\x00\x00") in (
            reply.encode() if isinstance(reply, str) else reply
        )
        assert (json.loads if isinstance(reply, str) else msgpack.unpackb)(reply) == {
            "request": {"body": {"a": 1.5}},
            "body": {"n": 1},
            "headers": {"status": 200},
        }
