# SPDX-License-Identifier: Apache-2.0
"""Scripts are assembled from their pieces, and their flags say what they do."""

from __future__ import annotations

import hashlib
import pkgutil
import re
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest

from zaqar.storage import redis
from zaqar.storage.redis.client import scripts
from zaqar.storage.redis.client.scripts import Script, assemble, load

SCRIPTS = {
    script.name: script
    for module in pkgutil.iter_modules(redis.__path__, f"{redis.__name__}.")
    for script in vars(import_module(module.name)).values()
    if isinstance(script, Script)
}
FOLDER = files("zaqar.storage.redis") / "scripts"
TEXTS = {
    f"{folder.name}/{file.name.removesuffix('.lua')}": file.read_text()
    for folder in FOLDER.iterdir()
    for file in folder.iterdir()
}


def test_every_file_is_a_script_that_is_used_or_a_piece_of_one() -> None:
    included = {f"pieces/{name}" for text in TEXTS.values() for name in re.findall(r"-- include: (\w+)", text)}
    assert SCRIPTS.keys() | included == TEXTS.keys()
    assert SCRIPTS.keys() == set(scripts.names())


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_a_script_has_all_its_pieces_and_the_digest_of_its_text(script: Script) -> None:
    assert b"include:" not in script.source
    assert script.sha == hashlib.sha1(script.source).hexdigest().encode()
    assert script == load(script.name, idempotent=script.idempotent, durable=script.durable)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_a_script_has_no_clock_and_no_random_numbers(script: Script) -> None:
    assert not re.search(rb"'(TIME|RANDOMKEY|SRANDMEMBER|SCAN|KEYS)'|math\.random", script.source)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_begins_with_what_it_does_and_what_it_takes_and_replies(name: str) -> None:
    header = re.match(r"(?:-- .*\n)+", TEXTS[name])
    assert header is not None
    assert re.match(r"-- [A-Z].*\.\n-- KEYS", header[0]), "first line: what it does; then its KEYS"
    assert "Reply: " in header[0]
    if "ARGV[" in TEXTS[name]:
        assert "ARGV" in header[0]


def test_every_piece_begins_with_a_comment_or_a_local_that_has_one() -> None:
    for name, text in TEXTS.items():
        if name.startswith("pieces/"):
            assert re.match(r"-- |local removed = 0 -- ", text), name


def test_scripts_that_are_not_idempotent_are_never_sent_twice() -> None:
    assert {name for name, script in SCRIPTS.items() if not script.idempotent} == {
        "messages/post",
        "claims/claim",
        "messages/pop",
        "queue_records/replace",
        "catalog/replace",
        "outbox/take",
        "deliveries/take",
        "delivery_log/resend",
        "subscriptions/replace",
        "subscriptions/take_pauses",
        "trusts/replace",
    }


def test_the_assembled_scripts_are_written_into_a_folder(tmp_path: Path) -> None:
    scripts.main([str(tmp_path)])
    written = {
        str(file.relative_to(tmp_path)).removesuffix(".lua"): file.read_text() for file in tmp_path.rglob("*.lua")
    }
    assert written == {name: assemble(name) for name in SCRIPTS}
