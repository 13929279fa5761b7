# SPDX-License-Identifier: Apache-2.0
"""The options of existing configuration files, with their types and defaults, and the sources of values."""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg, generator

from zaqar import conf
from zaqar.conf.access import KEYSTONE_DEFAULTS
from zaqar.conf.opts import list_opts
from zaqar.errors import StartupError

ROOT = Path(__file__).parents[2]

_MONGODB = """
    ssl_keyfile (Str); ssl_certfile (Str); ssl_ca_certs (Str); uri (Str, secret); database (Str, zaqar);
    ssl_cert_reqs (Str, CERT_REQUIRED, choices: CERT_NONE CERT_OPTIONAL CERT_REQUIRED); max_attempts (Int, 1000);
    max_retry_sleep (Float, 0.1); max_retry_jitter (Float, 0.005);
    max_reconnect_attempts (Int, 10); reconnect_sleep (Float, 0.02); connections (Int, 50)
"""
_REDIS = """
    uri (Str, redis://127.0.0.1:6379, secret); max_reconnect_attempts (Int, 10); reconnect_sleep (Float, 1.0);
    wait_replicas (Int, 0); wait_timeout (Float, 1.0); connections (Int, 50)
"""
_SQL = """
    synchronous (Str, FULL, choices: NORMAL FULL EXTRA); connections (Int, 20); transaction_pooling (Bool, False)
"""

