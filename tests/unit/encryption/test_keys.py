# SPDX-License-Identifier: Apache-2.0
"""Where keys come from, and what an operator is told of one that cannot be used."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from castellan.common.exception import ManagedObjectNotFoundError
from castellan.common.objects.symmetric_key import SymmetricKey
from castellan.key_manager.key_manager import KeyManager

from zaqar import conf
from zaqar.encryption import keys as encryption_keys
from zaqar.encryption.messages import MessageKeys, key_id
from zaqar.errors import StartupError

FIRST, SECOND, THIRD, FOURTH = (bytes((number,)) * 32 for number in range(1, 5))


def base64_of(key: bytes) -> str:
    return "base64:" + base64.b64encode(key).decode()


def load(**options: Any) -> MessageKeys:
    configuration = conf.load(default_config_files=[])
    for name, value in options.items():
        configuration.set_override(f"message_encryption_{name}", value, "transport")
    return encryption_keys.load(configuration)


def ids(*keys: bytes) -> list[str]:
    return [key_id(key).hex() for key in keys]


@pytest.mark.parametrize(
    ("text", "master"),
    [
        (base64_of(FIRST), FIRST),
        ("hex:" + FIRST.hex(), FIRST),
        ("correct horse: battery staple", hashlib.sha256(b"correct horse: battery staple").digest()),
        ("gr\u00fc\u00dfe", hashlib.sha256("gr\u00fc\u00dfe".encode()).digest()),
    ],
)
def test_a_key_in_each_form(text: str, master: bytes) -> None:
    keys = load(key=text)
    assert keys.ids == ids(master)
    assert keys.refusal is None


@pytest.mark.parametrize("text", [None, "", "  ", "AES256"])
def test_what_is_no_key_still_starts(text: str | None) -> None:
    keys = load(key=text)
    assert keys.ids == []
    assert "openssl rand -base64 32" in str(keys.refusal)


def test_the_order_of_the_sources(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# the newest first\n{base64_of(SECOND)}\n\n  hex:{THIRD.hex()}\n")
    path.chmod(0o600)
    old = [base64_of(FOURTH), base64_of(SECOND)]
    assert load(key=base64_of(FIRST), key_file=str(path), old_keys=old).ids == ids(FIRST, SECOND, THIRD, FOURTH)
    assert load(key_file=str(path)).ids == ids(SECOND, THIRD)
    # Without a key of its own the service goes on to read what it has, with the newest that is left.
    assert load(old_keys=old).ids == ids(FOURTH, SECOND)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_modes_that_a_key_file_may_have(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    path.write_text(base64_of(FIRST))
    path.chmod(mode)
    assert load(key_file=str(path)).ids == ids(FIRST)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602])
def test_modes_that_it_may_not_have(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    path.write_text(base64_of(FIRST))
    path.chmod(mode)
    with pytest.raises(StartupError, match="open to other users"):
        load(key_file=str(path))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"key": "base64:AAAA"}, "message_encryption_key: a key has 32 bytes, this one has 3"),
        ({"key": "base64:?secret?"}, "message_encryption_key: what follows 'base64:' is not valid base64"),
        ({"key": "hex:0g"}, "message_encryption_key: what follows 'hex:' is not valid hex"),
        ({"old_keys": ["hex:00"]}, "message_encryption_old_keys: a key has 32 bytes"),
        ({"old_keys": ["AES256"]}, "message_encryption_old_keys: 'AES256' is no key"),
        ({"algorithms": "RSA"}, "message_encryption_algorithms: 'RSA' is not available"),
        ({"key_file": "/nonexistent/keys"}, "message_encryption_key_file: /nonexistent/keys cannot be read"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StartupError) as caught:
        load(**options)
    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "there is no key in it"),
        (b"# none\n\n", "there is no key in it"),
        (b"AES256\n", "'AES256' is no key"),
        (b"\xff\xfe\n", "is not a text file"),
        (b"a\n" * 40_000, "has more than"),
        (b"base64:AAAA\n", "a key has 32 bytes"),
    ],
)
def test_a_key_file_that_cannot_be_used(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StartupError, match=reason):
        load(key_file=str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, None),
        (base64_of(FIRST), None),
        ("a passphrase of thirty-two characters or more", None),
        ("AES256", "no secret"),
        ("short", "may be guessed"),
    ],
)
def test_weak_keys_are_warned_of(text: str | None, said: str | None) -> None:
    configuration = conf.load(default_config_files=[])
    configuration.set_override("message_encryption_key", text, "transport")
    weakness = encryption_keys.weakness(configuration)
    assert (weakness is None) == (said is None)
    if said is not None:
        assert said in str(weakness)


class Keys(KeyManager):  # type: ignore[misc]
    """A key manager behind Castellan's own interface, with keys in memory: it stands for the back end only."""

    stored: dict[str, bytes] = {"newest": FIRST, "old": SECOND, "short": b"short"}

    def __init__(self, configuration: Any) -> None:
        self.conf = configuration

    def get(self, context: Any, managed_object_id: str, metadata_only: bool = False) -> SymmetricKey:
        try:
            return SymmetricKey("AES", 256, self.stored[managed_object_id])
        except KeyError:
            raise ManagedObjectNotFoundError(uuid=managed_object_id) from None

    def _unused(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    create_key = create_key_pair = store = delete = list = add_consumer = remove_consumer = _unused


def load_managed(*names: str, backend: str = f"{__name__}.Keys", **options: Any) -> MessageKeys:
    configuration = conf.load(default_config_files=[])
    from castellan import options as castellan_options

    castellan_options.set_defaults(configuration)
    configuration.set_override("backend", backend, "key_manager")
    configuration.set_override("message_encryption_key_ids", list(names), "transport")
    for name, value in options.items():
        configuration.set_override(f"message_encryption_{name}", value, "transport")
    return encryption_keys.load(configuration)


def test_keys_of_a_key_manager() -> None:
    assert load_managed("newest", "old").ids == ids(FIRST, SECOND)
    assert load_managed("newest", key=base64_of(THIRD), old_keys=[base64_of(FOURTH)]).ids == ids(THIRD, FIRST, FOURTH)


@pytest.mark.parametrize(
    ("names", "backend", "reason"),
    [
        (["newest", "gone"], f"{__name__}.Keys", "key 2 cannot be read: ManagedObjectNotFoundError"),
        (["short"], f"{__name__}.Keys", "key 1 has not 32 bytes"),
        (["newest"], "nowhere.Keys", "the key manager cannot be used"),
    ],
)
def test_a_key_manager_that_cannot_be_used(names: list[str], backend: str, reason: str) -> None:
    with pytest.raises(StartupError, match=reason):
        load_managed(*names, backend=backend)


def test_castellan_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "castellan", None)
    with pytest.raises(StartupError, match=r"install zaqar\[castellan\]"):
        load(key_ids=["newest"])
