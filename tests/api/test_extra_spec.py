# SPDX-License-Identifier: Apache-2.0
"""EXTRA-SPEC: valid values of the header, the plug-in that decides about them, and the answer of a refusal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import plugins
from tests.api.client import Api
from tests.api.marks import on_one_store
from zaqar.access.extra_specs import ExtraSpecs
from zaqar.errors import StartupError

pytestmark = on_one_store

GROUP = "zaqar.extraspec.tasks"
SOURCE = """
from zaqar.errors import Forbidden, InvalidInput

CALLS = []
MADE = []

class Open:
    def __init__(self):
        MADE.append(self)

    def execute(self, value):
        CALLS.append(value)

class Refuse:
    def execute(self, value):
        what = value.partition(":")[2]
        if what == "forbidden":
            raise Forbidden("Your code is not on the list.")
        if what == "invalid":
            raise InvalidInput("EXTRA-SPEC", "needs eight digits")
        if what == "exit":
            raise SystemExit("secret-1234")
        raise RuntimeError("secret-1234")

class Broken:
    def __init__(self):
        raise RuntimeError("no licence")

class Empty:
    pass
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(**schemes: str) -> None:
        points = {GROUP: {scheme: f"acme_extraspec:{name}" for scheme, name in schemes.items()}}
        folder = plugins.install(tmp_path / "site", points, {"acme_extraspec.py": SOURCE})
        plugins.put_on_path(folder, monkeypatch)

    return install


@pytest.fixture
def api(install: Callable[..., None], make_api: Callable[..., Api]) -> Api:
    install(acme="Open", strict="Refuse")
    return make_api()


def send(api: Api, value: str | None, path: str = "/v2/queues") -> tuple[int, str]:
    result = api.get(path, headers={"EXTRA-SPEC": value})
    return result.status_code, result.json.get("description", "")


def test_without_the_header_no_plug_in_is_called(api: Api) -> None:
    assert send(api, None)[0] == 200
    assert sys.modules["acme_extraspec"].CALLS == []


@pytest.mark.parametrize("value", ["acme:1:2", "acme", "acme:", "acme :x", "messagecode:123"])
def test_a_plug_in_gets_the_whole_header(api: Api, value: str) -> None:
    assert send(api, value)[0] == 200
    assert ([] if value.startswith("messagecode") else [value]) == sys.modules["acme_extraspec"].CALLS


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "must be 'scheme:value'"),
        ("  ", "must be 'scheme:value'"),
        (":acme", "not installed: ''"),
        ("ACME:1", "not installed: 'ACME'"),
        ("other:1", "not installed: 'other'"),
        ("acme," + "x" * 100, "not installed"),
        ("acme:" + "x" * 5000, "at most 4096 characters"),
    ],
)
def test_a_malformed_header_is_refused(api: Api, value: str, words: str) -> None:
    status, description = send(api, value)
    assert (status, description[:11]) == (400, "EXTRA-SPEC:")
    assert words in description
    assert len(description) < 200


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("strict:forbidden", (403, "Your code is not on the list.")),
        ("strict:invalid", (400, "EXTRA-SPEC: needs eight digits")),
        ("strict:other", (403, "The request was refused.")),
        ("strict:exit", (403, "The request was refused.")),
    ],
)
def test_a_refusal_is_answered_without_the_value_and_changes_nothing(
    api: Api, value: str, answer: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert send(api, value) == answer
    assert "secret" not in caplog.text
    # The refused request has changed nothing.
    result = api.put("/v2/queues/q", headers={"EXTRA-SPEC": value})
    assert result.status_code == answer[0]
    assert api.get("/v2/queues").json["queues"] == []


def test_extra_spec_replaces_no_other_check(api: Api) -> None:
    """The service checks signature, project and Client-ID first, and only then asks the plug-in."""
    accepted = {"EXTRA-SPEC": "acme:1"}
    assert api.get("/v2/queues", headers={**accepted, "X-Project-ID": None}).status_code == 400
    assert api.get("/v2/queues", headers={**accepted, "Client-ID": None}).status_code == 400
    signature = {"URL-Signature": "0" * 64, "URL-Expires": "2099-01-01T00:00:00", "URL-Methods": "GET"}
    assert api.get("/v2/queues", headers={**accepted, **signature, "URL-Paths": "/v2/queues"}).status_code == 404
    assert sys.modules["acme_extraspec"].CALLS == []


def test_public_documents_need_no_plug_in(api: Api) -> None:
    assert api.get("/", headers={"EXTRA-SPEC": "strict:1"}).status_code == 300


def test_each_plug_in_is_instantiated_once(api: Api) -> None:
    for _ in range(3):
        send(api, "acme:1")
    assert len(sys.modules["acme_extraspec"].MADE) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Broken", "cannot be made: RuntimeError: no licence"),
        ("Empty", "makes an object without the method execute"),
        ("absent", "cannot be loaded"),
    ],
)
def test_a_plug_in_that_cannot_be_instantiated_stops_the_start(
    install: Callable[..., None], make_api: Callable[..., Api], name: str, words: str
) -> None:
    install(acme=name)
    with pytest.raises(StartupError, match=words) as caught:
        make_api()
    assert "'acme'" in str(caught.value)
    assert "zaqar.extraspec.tasks" in str(caught.value)


@pytest.mark.parametrize("value", [None, 5, b"acme", ["acme"]])
def test_a_value_of_a_frame_that_is_no_text_is_refused(driver: object, value: object) -> None:
    with pytest.raises(Exception, match=r"^EXTRA-SPEC: must be 'scheme:value'$"):
        ExtraSpecs({}).check(value)