CATALOGUE = {
    "access": "max_requests_waiting_for_keystone (Int)",
    "cors": """
        allowed_origin (List); allow_credentials (Bool, True); expose_headers (List, [X-OpenStack-Request-ID]);
        max_age (Int, 3600); allow_methods (List, [OPTIONS GET HEAD POST PUT DELETE TRACE PATCH]);
        allow_headers (List, [])
    """,
    "DEFAULT": """
        admin_mode (Bool, False); pooling (Bool, False); unreliable (Bool, False); enable_checksum (Bool, False);
        auth_strategy (Str, ); state_dir (Str); drain_delay (Float, 0.0); readiness_includes_store (Bool, False)
    """,
    "drivers": """
        transport (Str, wsgi, choices: wsgi websocket); message_store (Str, sqlalchemy);
        management_store (Str, sqlalchemy)
    """,
    "drivers:management_store:mongodb": _MONGODB,
    "drivers:management_store:redis": _REDIS,
    "drivers:management_store:sqlalchemy": f"uri (Str, sqlite:///:memory:, secret); {_SQL}",
    "drivers:message_store:mongodb": f"{_MONGODB}; partitions (Int, 2); change_stream (Bool, False)",
    "drivers:message_store:redis": _REDIS,
    "drivers:message_store:sqlalchemy": f"uri (Str, , secret); {_SQL}; listen (Bool, False)",
    "drivers:transport:websocket": """
        bind (HostAddress, 127.0.0.1); port (Port, 9000); external-port (Port); notification-bind (HostAddress);
        notification-port (Port, 0); max_connections (Int, 10000); max_connections_per_project (Int, 2000);
        requests_per_second (Int, 500); threads (Int, 64); ping_interval (Float, 20.0); ping_timeout (Float, 20.0);
        idle_timeout (Float, 0.0); authentication_timeout (Float, 10.0); write_timeout (Float, 10.0);
        max_pending_push_size (Int, 1048576); max_buffered_size (Int, 402653184); compression (Bool, False)
    """,
    "drivers:transport:wsgi": "bind (HostAddress, 127.0.0.1); port (Port, 8888)",
    "notification": """
        smtp_mode (Str, third_part, choices: third_part self_local); smtp_host (HostAddress); smtp_port (Port);
        smtp_user_name (Str); smtp_user_password (Str, secret); smtp_command (Str, /usr/sbin/sendmail -t -oi);
        smtp_security (Str, auto, choices: auto none starttls tls); max_notifier_workers (Int, 10);
        max_concurrent_deliveries (Int, 200); max_concurrent_deliveries_per_project (Int, 100);
        delivery_retention (Int, 259200); require_confirmation (Bool, False); confirmation_pause (Int, 60);
        external_confirmation_url (Str);
        public_url (Str);
        subscription_confirmation_email_template (Dict); unsubscribe_confirmation_email_template (Dict);
        webhook_allowed_networks (List, [])
    """,
    "oslo_middleware": "enable_proxy_headers_parsing (Bool, False)",
    "pooling:catalog": "enable_virtual_pool (Bool, False)",
    "profiler": """
        enabled (Bool, False); trace_wsgi_transport (Bool, False); trace_message_store (Bool, False);
        trace_management_store (Bool, False); trace_sqlalchemy (Bool, False); trace_requests (Bool, False);
        hmac_keys (Str, SECRET_KEY, secret); connection_string (Str, messaging://, secret);
        es_doc_type (Str, notification); es_scroll_time (Str, 2m); es_scroll_size (Int, 10000);
        socket_timeout (Float, 0.1); sentinel_service_name (Str, mymaster); filter_error_trace (Bool, False)
    """,
    "profiler_jaeger": "service_name_prefix (Str); process_tags (Dict)",
    "profiler_otlp": "service_name_prefix (Str)",
    "signed_url": "secret_key (Str, secret); previous_secret_keys (List, [], secret); max_expiry (Int)",
    "storage": """
        queue_pipeline (List, []); message_pipeline (List, [zaqar.notification.notifier]); claim_pipeline (List, []);
        subscription_pipeline (List, []); topic_pipeline (List, [])
    """,
    "transport": """
        default_message_ttl (Int, 3600); default_message_delay (Int, 0); default_claim_ttl (Int, 300);
        default_claim_grace (Int, 60); default_subscription_ttl (Int, 3600); max_queues_per_page (Int, 20);
        max_messages_per_page (Int, 20); max_subscriptions_per_page (Int, 20); max_messages_per_claim_or_pop (Int, 20);
        max_queue_metadata (Int, 65536); max_messages_post_size (Int, 262144); max_message_ttl (Int, 1209600);
        max_message_delay (Int, 900); max_claim_ttl (Int, 43200); max_claim_grace (Int, 43200);
        subscriber_types (List, [http https mailto trust+http trust+https]); max_flavors_per_page (Int, 20);
        max_pools_per_page (Int, 20); client_id_uuid_safe (Str, strict, choices: strict off);
        min_length_client_id (Int, 10); max_length_client_id (Int, 36); max_wait (Int, 20);
        max_waiting_clients (Int, 2000); max_waiting_clients_per_project (Int, 500); max_streams (Int, 5000);
        max_streams_per_project (Int, 500); message_delete_with_claim_id (Bool, False);
        message_encryption_algorithms (Str, AES256); message_encryption_key (Str, secret);
        message_encryption_old_keys (List, [], secret); message_encryption_key_file (Str);
        message_encryption_key_ids (List, [])
    """,
    "oslo_limit": """
        endpoint_id (Str); auth_type (Str); auth_url (Str); username (Str); password (Str, secret);
        user_domain_name (Str); system_scope (Str); cafile (Str); timeout (Int, 5)
    """,
    "quota": """
        driver (Str, config, choices: config keystone); request_rate (Float, 0.0); post_rate (Float, 0.0);
        post_bytes_rate (Float, 0.0); queue_post_rate (Float, 0.0); queue_post_bytes_rate (Float, 0.0);
        burst (Float, 5.0); processes (Int, 0); queues (Int, 10000); subscriptions (Int, 10000);
        queue_subscriptions (Int, 100); queue_messages (Int, 0); stored_bytes (Int, 0)
    """,
    "trustee": """
        auth_type (Str); auth_section (Str); auth_url (Str); username (Str); password (Str, secret);
        user_domain_id (Str); user_domain_name (Str); cafile (Str); certfile (Str); keyfile (Str);
        insecure (Bool, False); timeout (Int, 5)
    """,
    "healthcheck": """
        disable_by_file_path (Str)
    """,
    "metrics": """
        bind (Str, 127.0.0.1:9464); queues (Bool, False)
    """,
    "tracing": """
        enabled (Bool, False); root_ratio (Float, 0.0)
    """,
    "logging": """
        format (Str, text, choices: text json); access (Str, off, choices: off errors slow all); slow (Float, 1.0)
    """,
}


