# SPDX-License-Identifier: Apache-2.0
"""The decisions of ``zaqar-server`` before it starts a process. Real servers are in the acceptance tests."""

from __future__ import annotations

import re
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from oslo_config import cfg

from zaqar import conf as configuration
from zaqar.cmd.listening import Address, address_of, listen
from zaqar.cmd.server import main
from zaqar.cmd.server.main import Endpoints
from zaqar.errors import StartupError


@pytest.fixture
def conf(tmp_path: Path) -> cfg.ConfigOpts:
    loaded = configuration.load(default_config_files=[])
    loaded.set_override("state_dir", str(tmp_path))
    return loaded


def set_uri(conf: cfg.ConfigOpts, uri: str) -> None:
    conf.set_override("uri", uri, "drivers:message_store:sqlalchemy")


# -- the command line --------------------------------------------------------------------------------------------------


def test_without_arguments_the_defaults_apply() -> None:
    options = main._parse([])
    assert (options.config_file, options.state_dir, options.bind, options.workers) == (None, None, None, None)
    assert options.server == "gunicorn"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8888", Address("127.0.0.1", 8888)),
        ("[::1]:80", Address("::1", 80)),
        ("messaging.example:0", Address("messaging.example", 0)),
    ],
)
def test_bind(text: str, address: Address) -> None:
    assert main._parse(["--bind", text]).bind == address
    assert str(address) == text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bind", "8888"],
        ["--bind", ":8888"],
        ["--bind", "host:"],
        ["--bind", "host:65536"],
        ["--bind", "host:-1"],
        ["--bind", "host:٣"],
        ["--workers", "0"],
        ["--workers", "-1"],
        ["--workers", "two"],
        ["--server", "waitress"],
        ["--unknown"],
    ],
    ids=" ".join,
)
def test_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main._parse(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_help_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main._parse(["--help"])
    text = capsys.readouterr().out
    for word in ("127.0.0.1:8888", "--config-file", "--state-dir", "--workers", "--server", "TERM", "HUP", "notifier"):
        assert word in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main._parse(["--version"])
    assert re.fullmatch(r"zaqar-server \d\S+\n", capsys.readouterr().out)


# -- what may be there once --------------------------------------------------------------------------------------------


def test_a_state_directory_serves_one_server(tmp_path: Path) -> None:
    with main._lock(tmp_path), pytest.raises(StartupError, match=rf"\(process \d+\) .* {tmp_path}"):
        main._lock(tmp_path)
    main._lock(tmp_path).close()


def test_a_port_serves_one_server() -> None:
    with listen(Address("127.0.0.1", 0)) as listener:
        address = Address(*listener.getsockname())
        with pytest.raises(StartupError, match=f"^Cannot listen on {re.escape(str(address))}: Address already in use"):
            listen(address)


def test_ipv6() -> None:
    with listen(Address("::1", 0)) as listener:
        assert listener.family == socket.AF_INET6


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.1"])
def test_an_address_of_another_host_is_one_sentence(host: str) -> None:
    with pytest.raises(StartupError, match=f"Cannot listen on {host}:1: "):
        listen(Address(host, 1))


# -- which transports --------------------------------------------------------------------------------------------------


def endpoints(conf: cfg.ConfigOpts, *arguments: str) -> Endpoints:
    return main._endpoints(main._parse(arguments), conf)


HTTP, WEBSOCKET = Address("127.0.0.1", 8888), Address("127.0.0.1", 9000)


def test_both_transports_are_served(conf: cfg.ConfigOpts) -> None:
    assert endpoints(conf) == (HTTP, WEBSOCKET)
    other = Address("127.0.0.1", 1)
    assert endpoints(conf, "--bind=127.0.0.1:1") == (other, WEBSOCKET)
    assert endpoints(conf, "--websocket-bind=127.0.0.1:1") == (HTTP, other)
    assert endpoints(conf, "--no-websocket") == (HTTP, None)


@pytest.mark.parametrize(
    ("transport", "served"),
    [("wsgi", (Address("127.0.0.1", 1), None)), ("websocket", (None, Address("127.0.0.1", 2)))],
)
def test_a_configuration_may_name_one_transport(transport: str, served: Endpoints, tmp_path: Path) -> None:
    file = tmp_path / "zaqar.conf"
    ports = "[drivers:transport:wsgi]\nport = 1\n[drivers:transport:websocket]\nport = 2\n"
    file.write_text(f"[drivers]\ntransport = {transport}\n{ports}")
    conf = configuration.load([f"--config-file={file}"])
    conf.set_override("state_dir", str(tmp_path))
    assert endpoints(conf) == served
    # The transport of the command line is served as well.
    both = endpoints(conf, "--bind=127.0.0.1:3", "--websocket-bind=127.0.0.1:4")
    assert both == (Address("127.0.0.1", 3), Address("127.0.0.1", 4))
    if transport == "websocket":
        with pytest.raises(StartupError, match="--no-websocket"):
            endpoints(conf, "--no-websocket")


def test_a_database_in_memory_is_served_over_http_alone(conf: cfg.ConfigOpts) -> None:
    set_uri(conf, "sqlite://")
    assert endpoints(conf) == (HTTP, None)
    with pytest.raises(StartupError, match="--websocket-bind"):
        endpoints(conf, "--websocket-bind=127.0.0.1:1")


def test_the_port_of_the_websocket_server_is_taken(conf: cfg.ConfigOpts) -> None:
    with listen(Address("127.0.0.1", 0)) as taken, ExitStack() as stack:
        wanted = Endpoints(Address("127.0.0.1", 0), address_of(taken))
        with pytest.raises(StartupError, match=r"Address already in use\. Give another port with --websocket-bind"):
            main._listen(wanted, stack)


# -- workers -----------------------------------------------------------------------------------------------------------


def test_the_number_of_workers_is_that_of_the_option(conf: cfg.ConfigOpts) -> None:
    assert main._count_workers(conf, 7) == 7
    assert main._count_workers(conf, None) in range(1, 5)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_database_in_memory_has_one_worker(conf: cfg.ConfigOpts, uri: str) -> None:
    set_uri(conf, uri)
    assert main._count_workers(conf, None) == 1
    assert main._count_workers(conf, 1) == 1
    with pytest.raises(StartupError, match="--workers: "):
        main._count_workers(conf, 2)


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_gunicorn_gets_the_socket() -> None:
    with listen(Address("127.0.0.1", 0)) as listener:
        part = main._api("gunicorn", 3, listener, Address("127.0.0.1", 1))
        assert part.pass_fds == (listener.fileno(),)
        assert f"--bind=fd://{listener.fileno()}" in part.command
        assert "--workers=3" in part.command
    assert part.reload == signal.SIGHUP


def test_granian_gets_the_socket() -> None:
    with listen(Address("127.0.0.1", 0)) as listener:
        part = main._api("granian", 3, listener, Address("127.0.0.1", 1234))
        assert part.pass_fds == (listener.fileno(),)
        # granian shows host and port in its log.
        expected = {f"--fd={listener.fileno()}", "--host=127.0.0.1", "--port=1234", "--workers=3"}
        assert expected <= set(part.command)
    assert part.reload == signal.SIGHUP


def test_the_websocket_server_gets_its_socket() -> None:
    with listen(Address("127.0.0.1", 0)) as listener:
        part = main._websocket(listener)
        assert part.pass_fds == (listener.fileno(),)
        assert f"--fd={listener.fileno()}" in part.command
    # It reloads by itself, so that connections stay open.
    assert part.reload == signal.SIGHUP


def test_a_port_stays_open_until_the_server_has_it() -> None:
    with listen(Address("127.0.0.1", 0)) as listener:
        address = Address(*listener.getsockname())
        for name in ("gunicorn", "granian"):
            main._api(name, 1, listener, address)
            with pytest.raises(StartupError, match="Address already in use"):
                listen(address)


def test_granian_that_is_not_installed_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with listen(Address("127.0.0.1", 0)) as listener, pytest.raises(StartupError, match="pip install"):
        main._api("granian", 1, listener, Address("127.0.0.1", 1))


def test_a_sweeper_and_a_notifier_run_beside_the_api(conf: cfg.ConfigOpts) -> None:
    parts = main._background_parts(conf, has_notifier=True)
    assert [part.name for part in parts] == ["sweeper", "notifier"]
    assert "zaqar.cmd.notifier" in parts[1].command
    # It cannot reload its configuration: SIGTERM ends it in order, and it is started again.
    assert parts[1].reload == signal.SIGTERM


def test_a_database_in_memory_has_no_notifier(conf: cfg.ConfigOpts) -> None:
    set_uri(conf, "sqlite://")
    assert [part.name for part in main._background_parts(conf, has_notifier=True)] == ["sweeper"]
    assert "Notifications are off" in banner(conf)


def test_a_notifier_of_another_host_needs_none_here(conf: cfg.ConfigOpts) -> None:
    assert main._parse(["--no-notifier"]).no_notifier
    assert [part.name for part in main._background_parts(conf, has_notifier=False)] == ["sweeper"]


# -- the banner --------------------------------------------------------------------------------------------------------


def banner(
    conf: cfg.ConfigOpts, host: str = "127.0.0.1", websocket: Address | None = None, how: str = "gunicorn, 2 workers"
) -> str:
    served = Endpoints(Address(host, 8888), websocket)
    return main._banner(conf, served, how, {"survives": "a power cut"})


def test_banner(conf: cfg.ConfigOpts, tmp_path: Path) -> None:
    text = banner(conf)
    for word in ("http://127.0.0.1:8888", f"{tmp_path}/zaqar.db", "survives: a power cut", "2 workers", "Ctrl-C"):
        assert word in text
    assert text.count("  curl ") == 4
    assert text.count("text/event-stream") == 1
    assert "Subscribers" not in text
    assert "not authenticated" not in text
    assert "ws://" not in text


def test_banner_of_a_server_that_serves_no_streams(conf: cfg.ConfigOpts) -> None:
    text = banner(conf, how="granian, 2 workers")
    assert text.count("  curl ") == 3
    assert "text/event-stream" not in text


def test_banner_with_a_websocket_server(conf: cfg.ConfigOpts) -> None:
    text = banner(conf, websocket=Address("127.0.0.1", 9000))
    assert "listens on http://127.0.0.1:8888 (gunicorn, 2 workers) and ws://127.0.0.1:9000.\n" in text
    assert text.count("ws://127.0.0.1:9000\n") == 1
    assert '{"action": "subscription_create", ' in text
    assert "not authenticated" not in text
    assert "not authenticated" in banner(conf, websocket=Address("0.0.0.0", 9000))


def test_banner_of_a_websocket_server_alone(conf: cfg.ConfigOpts) -> None:
    text = main._banner(conf, Endpoints(None, Address("::", 9000)), "", {"survives": ""})
    assert "listens on ws://[::]:9000.\n" in text
    assert " ws://[::1]:9000\n" in text
    assert "curl" not in text


@pytest.mark.parametrize(("host", "reachable"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("192.0.2.1", "192.0.2.1")])
def test_banner_of_a_server_that_others_can_reach(conf: cfg.ConfigOpts, host: str, reachable: str) -> None:
    text = banner(conf, host)
    assert "not authenticated" in text
    assert f" http://{reachable}:8888/v2/queues/greetings/messages\n" in text


def test_banner_keeps_secrets(conf: cfg.ConfigOpts) -> None:
    set_uri(conf, "postgresql://zaqar:hunter2@db.example/zaqar")
    text = banner(conf)
    assert "hunter2" not in text
    assert "Messages are kept in postgresql, as configured." in text


def test_banner_of_another_store(conf: cfg.ConfigOpts) -> None:
    conf.set_override("message_store", "redis", "drivers")
    assert "Messages are kept in the redis store." in banner(conf)


def test_banner_of_a_server_with_keystone(conf: cfg.ConfigOpts) -> None:
    conf.set_override("auth_strategy", "keystone")
    text = banner(conf, "0.0.0.0", Address("0.0.0.0", 9000))
    assert text.count("-H X-Auth-Token:$(openstack token issue -f value -c id)") == 4
    assert "X-Project-ID" not in text
    assert "not authenticated" not in text
