# SPDX-License-Identifier: Apache-2.0
"""The format of sealed bodies: what is authenticated, which key opens what, and what refuses to be opened."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from zaqar.encryption.messages import (
    NO_KEYS,
    OVERHEAD,
    PERIOD_BITS,
    MessageKeys,
    Unreadable,
    UnreadableLog,
    key_id,
    key_id_of,
    project_tag,
)
from zaqar.errors import StartupError
from zaqar.model import SEALED, is_sealed

OLD, NEW = bytes(range(32)), bytes(range(100, 132))
UID = "0123456789abcdef01234567"
NOW = 1_800_000_000.5
BODY = b'{"card":  "4111"}'


def sealed(keys: MessageKeys, body: bytes = BODY, *, uid: str = UID, project: str = "shop", now: float = NOW) -> bytes:
    return keys.seal(body, queue_uid=uid, project=project, now=now)


@pytest.mark.parametrize("body", [b"0", BODY, "\u00e9".encode() * 100_000])
def test_what_was_sealed_is_opened_byte_for_byte(body: bytes) -> None:
    keys = MessageKeys([NEW])
    stored = sealed(keys, body)
    assert is_sealed(stored)
    assert not is_sealed(body)
    assert len(stored) == len(body) + OVERHEAD
    assert len(body) < 4 or body not in stored
    assert keys.open(stored, project="shop") == body


def test_the_format_is_the_documented_one() -> None:
    """Made again here from the decision record alone, with HKDF by hand."""
    stored = sealed(MessageKeys([NEW]))
    period = int(NOW) // 2**PERIOD_BITS
    head = struct.pack(">B4s12sI16s", 1, key_id(NEW), bytes.fromhex(UID), period, project_tag("shop"))
    assert stored.startswith(head)
    assert key_id(NEW) == hashlib.sha256(b"zaqar key id" + NEW).digest()[:4]
    assert project_tag("shop") == hashlib.sha256(b"zaqar project" + b"shop").digest()[:16]
    extracted = hmac.digest(bytes(32), NEW, "sha256")
    info = b"zaqar message v1" + bytes.fromhex(UID) + struct.pack(">I", period)
    derived = hmac.digest(extracted, info + b"\x01", "sha256")
    nonce = stored[37:49]
    assert AESGCM(derived).decrypt(nonce, stored[49:], stored[:49]) == BODY


def test_each_sealing_has_a_nonce_of_its_own() -> None:
    keys = MessageKeys([NEW])
    assert len({sealed(keys) for _ in range(100)}) == 100


def test_the_newest_key_seals_and_all_open() -> None:
    before = sealed(MessageKeys([OLD]))
    rotated = MessageKeys([NEW, OLD])
    assert rotated.open(before, project="shop") == BODY
    assert key_id_of(sealed(rotated)) == rotated.ids[0] == key_id(NEW).hex()
    assert sealed(rotated).startswith(rotated.up_to_date)
    assert not before.startswith(rotated.up_to_date)


def test_resealing_keeps_queue_and_project_and_changes_the_key() -> None:
    rotated = MessageKeys([NEW, OLD])
    again = rotated.reseal(sealed(MessageKeys([OLD])), now=NOW + 2**PERIOD_BITS)
    assert again.startswith(rotated.up_to_date)
    assert again[5:17] == bytes.fromhex(UID)
    assert MessageKeys([NEW]).open(again, project="shop") == BODY
    with pytest.raises(Unreadable):
        MessageKeys([NEW]).open(again, project="other")


@pytest.mark.parametrize("place", range(OVERHEAD + len(BODY)))
def test_no_byte_can_be_changed(place: int) -> None:
    keys = MessageKeys([NEW])
    stored = bytearray(sealed(keys))
    stored[place] ^= 0x40
    with pytest.raises(Unreadable):
        keys.open(bytes(stored), project="shop")


@pytest.mark.parametrize("length", [0, 1, 5, 48, 49, OVERHEAD - 1, OVERHEAD, OVERHEAD + len(BODY) - 1])
def test_nothing_can_be_cut_off(length: int) -> None:
    keys = MessageKeys([NEW])
    with pytest.raises(Unreadable, match="damaged"):
        keys.open(sealed(keys)[:length], project="shop")


def test_a_body_cannot_be_opened_in_another_project() -> None:
    keys = MessageKeys([NEW])
    with pytest.raises(Unreadable, match="another project"):
        keys.open(sealed(keys), project="shop2")


def test_a_body_cannot_be_given_to_another_queue() -> None:
    keys = MessageKeys([NEW])
    mine, other = sealed(keys), sealed(keys, uid="f" * 24)
    with pytest.raises(Unreadable, match="damaged"):
        keys.open(mine[:5] + other[5:17] + mine[17:], project="shop")


def test_queues_and_periods_have_keys_of_their_own() -> None:
    """A change of either in the header leads to another key, so it fails even with the header's tag left out."""
    keys = MessageKeys([NEW])
    ciphers = {
        keys._derive(key_id(NEW), uid, period).encrypt(bytes(12), b"0" * 16, None)
        for uid in (b"a" * 12, b"b" * 12)
        for period in (1, 2)
    }
    assert len(ciphers) == 4


def test_an_unknown_key_is_named_and_nothing_secret_is() -> None:
    with pytest.raises(Unreadable) as caught:
        MessageKeys([NEW]).open(sealed(MessageKeys([OLD])), project="shop")
    assert caught.value.key_id == key_id(OLD).hex()
    assert "does not have" in str(caught.value)
    for key in (OLD, NEW):
        shown = repr(MessageKeys([OLD, NEW])) + str(caught.value)
        assert key.hex() not in shown
        assert repr(key)[2:-1] not in shown


def test_without_keys_nothing_is_sealed_and_nothing_is_opened() -> None:
    assert NO_KEYS.refusal is not None
    assert "[transport] message_encryption_key" in NO_KEYS.refusal
    with pytest.raises(ValueError, match="message_encryption_key"):
        sealed(NO_KEYS)
    with pytest.raises(Unreadable, match="does not have"):
        NO_KEYS.open(sealed(MessageKeys([OLD])), project="shop")


def test_keys_with_one_id_are_refused() -> None:
    with pytest.raises(StartupError, match="message_encryption_key"):
        MessageKeys([NEW, OLD, NEW])


def test_a_missing_library_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(StartupError, match=r"install zaqar\[encryption\]"):
        MessageKeys([NEW])
    assert MessageKeys().refusal is not None


def test_threads_share_the_keys() -> None:
    keys = MessageKeys([NEW])

    def work(number: int) -> bool:
        bodies = [os.urandom(200) for _ in range(200)]
        uid = f"{number:024x}"
        return all(keys.open(sealed(keys, body, uid=uid), project="shop") == body for body in bodies)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(32)))


def test_no_json_text_begins_like_a_sealed_body() -> None:
    # RFC 8259: white space, or the first character of a value.
    assert SEALED not in b' \t\n\r{["-0123456789tfn'


def test_the_log_says_the_same_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    log = UnreadableLog(lambda: now[0])
    error = Unreadable("it is damaged", "aabbccdd")
    with caplog.at_level(logging.ERROR):
        for moment in (0.0, 1.0, 59.0, 60.0):
            now[0] = moment
            log.note(UID + "0" * 12, UID, error)
        log.note(UID + "0" * 12, "another", error)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert "aabbccdd" in caplog.text