def describe(opt: cfg.Opt) -> str:
    """Describe an option in the notation of the list above."""
    fields = [type(opt).__name__.removesuffix("Opt")]
    if isinstance(opt.default, list):
        fields.append(f"[{' '.join(opt.default)}]")
    elif opt.default is not None and not isinstance(opt.default, dict):
        fields.append(str(opt.default))
    choices = getattr(opt.type, "choices", None)
    if choices:
        fields.append(f"choices: {' '.join(choices)}")
    if opt.secret:
        fields.append("secret")
    return f"{opt.name} ({', '.join(fields)})"


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_groups() -> None:
    assert {group for group, _ in list_opts()} == set(CATALOGUE)


@pytest.mark.parametrize("group", CATALOGUE)
def test_options(group: str) -> None:
    expected = {" ".join(line.split()) for line in CATALOGUE[group].split(";")}
    assert {describe(opt) for opt in dict(list_opts())[group]} == expected


def test_email_templates_have_all_fields() -> None:
    notification = conf.load().notification
    for template in (
        notification.subscription_confirmation_email_template,
        notification.unsubscribe_confirmation_email_template,
    ):
        assert set(template) == {"topic", "body", "sender"}
        assert template["body"].format("queue", "project", "link").count("link") == 1


def test_every_option_has_a_help_text_that_ends_with_a_full_stop() -> None:
    assert [opt.name for _, opts in list_opts() for opt in opts if not (opt.help or "").endswith(".")] == []


def test_durations_name_their_unit() -> None:
    durations = re.compile("ttl|grace|message_delay|sleep|jitter")
    for _, opts in list_opts():
        for opt in opts:
            if isinstance(opt, cfg.IntOpt | cfg.FloatOpt) and durations.search(opt.name):
                assert "in seconds" in opt.help, opt.name


# -- reading -----------------------------------------------------------------------------------------------------------


def test_without_a_configuration_the_defaults_apply() -> None:
    loaded = conf.load(default_config_files=[])
    assert (loaded.transport.max_message_ttl, loaded.drivers.message_store) == (1_209_600, "sqlalchemy")


def test_each_load_is_independent() -> None:
    one, two = conf.load(), conf.load()
    one.set_override("admin_mode", True)
    assert (one.admin_mode, two.admin_mode) == (True, False)


def test_later_files_override_earlier_ones(tmp_path: Path) -> None:
    first = _write(tmp_path / "1.conf", "[transport]\nmax_message_ttl = 100\nmax_claim_ttl = 100\n")
    second = _write(tmp_path / "2.conf", "[transport]\nmax_claim_ttl = 200\n")
    loaded = conf.load(["--config-file", first, "--config-file", second])
    assert (loaded.transport.max_message_ttl, loaded.transport.max_claim_ttl) == (100, 200)


def test_files_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _write(tmp_path / "1.conf", "[DEFAULT]\nadmin_mode = true\n")
    second = _write(tmp_path / "2.conf", "[signed_url]\nsecret_key = s\n")
    monkeypatch.setenv("ZAQAR_CONFIG_FILE", f"{first}:{second}")
    loaded = conf.load()
    assert (loaded.admin_mode, loaded.signed_url.secret_key) == (True, "s")
    third = _write(tmp_path / "3.conf", "")
    assert conf.load(["--config-file", third]).admin_mode is False


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[transport]\nmax_message_ttl = many\n", r"^\[transport\] max_message_ttl: .*'many'"),
        ("[transport]\nmax_queues_per_page = 0\n", r"^\[transport\] max_queues_per_page: "),
        ("[DEFAULT]\nadmin_mode = perhaps\n", r"^\[DEFAULT\] admin_mode: "),
        ("[drivers:message_store:sqlalchemy]\nsynchronous = OFF\n", r"sqlalchemy\] synchronous: "),
        ("[notification]\nwebhook_allowed_networks = 10.0.0.0/40\n", r"webhook_allowed_networks: .*10\.0\.0\.0/40"),
        ("[drivers:transport:wsgi]\nport = 70000\n", r"wsgi\] port: "),
        *(
            (f"[drivers:transport:websocket]\nwrite_timeout = {value}\n", f"websocket] write_timeout: .*{value}")
            for value in ("nan", "inf")
        ),
        ("[profiler]\nsocket_timeout = -inf\n", "socket_timeout: .*-inf"),
        ("no section\n", "cannot be read: .*no section"),
    ],
)
def test_bad_values_stop_the_start_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = _write(tmp_path / "zaqar.conf", text)
    with pytest.raises(StartupError, match=complaint) as caught:
        conf.load(["--config-file", path])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.conf", "."])
