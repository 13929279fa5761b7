# SPDX-License-Identifier: Apache-2.0
"""The scripts are whole, and named by what they are."""

from __future__ import annotations

import hashlib
import pkgutil
import re
from importlib import import_module
from importlib.resources import files

import pytest

from zaqar.storage import redis
from zaqar.storage.redis.scripts import Script, load

SCRIPTS = {
    script.name: script
    for module in pkgutil.iter_modules(redis.__path__, f"{redis.__name__}.")
    for script in vars(import_module(module.name)).values()
    if isinstance(script, Script)
}
FOLDER = files("zaqar.storage.redis") / "scripts"
FILES = {path.name.removesuffix(".lua") for path in FOLDER.iterdir()}


def test_every_file_is_a_script_or_a_piece_of_one() -> None:
    named = {name for each in FILES for name in re.findall(r"include: (\w+)", (FOLDER / f"{each}.lua").read_text())}
    assert SCRIPTS.keys() | named == FILES
    assert not SCRIPTS.keys() & named


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_it_is_whole(script: Script) -> None:
    assert b"include:" not in script.source
    assert script.sha == hashlib.sha1(script.source).hexdigest().encode()
    assert script == load(script.name, again=script.again, writes=script.writes)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_no_script_has_a_clock_or_dice_of_its_own(script: Script) -> None:
    assert not re.search(rb"'(TIME|RANDOMKEY|SRANDMEMBER|SCAN|KEYS)'|math\.random", script.source)


def test_what_would_happen_twice_is_never_sent_twice() -> None:
    assert {name for name, script in SCRIPTS.items() if not script.again} == {
        "post",
        "claim",
        "pop",
        "queue_replace",
        "catalog_replace",
        "take_posted",
        "take_deliveries",
        "resend",
        "subscription_replace",
        "take_pauses",
        "trust_replace",
    }
