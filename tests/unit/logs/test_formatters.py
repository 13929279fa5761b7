# SPDX-License-Identifier: Apache-2.0
"""Records as JSON, and without secrets."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable

import pytest

from zaqar.logs import context
from zaqar.logs.formatters import JsonFormatter, RedactingFormatter, Redactor


def a_record(message: str = "Hello %s", *args: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("zaqar.test", level, "file.py", 1, message, args or ("world",), None)
    record.created = 1_700_000_000.1234
    record.__dict__.update(extra)
    return record


def failed_record(text: str) -> logging.LogRecord:
    """A record with a traceback."""
    try:
        raise ValueError(text)
    except ValueError:
        record = a_record(level=logging.ERROR)
        record.exc_info = sys.exc_info()
    return record


def test_a_record_is_one_json_object_in_one_line() -> None:
    line = JsonFormatter("api", Redactor()).format(a_record("two\nlines \u20ac %s"))
    assert "\n" not in line
    fields = json.loads(line)
    assert isinstance(fields.pop("pid"), int)
    assert fields == {
        "ts": "2023-11-14T22:13:20.123Z",
        "level": "INFO",
        "logger": "zaqar.test",
        "msg": "two\nlines \u20ac world",
        "part": "api",
    }


def test_a_record_has_the_request_and_the_details() -> None:
    details = {"method": "POST", "status": 201, "project": None}
    fields = json.loads(JsonFormatter("api", Redactor()).format(a_record(request_id="req-1", details=details)))
    assert (fields["request_id"], fields["method"], fields["status"]) == ("req-1", "POST", 201)
    assert "project" not in fields


def test_a_record_has_the_details_of_the_task_that_logs_it() -> None:
    token = context.details.set({"delivery": "d1", "subscription": "s1"})
    try:
        fields = json.loads(JsonFormatter("notifier", Redactor()).format(a_record()))
    finally:
        context.details.reset(token)
    assert (fields["delivery"], fields["subscription"]) == ("d1", "s1")
    assert "delivery" not in json.loads(JsonFormatter("notifier", Redactor()).format(a_record()))


def test_a_traceback_is_in_the_field_error() -> None:
    error = json.loads(JsonFormatter("api", Redactor()).format(failed_record("no such thing")))["error"]
    assert error.startswith("Traceback")
    assert error.endswith("ValueError: no such thing")


SECRET = "Tr0ub4dor&3-secret"


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to mongodb://zaqar:{}@db1.example.com/zaqar",
        "cannot connect to redis://:{}@127.0.0.1:6379?a=b",
        "X-Auth-Token: {}",
        "headers {{'X-Auth-Token': '{}', 'Accept': '*/*'}}",
        'headers {{"x-service-token": "{}"}}',
        "Authorization: Bearer {}",
        "Authorization: Basic {}",
        "URL-Signature={}",
        "GET /v2/queues/q/messages?signature={}&expires=1",
        "password={}",
        "the option admin_password = {} was read",
        "Cookie: {}",
        "post_headers {{'Api-Key': '{}'}}",
    ],
)
def test_secrets_by_their_names_are_removed(text: str) -> None:
    found = Redactor().redact(text.format(SECRET))
    assert SECRET not in found
    assert "***" in found


@pytest.mark.parametrize(
    "secret",
    [
        "gAAAAABnQ2fVQm9iJ3MgZmVybmV0IHRva2VuIHdpdGggbWFueSBjaGFyYWN0ZXJz",
        "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0xxxxx.c2lnbmF0dXJlMTIz",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ],
)
def test_secrets_by_their_form_are_removed(secret: str) -> None:
    assert Redactor().redact(f"it was {secret}, he said") == "it was ***, he said"


def test_secret_values_of_the_configuration_are_removed() -> None:
    redactor = Redactor(["correct horse", "correct horse battery", "short"])
    assert redactor.redact("keys: correct horse battery, correct horse, short") == "keys: ***, ***, short"


@pytest.mark.parametrize(
    "text",
    [
        "[signed_url] secret_key: must be set if [notification] require_confirmation is on.",
        "The password is wrong.",
        "Traceback of a wrong password:\n  File 'a.py', line 1",
        "token of project demo was refused",
        "http://example.com/a?b=c",
        "req-6b31dd4c-95cd-4c03-a5c8-b1c8a04e6b7a POST /v2/queues/q/messages 201",
        "ZADD failed: connection reset by 127.0.0.1:6379",
    ],
)
def test_sentences_without_a_secret_stay_as_they_are(text: str) -> None:
    assert Redactor(["another-secret"]).redact(text) == text


@pytest.mark.parametrize("formatter", [JsonFormatter("api", Redactor()), RedactingFormatter(None, Redactor())])
def test_the_secrets_of_a_traceback_are_removed_too(formatter: logging.Formatter) -> None:
    text = formatter.format(failed_record(f"refused: X-Auth-Token: {SECRET}"))
    assert "ValueError" in text
    assert SECRET not in text


def test_json_stays_json_and_has_no_secret_that_stands_in_quotes() -> None:
    formatter = JsonFormatter("api", Redactor(['another "secret"']))
    line = formatter.format(a_record("%s", f'he said "password={SECRET}", {{"token": 1, "password": "{SECRET}"}}'))
    assert json.loads(line)["msg"] == 'he said "password=***", {"token": 1, "password": ***}'
    line = formatter.format(a_record(details={"queue": 'another "secret"', "seconds": 0.5}))
    assert (json.loads(line)["queue"], json.loads(line)["seconds"]) == ("***", 0.5)


@pytest.mark.parametrize(
    "piece",
    [
        "a-",
        "password",
        "secret-",
        "password ",
        'password="',
        "://a:",
        "a@://a:",
        "-eyJ",
        "eyJ.",
        "gAAAA-",
        "whsec_",
        "b ",
    ],
)
def test_the_time_does_not_grow_with_the_square_of_the_text(piece: str) -> None:
    def seconds(repetitions: int) -> float:
        text = piece * repetitions
        return min(_process_time_of(lambda: Redactor(["a-secret"]).redact(text)) for _ in range(3))

    assert seconds(16_000) < 64 * max(seconds(1_000), 1e-4)


def _process_time_of(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began