def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartupError, match=re.escape(str(tmp_path))):
        conf.load(["--config-file", f"{tmp_path}/{name}"])


def test_networks(tmp_path: Path) -> None:
    path = _write(tmp_path / "zaqar.conf", "[notification]\nwebhook_allowed_networks = 10.0.0.0/8, ::1, 127.0.0.1\n")
    loaded = conf.load(["--config-file", path])
    assert loaded.notification.webhook_allowed_networks == ["10.0.0.0/8", "::1/128", "127.0.0.1/32"]


# -- the state directory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_STATE_HOME": "/xdg"}, "/xdg/zaqar"),
        ({"XDG_STATE_HOME": ""}, "/home/me/.local/state/zaqar"),
        ({"XDG_STATE_HOME": "relative"}, "/home/me/.local/state/zaqar"),
        ({}, "/home/me/.local/state/zaqar"),
        ({"ZAQAR_STATE_DIR": "/given", "XDG_STATE_HOME": "/xdg"}, "/given"),
        ({"ZAQAR_STATE_DIR": "~/given"}, "/home/me/given"),
    ],
)
def test_state_dir(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    assert conf.state_dir(conf.load(default_config_files=[])) == Path(expected)


def test_the_environment_overrides_the_state_dir_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "zaqar.conf", "[DEFAULT]\nstate_dir = /from/file\n")
    assert conf.state_dir(conf.load(["--config-file", path])) == Path("/from/file")
    monkeypatch.setenv("ZAQAR_STATE_DIR", "/from/environment")
    assert conf.state_dir(conf.load(["--config-file", path])) == Path("/from/environment")


def _load_with_state(folder: Path) -> cfg.ConfigOpts:
    loaded = conf.load(default_config_files=[])
    loaded.set_override("state_dir", str(folder))
    return loaded


def test_the_state_dir_is_made_for_this_user_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert conf.make_state_dir(_load_with_state(folder)) == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_the_state_dir_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        conf.make_state_dir(_load_with_state(tmp_path / "a" / "b"))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "a", tmp_path / "a" / "b")} == {0o700}


