# SPDX-License-Identifier: Apache-2.0
"""Reads the keys of message encryption from the configuration. ``zaqar.app`` calls it when it builds the service.

A reload with SIGHUP builds the service again, so it also reads the keys again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from oslo_config import cfg

from zaqar.encryption.messages import KEY_BYTES, MessageKeys
from zaqar.errors import StartupError

NOT_A_KEY = "AES256"
"""The default of ``message_encryption_key`` in earlier releases and in OpenStack Zaqar. It is public, so no secret."""

SHORT_TEXT = 32
"""A key that is a text should have at least this many characters; see ``weakness``."""

_MOST_BYTES_OF_A_FILE = 64 * 1024
_READABLE_BY_OTHERS = 0o037
"""Mode bits that a key file must not have. The group may read it: a file of root is often given to a service so."""


def load(conf: cfg.ConfigOpts) -> MessageKeys:
    """Read the keys that the options of ``[transport]`` name; there may be none.

    Raises StartupError with a sentence that names the option and never shows a key.
    """
    algorithm = conf.transport.message_encryption_algorithms
    if algorithm.upper() != "AES256":
        raise StartupError(
            f"[transport] message_encryption_algorithms: '{algorithm}' is not available; bodies are encrypted with "
            "AES256 (AES-256-GCM) only."
        )
    # If a key is given twice, such as in the file and as an old key, its newest position counts.
    return MessageKeys(list(dict.fromkeys(_read_masters(conf))))


def weakness(conf: cfg.ConfigOpts) -> str | None:
    """Return a warning for the operator about the newest key; None if it is good."""
    text: str = conf.transport.message_encryption_key or ""
    if text == NOT_A_KEY:
        return (
            f"[transport] message_encryption_key is '{NOT_A_KEY}', which is the default of earlier releases and no "
            "secret: queues cannot be encrypted until 'openssl rand -base64 32' has made a key."
        )
    if text and not text.startswith(("base64:", "hex:")) and len(text) < SHORT_TEXT:
        return (
            f"[transport] message_encryption_key is a text of less than {SHORT_TEXT} characters, which may be guessed; "
            "'openssl rand -base64 32' makes a better key."
        )
    return None


def _read_masters(conf: cfg.ConfigOpts) -> Iterator[bytes]:
    """Yield the master keys of all options, the newest first."""
    options = conf.transport
    text = (options.message_encryption_key or "").strip()
    if text and text != NOT_A_KEY:
        yield _parse_master(text, "message_encryption_key")
    if options.message_encryption_key_file:
        yield from _read_file(Path(options.message_encryption_key_file).expanduser())
    if options.message_encryption_key_ids:
        yield from _read_key_manager(conf, options.message_encryption_key_ids)
    for old in options.message_encryption_old_keys:
        if old == NOT_A_KEY:
            raise StartupError(
                f"[transport] message_encryption_old_keys: '{NOT_A_KEY}' is no key; nothing was ever encrypted with it."
            )
        yield _parse_master(old, "message_encryption_old_keys")


def _parse_master(text: str, option: str) -> bytes:
    kind, colon, value = text.partition(":")
    if colon and kind in ("base64", "hex"):
        try:
            key = base64.b64decode(value, validate=True) if kind == "base64" else bytes.fromhex(value)
        except (binascii.Error, ValueError):
            raise StartupError(f"[transport] {option}: what follows '{kind}:' is not valid {kind}.") from None
        if len(key) != KEY_BYTES:
            raise StartupError(f"[transport] {option}: a key has {KEY_BYTES} bytes, this one has {len(key)}.")
        return key
    return hashlib.sha256(text.encode()).digest()


def _read_file(path: Path) -> Iterator[bytes]:
    option = "message_encryption_key_file"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MOST_BYTES_OF_A_FILE + 1)
    except OSError as exc:
        raise StartupError(f"[transport] {option}: {path} cannot be read: {exc.strerror}.") from exc
    if stat.S_IMODE(mode) & _READABLE_BY_OTHERS:
        raise StartupError(f"[transport] {option}: {path} is open to other users; 'chmod 600' closes it.")
    if len(content) > _MOST_BYTES_OF_A_FILE:
        raise StartupError(f"[transport] {option}: {path} has more than {_MOST_BYTES_OF_A_FILE} bytes.")
    try:
        lines = [line.strip() for line in content.decode().splitlines()]
    except UnicodeDecodeError:
        raise StartupError(f"[transport] {option}: {path} is not a text file in UTF-8.") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or NOT_A_KEY in keys:
        wrong = f"'{NOT_A_KEY}' is no key" if keys else "there is no key in it"
        raise StartupError(f"[transport] {option}: {path}: {wrong}.")
    for key in keys:
        yield _parse_master(key, option)


def _read_key_manager(conf: cfg.ConfigOpts, ids: list[str]) -> Iterator[bytes]:
    option = "message_encryption_key_ids"
    try:
        from castellan import key_manager
        from castellan.common import utils
        from oslo_context import context
    except ImportError as exc:
        raise StartupError(f"[transport] {option} needs the library castellan: install zaqar[castellan].") from exc
    try:
        manager = key_manager.API(conf)
        conf.register_opts(utils.credential_opts, group="key_manager")
        # Without auth_type the back end has its own credentials, like the one for Vault.
        caller = utils.credential_factory(conf=conf) if conf.key_manager.auth_type else context.RequestContext()
    except Exception as exc:  # any error of its back end is about the configuration
        raise StartupError(f"[transport] {option}: the key manager cannot be used: {_reason(exc)}.") from exc
    for number, id_ in enumerate(ids, 1):
        try:
            key = manager.get(caller, id_).get_encoded()
        except Exception as exc:
            raise StartupError(f"[transport] {option}: key {number} cannot be read: {_reason(exc)}.") from exc
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            raise StartupError(f"[transport] {option}: key {number} has not {KEY_BYTES} bytes.")
        yield key


def _reason(exc: Exception) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:300].rstrip(".")
