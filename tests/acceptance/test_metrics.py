# SPDX-License-Identifier: Apache-2.0
"""The metrics of a running service, as Prometheus reads them, while processes are killed, replaced and added."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.metrics_reader import Metrics
from tests.acceptance.programs import find
from tests.acceptance.server import COMMAND, HTTP_COMMAND, Server, kill, running, start, wait_until
from tests.acceptance.webhook_sinks import Sink, Sinks
from tests.servers import free_port
from zaqar.metrics.cells import SUFFIX
from zaqar.metrics.families import Counter, Families, Histogram

ETC = Path(__file__).parents[2] / "etc"
RULES = ETC / "prometheus" / "zaqar.rules.yml"
DASHBOARD = ETC / "grafana" / "zaqar.json"

WITH_QUEUES = {"OS_METRICS__QUEUES": "true"}
_NAME = re.compile(r"\b(?:zaqar|process)_[a-z_]+\b")


def request(server: Server, method: str, path: str, body: object = None, project: str = "demo") -> Any:
    connection = HTTPConnection(server.host, server.port, timeout=60)
    headers = {"Client-ID": str(uuid.uuid4()), "X-Project-ID": project, "Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status < 500, text
    return json.loads(text) if text else None


def post(server: Server, queue: str, count: int) -> None:
    request(server, "POST", f"/v2/queues/{queue}/messages", {"messages": [{"body": 1, "ttl": 300}] * count})


def count_processes(metrics: Metrics, part: str) -> int:
    """How many processes of a part have begun to count."""
    shown = [name for name, labels in metrics.samples() if ("part", part) in labels]
    return shown.count("process_open_fds")


def servers_of(metrics: Metrics) -> list[str]:
    """The HTTP server of each version that runs."""
    return [dict(labels)["server"] for name, labels in metrics.samples() if name == "zaqar_build_info"]


def metric_names(text: str) -> set[str]:
    """All names of metrics in expressions."""
    return set(_NAME.findall(text))


def dashboard_expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Metrics]]:
    """A service that has done a little of everything, whose queues are empty again."""
    folder = tmp_path_factory.mktemp("metrics")
    configuration = folder / "zaqar.conf"
    configuration.write_text("[notification]\nwebhook_allowed_networks = 127.0.0.0/8\n")
    options = ("--config-file", str(configuration), "--workers", "2")
    sink = Sink()
    with Sinks(sink), running(folder / "state", options=options, environment=WITH_QUEUES) as server:
        request(server, "POST", "/v2/queues/q/subscriptions", {"subscriber": sink.url, "ttl": 3600})
        post(server, "q", 3)
        claim = request(server, "POST", "/v2/queues/q/claims", {"ttl": 60})
        for message in claim["messages"]:
            request(server, "DELETE", message["href"])
        request(server, "GET", "/v2/queues/q/claims/none")
        request(server, "GET", "/nothing/here")
        wait_until(lambda: len(sink.receipts) == 3)
        yield server, Metrics(server.state_dir)


def test_every_name_in_rules_dashboard_and_documents_is_in_the_exposition(busy: tuple[Server, Metrics]) -> None:
    _, metrics = busy
    shown: set[str] = set()
    for path in ("/metrics", "/metrics/store"):
        _, text = metrics.get(path)
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
            shown.update([f"{name}_bucket", f"{name}_count", f"{name}_sum"] if kind == "histogram" else [name])
    used = metric_names("\n".join(dashboard_expressions()))
    in_rules = metric_names("\n".join(re.findall(r"^ +expr: (.*)$", RULES.read_text(), re.MULTILINE)))
    assert len(used) > 30
    assert len(in_rules) > 8
    assert used | in_rules <= shown
    pages = [ETC.parent / "docs" / name for name in ("metrics.rst", "operating_runbook.rst")]
    assert metric_names("\n".join(page.read_text() for page in pages)) <= shown
    # An alert about a series that is not there would never fire.
    sampled = {name for path in ("/metrics", "/metrics/store") for name, _ in metrics.samples(path)}
    assert in_rules <= sampled


def test_every_family_is_on_the_dashboard() -> None:
    used = metric_names("\n".join(dashboard_expressions()))
    for family in Families.by_name.values():
        names = {family.name}
        if isinstance(family, Counter):
            names = {f"{family.name}_total"}
        elif isinstance(family, Histogram):
            names = {f"{family.name}_bucket", f"{family.name}_count"}
        assert used & names, family.name


def test_the_numbers_are_those_of_the_requests(busy: tuple[Server, Metrics]) -> None:
    _, metrics = busy
    route = "/v2/queues/{queue_name}/messages"
    assert metrics.value("zaqar_http_requests_total", method="POST", route=route, code="201") == 1
    assert metrics.value("zaqar_http_requests_total", route="other", code="404") >= 1
    assert metrics.value("zaqar_http_request_duration_seconds_count", method="POST", route=route) == 1
    assert metrics.value("zaqar_messages_posted_total") == 3
    assert metrics.value("zaqar_posted_bytes_total") == 3
    assert metrics.value("zaqar_messages_claimed_total") == 3
    assert metrics.value("zaqar_messages_deleted_total") == 3
    assert (
        metrics.value("zaqar_store_operation_duration_seconds_count", store="default", operation="messages.post") == 1
    )
    # Numbers of stores are shown for some seconds before they are asked again.
    wait_until(lambda: metrics.value("zaqar_messages", "/metrics/store", store="default") == 0)
    assert metrics.value("zaqar_store_up", "/metrics/store") == 2
    assert metrics.value("zaqar_queue_posted_messages_total", "/metrics/queues?project=demo", queue="q") == 3
    assert metrics.samples("/metrics/queues?project=other") == {}
    # Processes report their version some seconds after they have begun to count.
    wait_until(lambda: servers_of(metrics) == ["gevent"])


def test_every_process_is_shown(busy: tuple[Server, Metrics]) -> None:
    _, metrics = busy
    found = {
        (dict(labels)["part"], dict(labels)["worker"])
        for name, labels in metrics.samples()
        if name == "process_resident_memory_bytes"
    }
    assert found >= {("api", "0"), ("api", "1"), ("sweeper", "0"), ("notifier", "0"), ("websocket", "0")}
    assert metrics.get("/livez") == (200, "ok\n")


def test_both_formats_pass_the_checks_of_prometheus(busy: tuple[Server, Metrics]) -> None:
    _, metrics = busy
    command = [find("promtool", package="prometheus"), "check", "metrics"]
    for path in ("/metrics", "/metrics/store", "/metrics/queues?project=demo"):
        _, text = metrics.get(path)
        checked = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, ""), path
        status, openmetrics = metrics.get(path, Accept="application/openmetrics-text; version=1.0.0")
        assert status == 200
        assert openmetrics.endswith("# EOF\n")


def promtool(*arguments: str | Path) -> None:
    command = [find("promtool", package="prometheus"), *map(str, arguments)]
    done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_scrape_configuration_pass_the_checks_of_prometheus() -> None:
    promtool("check", "config", ETC / "prometheus" / "scrape.yml")
    promtool("check", "rules", RULES)
    promtool("test", "rules", ETC / "prometheus" / "zaqar.rules.test.yml")


def test_every_alert_has_a_test_that_it_fires_and_a_section_in_the_runbook() -> None:
    rules = RULES.read_text()
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(alerts) == len(set(alerts)) == 10
    tests = (ETC / "prometheus" / "zaqar.rules.test.yml").read_text()
    runbook = (ETC.parent / "docs" / "operating_runbook.rst").read_text()
    for alert in alerts:
        assert re.search(rf"alertname: {alert}\n +exp_alerts:\n", tests), alert
        assert re.search(rf"alertname: {alert}\n +exp_alerts: \[\]\n", tests), alert
        assert f"operating_runbook.html#{alert.lower()}" in rules
        assert re.search(rf"^{alert}\n-+\n", runbook, re.MULTILINE), alert
    for text in ("severity: ", "summary: ", "description: ", "runbook: "):
        assert rules.count(text) == len(alerts), text


def test_the_expressions_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"] == "zaqar"
    assert [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"] == [
        "Traffic", "Latency", "Queues", "Deliveries", "Stores", "Processes"
    ]  # fmt: skip
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["instance"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    expressions = [
        each.replace("$__rate_interval", "5m").replace("$instance", ".*") for each in dashboard_expressions()
    ]
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yml")


def test_counters_survive_killed_workers_and_the_exporter_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path / "state", options=("--workers", "2"), command=HTTP_COMMAND) as server:
        metrics = Metrics(server.state_dir)
        posted = 0
        for _ in range(2):
            for _ in range(5):
                post(server, "q", 2)
                posted += 2
            assert metrics.value("zaqar_messages_posted_total") == posted
            wait_until(lambda: count_processes(metrics, "api") == 2)
            kill(server.workers())
            wait_until(server.answers)
            assert metrics.value("zaqar_messages_posted_total") == posted
            # Whichever process shows the metrics, another one goes on.
            before = metrics.address
            kill([*server.parts("zaqar.cmd.gc"), *server.parts("zaqar.cmd.notifier")])
            wait_until(lambda before=before: metrics.address != before)  # type: ignore[misc]
            assert metrics.value("zaqar_messages_posted_total") == posted
        assert metrics.value("zaqar_process_restarts_total", part="api") == 4
        assert metrics.value("zaqar_process_restarts_total", part="sweeper") == 2
        # Files of processes that are over are merged.
        wait_until(lambda: len(list((server.state_dir / "metrics").glob(f"*{SUFFIX}"))) <= 5)
        assert metrics.value("zaqar_messages_posted_total") == posted


@pytest.mark.parametrize(
    ("options", "command"),
    [(("--workers", "2"), COMMAND), (("--workers", "2", "--server", "granian"), HTTP_COMMAND)],
    ids=["gunicorn", "granian"],
)
def test_a_reload_and_a_restart_are_no_unexpected_ends(
    tmp_path: Path, options: tuple[str, ...], command: tuple[str, ...]
) -> None:
    server = start(tmp_path / "state", options=options, command=command)
    try:
        metrics = Metrics(server.state_dir)
        post(server, "q", 1)
        wait_until(lambda: count_processes(metrics, "api") == 2)
        old = {*server.workers(), *server.parts("zaqar.cmd.gc"), *server.parts("zaqar.cmd.notifier")}
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not old & set(server.processes()))
        wait_until(lambda: count_processes(metrics, "api") == 2)
        server.terminate()
        server = start(tmp_path / "state", options=options, command=command)
        assert metrics.value("zaqar_messages_posted_total") == 1
        assert metrics.value("zaqar_process_restarts_total") == 0
        parts = {dict(labels)["part"] for name, labels in metrics.samples() if name == "zaqar_process_restarts_total"}
        assert parts >= {"api", "notifier", "sweeper"}
    finally:
        server.close()


def test_a_port_that_is_taken_is_one_warning_and_no_failed_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        environment = {"OS_METRICS__BIND": address}
        server = start(tmp_path / "state", environment=environment, command=HTTP_COMMAND)
        wait_until(lambda: "[metrics] bind: cannot listen" in server.log.read_text())
    try:
        metrics = Metrics(server.state_dir)
        assert metrics.address[1] == int(address.rpartition(":")[2])
        assert metrics.get("/livez")[0] == 200
        log = server.log.read_text()
        assert log.count("[metrics] bind: cannot listen") == 1
        assert f"Metrics for Prometheus are at http://{address}/metrics." in log
    finally:
        server.close()


def test_metrics_can_be_off_and_a_wrong_address_is_reported(tmp_path: Path) -> None:
    with running(tmp_path / "off", environment={"OS_METRICS__BIND": ""}, command=HTTP_COMMAND) as server:
        post(server, "q", 1)
        assert not (server.state_dir / "metrics").exists()
        assert "Metrics" not in server.log.read_text()
    command = [*HTTP_COMMAND, "--bind", f"127.0.0.1:{free_port()}", "--state-dir", str(tmp_path / "wrong")]
    environment = {**os.environ, "OS_METRICS__BIND": "9464"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False, timeout=100)
    assert done.returncode == 1
    assert done.stderr == "zaqar-server: [metrics] bind: '9464' is not of the form HOST:PORT.\n"


def test_api_workers_do_not_load_the_library_of_the_exporter(tmp_path: Path) -> None:
    """It takes memory, and time at each start."""
    program = (
        "import sys; from zaqar.wsgi import application; from falcon import testing;"
        "assert testing.TestClient(application).get('/').status_code == 300;"
        "import zaqar.cmd.gc, zaqar.cmd.notifier, zaqar.cmd.websocket, zaqar.cmd.server.main;"
        "sys.exit('prometheus_client' in sys.modules)"
    )
    environment = {**os.environ, "ZAQAR_STATE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, text=True, capture_output=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr


def test_a_database_in_memory_has_no_page_of_stores(tmp_path: Path) -> None:
    """The exporter runs in another process than the API, and would show an empty database."""
    configuration = tmp_path / "zaqar.conf"
    stores = ("message_store", "management_store")
    configuration.write_text("".join(f"[drivers:{store}:sqlalchemy]\nuri = sqlite://\n" for store in stores))
    options = ("--config-file", str(configuration))
    with running(tmp_path / "state", options=options, command=HTTP_COMMAND) as server:
        metrics = Metrics(server.state_dir)
        post(server, "q", 1)
        assert metrics.get("/metrics/store")[0] == 404
        assert metrics.value("zaqar_messages_posted_total") == 1