@pytest.mark.parametrize("content", [None, "zaqar.db", "zaqar-server.pid", "notifiers"])
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777, 0o701])
def test_a_state_dir_that_exists_is_closed_to_others(tmp_path: Path, content: str | None, mode: int) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    if content is not None:
        (folder / content).touch()
        (folder / "server.log").touch()
    folder.chmod(mode)
    conf.make_state_dir(_load_with_state(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(("content", "mode"), [("passwd", 0o755), (None, 0o1777), ("zaqar.db", 0o1777)])
def test_a_folder_with_other_files_is_refused_as_state_dir(tmp_path: Path, content: str | None, mode: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    if content is not None:
        (folder / content).touch()
    folder.chmod(mode)
    with pytest.raises(StartupError, match=r"name (one|a folder) for this service alone"):
        conf.make_state_dir(_load_with_state(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == mode


def test_a_state_dir_of_another_user_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    for _ in range(2):
        conf.make_state_dir(_load_with_state(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777
    assert [record.message for record in caplog.records] == [
        f"The folder {folder} belongs to another user and is open to others; 'chmod 700' closes it."
    ]


def test_an_option_with_a_hyphen_in_a_file_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "zaqar.conf.d"
    folder.mkdir()
    _write(tmp_path / "zaqar.conf", "[drivers:transport:websocket]\nnotification-bind = 192.0.2.1\nport = 9001\n")
    _write(folder / "more.conf", "[DEFAULT]\nadmin-mode = True\nunknown-one = 1\n")
    loaded = conf.load(["--config-file", str(tmp_path / "zaqar.conf"), "--config-dir", str(folder)])
    assert loaded["drivers:transport:websocket"].notification_bind is None
    first, second = conf.misspelt_options(loaded)
    assert first.startswith("[drivers:transport:websocket] notification-bind is not read: in a file the name of this ")
    assert first.endswith(f" option is notification_bind ({tmp_path / 'zaqar.conf'}).")
    assert second.startswith("[DEFAULT] admin-mode is not read")


def test_a_state_dir_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    _write(tmp_path / "file", "")
    for folder in (tmp_path / "file" / "below", tmp_path / "file"):
        for mode in (0o600, 0o644):
            (tmp_path / "file").chmod(mode)
            with pytest.raises(StartupError, match="cannot be made"):
                conf.make_state_dir(_load_with_state(folder))
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


@pytest.mark.parametrize("store", ["message_store", "management_store"])
def test_uri_of_the_embedded_database(tmp_path: Path, store: str) -> None:
    assert conf.sqlalchemy_uri(_load_with_state(tmp_path), store) == (f"sqlite:///{tmp_path}/zaqar.db", True)


@pytest.mark.parametrize("uri", ["sqlite:///:memory:", "postgresql://db/zaqar"])
@pytest.mark.parametrize("store", ["message_store", "management_store"])
def test_uri_that_an_operator_set(tmp_path: Path, store: str, uri: str) -> None:
    path = _write(tmp_path / "zaqar.conf", f"[drivers:{store}:sqlalchemy]\nuri = {uri}\n")
    loaded = conf.load(["--config-file", path])
    assert conf.sqlalchemy_uri(loaded, store) == (uri, False)


def test_an_empty_uri_counts_as_not_set(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "zaqar.conf", f"[DEFAULT]\nstate_dir={tmp_path}\n[drivers:message_store:sqlalchemy]\nuri =\n"
    )
    assert conf.sqlalchemy_uri(conf.load(["--config-file", path]), "message_store")[1] is True


def test_a_state_dir_that_no_uri_can_name(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"\?"):
        conf.sqlalchemy_uri(_load_with_state(tmp_path / "a?b"), "message_store")


# -- the sample --------------------------------------------------------------------------------------------------------


def test_the_sample_file_is_fresh() -> None:
    """Only our own options are compared: those of libraries change with the libraries."""
    sample = (ROOT / "etc" / "zaqar.conf.sample").read_text()
    assert _own_parts(sample) == _own_parts(_generate()), "run tox -e genconfig"


def _generate() -> str:
    fresh = io.StringIO()
    made = cfg.ConfigOpts()
    generator.register_cli_opts(made)
    made(["--namespace", "zaqar", "--wrap-width", "100"], default_config_files=[])
    generator.generate(made, fresh)
    return fresh.getvalue()


def _own_parts(sample: str) -> dict[str, str]:
    """Section -> its text from "From zaqar" to the next origin."""
    found: dict[str, Any] = {}
    for section in re.split(r"^\[", sample, flags=re.MULTILINE)[1:]:
        name, _, text = section.partition("]")
        origins = re.split(r"^#\n# From (\S+)\n#\n", text, flags=re.MULTILINE)
        for origin, part in zip(origins[1::2], origins[2::2], strict=True):
            if origin == "zaqar":
                found[name] = part.strip()
    return found


def test_the_sample_file_has_our_defaults_of_keystonemiddleware() -> None:
    sample = (ROOT / "etc" / "zaqar.conf.sample").read_text()
    section = sample.partition("\n[keystone_authtoken]\n")[2].partition("\n[")[0]
    for name, value in KEYSTONE_DEFAULTS.items():
        assert re.search(rf"^#{name} = {str(value).lower()}$", section, re.MULTILINE), name
    assert "\n[cache]\n" in sample
    fresh = io.StringIO()
    made = cfg.ConfigOpts()
    generator.register_cli_opts(made)
    namespaces = ("zaqar", "keystonemiddleware.auth_token")
    made([part for name in namespaces for part in ("--namespace", name)], default_config_files=[])
    generator.generate(made, fresh)
    assert "#http_connect_timeout = 5\n" in fresh.getvalue()


def test_the_sample_file_can_be_read() -> None:
    conf.load(["--config-file", str(ROOT / "etc" / "zaqar.conf.sample")])
