# SPDX-License-Identifier: Apache-2.0
"""The keys of message encryption, read from the configuration once, when the parts of the service are put together.

A reload with SIGHUP puts the parts together anew, so it reads the keys anew as well.
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
"""The default of ``message_encryption_key`` in earlier releases and upstream. Everybody knows it."""

SHORT_TEXT = 32
"""Characters that a text should have at least to be hard to guess; see ``weakness``."""

_MOST_BYTES_OF_A_FILE = 64 * 1024
_READABLE_BY_OTHERS = 0o037
"""The group may read it: that is how a file of root is given to a service."""


def load(conf: cfg.ConfigOpts) -> MessageKeys:
    """The keys that the options of ``[transport]`` name, none if they name none.

    Raises StartupError, one sentence that names the option and never shows a key.
    """
    algorithm = conf.transport.message_encryption_algorithms
    if algorithm.upper() != "AES256":
        raise StartupError(
            f"[transport] message_encryption_algorithms: '{algorithm}' is not available; bodies are encrypted with "
            "AES256 (AES-256-GCM) only."
        )
    # A key that is named twice, such as in the file and as an old one, counts where it is newest.
    return MessageKeys(list(dict.fromkeys(_masters(conf))))


def weakness(conf: cfg.ConfigOpts) -> str | None:
    """What an operator should be warned of about the key that encrypts; None for nothing."""
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


def _masters(conf: cfg.ConfigOpts) -> Iterator[bytes]:
    """The newest first."""
    options = conf.transport
    text = (options.message_encryption_key or "").strip()
    if text and text != NOT_A_KEY:
        yield _master(text, "message_encryption_key")
    if options.message_encryption_key_file:
        yield from _of_file(Path(options.message_encryption_key_file).expanduser())
    if options.message_encryption_key_ids:
        yield from _of_key_manager(conf, options.message_encryption_key_ids)
    for old in options.message_encryption_old_keys:
        if old == NOT_A_KEY:
            raise StartupError(
                f"[transport] message_encryption_old_keys: '{NOT_A_KEY}' is no key; nothing was ever encrypted with it."
            )
        yield _master(old, "message_encryption_old_keys")


def _master(text: str, option: str) -> bytes:
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


def _of_file(path: Path) -> Iterator[bytes]:
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
        yield _master(key, option)


def _of_key_manager(conf: cfg.ConfigOpts, ids: list[str]) -> Iterator[bytes]:
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
        # Without auth_type the back end has credentials of its own, as that for Vault has.
        caller = utils.credential_factory(conf=conf) if conf.key_manager.auth_type else context.RequestContext()
    except Exception as exc:  # whatever its back end raises is about the configuration
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
