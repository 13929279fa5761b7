# SPDX-License-Identifier: Apache-2.0
"""The options with which osprofiler wraps the application."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from zaqar import conf
from zaqar.errors import StartupError
from zaqar.transport.wsgi.profiler import wrap


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"answer"]


@pytest.mark.parametrize("lines", ["", "enabled = True", "trace_wsgi_transport = True", "profiler_enabled = True"])
def test_tracing_is_off_unless_both_options_are_on(tmp_path: Path, lines: str) -> None:
    file = tmp_path / "zaqar.conf"
    file.write_text(f"[profiler]\n{lines}\n")
    assert wrap(application, conf.load(default_config_files=[str(file)])) is application


@pytest.mark.parametrize("enabled", ["enabled", "profiler_enabled"])
def test_without_the_package_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, enabled: str
) -> None:
    file = tmp_path / "zaqar.conf"
    file.write_text(f"[profiler]\n{enabled} = True\ntrace_wsgi_transport = True\n")
    monkeypatch.setitem(sys.modules, "osprofiler", None)
    assert wrap(application, conf.load(default_config_files=[str(file)])) is application
    assert [record.message for record in caplog.records] == [
        "[profiler] enabled: nothing is traced without osprofiler (pip install 'zaqar[profiler]')."
    ]


OLD_FILE = """
[profiler]
enabled = False
trace_wsgi_transport = True
trace_message_store = True
trace_management_store = True
trace_sqlalchemy = True
trace_requests = True
hmac_keys = a,b
connection_string = redis://:secret@127.0.0.1:6379
es_doc_type = x
es_scroll_time = 1m
es_scroll_size = 5
socket_timeout = 0.5
sentinel_service_name = m
filter_error_trace = True
[profiler_jaeger]
service_name_prefix = a
process_tags = a:b
[profiler_otlp]
service_name_prefix = b
"""


def test_every_option_of_old_files_is_read(tmp_path: Path) -> None:
    file = tmp_path / "zaqar.conf"
    file.write_text(OLD_FILE)
    loaded = conf.load(default_config_files=[str(file)])
    assert loaded.profiler.hmac_keys == "a,b"
    assert loaded.profiler.es_scroll_size == 5
    assert loaded.profiler_jaeger.process_tags == {"a": "b"}
    assert loaded.profiler_otlp.service_name_prefix == "b"


CGI = pytest.mark.filterwarnings("ignore:'cgi' is deprecated:DeprecationWarning")
"""WebOb imports it."""


def traced(tmp_path: Path, where: str) -> Any:
    pytest.importorskip("osprofiler")
    file = tmp_path / "zaqar.conf"
    lines = ["[profiler]", "enabled = True", "trace_wsgi_transport = True", "hmac_keys = a, key"]
    file.write_text("\n".join([*lines, f"connection_string = {where}", ""]))
    return wrap(application, conf.load(default_config_files=[str(file)]))


@CGI
@pytest.mark.parametrize("where", ["nowhere://user:secret@host", "messaging://"])
def test_the_start_fails_if_traces_cannot_be_sent(tmp_path: Path, where: str) -> None:
    with pytest.raises(StartupError, match=r"^\[profiler\] connection_string: ") as caught:
        traced(tmp_path, where)
    assert "secret" not in str(caught.value)


@CGI
def test_a_request_succeeds_if_its_trace_cannot_be_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No server listens at the address for traces."""
    wrapped = traced(tmp_path, "redis://:secret@127.0.0.1:1")
    info = base64.urlsafe_b64encode(json.dumps({"base_id": "b", "parent_id": "b", "hmac_key": "key"}).encode())
    signature = hmac.new(b"key", info, hashlib.sha1).hexdigest()
    headers = {"X-Trace-Info": info.decode(), "X-Trace-HMAC": signature}
    statuses: list[str] = []
    answer = wrapped(testing.create_environ("/", headers=headers), lambda status, *_: statuses.append(status))
    assert (statuses, b"".join(answer)) == (["200 OK"], b"answer")
    assert [record.message for record in caplog.records] == ["A trace was lost: ConnectionError"] * 2
    assert "secret" not in caplog.text
