# SPDX-License-Identifier: Apache-2.0
"""Each check of the configuration finds its mistake, and says nothing about a configuration without it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from zaqar import conf as configuration
from zaqar.cmd.configuration_checks import (
    CHECKS,
    access,
    capacity,
    files,
    logs,
    notifications,
    secrets,
    service,
    stores,
)
from zaqar.cmd.configuration_checks.complaints import Complaint, Examined, Setting
from zaqar.errors import StartupError

Find = Callable[[Examined], Iterable[Complaint]]
KEY = "k" * 32

CASES = [
    # the check, the file, the start of its complaint (None: it must not complain)
    (files.find_unknown, "[DEFAULT]\nauth_strategey = keystone\n", "[DEFAULT] auth_strategey: there is no such option"),
    (files.find_unknown, "[transport]\nmax-wait = 3\n", "[transport] max-wait: there is no such option"),
    (files.find_unknown, "[transprt]\nmax_wait = 3\nx = 1\n", "[transprt] max_wait: there is no group [transprt]"),
    (files.find_unknown, "[keystone_authtoken]\npasswd = x\n", "[keystone_authtoken] passwd: there is no such option"),
    (files.find_unknown, "[trustee]\nusernme = x\n", "[trustee] usernme: there is no such option"),
    (files.find_unknown, "[keystone_authtoken]\nusername = x\nuser_domain_id = x\nmemcached_servers = x\n", None),
    (files.find_unknown, "[trustee]\nauth_section = other\n[other]\nusername = x\n", None),
    (files.find_unknown, "[drivers]\nmessage_store = own\n[drivers:message_store:own]\nx = 1\n", None),
    (files.find_unknown, "[DEFAULT]\nlog_file = x\n[oslo_policy]\npolicy_file = x\n[cache]\nbackend = x\n", None),
    (files.find_deprecated, "[profiler]\nprofiler_enabled = True\n", "[profiler] profiler_enabled: this name is depr"),
    (files.find_deprecated, "[profiler]\nenabled = True\n", None),
    (files.find_without_effect, "[DEFAULT]\nunreliable = True\n", "[DEFAULT] unreliable: the option has no effect"),
    (
        files.find_without_effect,
        "[drivers]\nmessage_store = mongodb\n[drivers:message_store:mongodb]\npartitions = 4\n",
        "[drivers:message_store:mongodb] partitions: the option has no effect",
    ),
    (files.find_without_effect, "[profiler]\ntrace_requests = True\n", "[profiler] trace_requests: the option has no"),
    (
        files.find_without_effect,
        "[notification]\nsmtp_host = x\n",
        "[notification] smtp_host: the option has no effect",
    ),
    (files.find_without_effect, "[notification]\nsmtp_host = x\nsmtp_mode = self_local\n", None),
    (
        files.find_without_effect,
        "[notification]\nsmtp_command = x\nsmtp_mode = self_local\n",
        "[notification] smtp_command: the option has no effect",
    ),
    (files.find_without_effect, "[transport]\nmin_length_client_id = 3\n", "[transport] min_length_client_id: the opt"),
    (files.find_without_effect, "[transport]\nmin_length_client_id = 3\nclient_id_uuid_safe = off\n", None),
    (
        files.find_without_effect,
        "[pooling:catalog]\nenable_virtual_pool = True\n",
        "[pooling:catalog] enable_virtual_pool: the option has no effect",
    ),
    (files.find_without_effect, "[metrics]\nbind =\nqueues = True\n", "[metrics] queues: the option has no effect"),
    (files.find_without_effect, "[tracing]\nroot_ratio = 1\n", "[tracing] root_ratio: the option has no effect"),
    (
        files.find_without_effect,
        "[drivers:message_store:redis]\nuri = redis://x\nconnections = 3\n",
        "[drivers:message_store:redis] uri: the whole group has no effect",
    ),
    (
        files.find_without_effect,
        "[drivers]\nmessage_store = mongodb.fifo\n[drivers:message_store:mongodb]\nuri = mongodb://x\n",
        None,
    ),
    (files.find_without_effect, "[DEFAULT]\npooling = True\n[drivers:message_store:redis]\nconnections = 3\n", None),
    (
        stores.find_ignored_write_concerns,
        "[drivers]\nmessage_store = mongodb\n[drivers:message_store:mongodb]\nuri = mongodb://x/?w=1&replicaSet=r\n",
        "[drivers:message_store:mongodb] uri: w has no effect",
    ),
    (
        stores.find_ignored_write_concerns,
        "[drivers]\nmessage_store = mongodb\n[drivers:message_store:mongodb]\nuri = mongodb://x/?replicaSet=r\n",
        None,
    ),
    (access.find_open_server, "[drivers:transport:wsgi]\nbind = 0.0.0.0\n", "[DEFAULT] auth_strategy: callers are not"),
    (access.find_open_server, "[drivers:transport:websocket]\nbind = ::\n", "[DEFAULT] auth_strategy: callers are not"),
    (access.find_open_server, "[drivers:transport:wsgi]\nbind = ::1\n", None),
    (
        access.find_open_server,
        "[DEFAULT]\nauth_strategy = keystone\n[drivers:transport:wsgi]\nbind = 0.0.0.0\n",
        None,
    ),
    (access.find_open_administration, "[DEFAULT]\nadmin_mode = True\n", "[DEFAULT] admin_mode: without auth_strategy"),
    (access.find_open_administration, "[DEFAULT]\nadmin_mode = True\nauth_strategy = keystone\n", None),
    (
        access.find_forgeable_headers,
        "[oslo_middleware]\nenable_proxy_headers_parsing = True\n[drivers:transport:wsgi]\nbind = 10.0.0.1\n",
        "[oslo_middleware] enable_proxy_headers_parsing: a client",
    ),
    (access.find_forgeable_headers, "[oslo_middleware]\nenable_proxy_headers_parsing = True\n", None),
    (access.find_cors_for_all, "[cors]\nallowed_origin = *\n", "[cors] allowed_origin: with '*' and allow_credentials"),
    (access.find_cors_for_all, "[cors]\nallowed_origin = *\nallow_credentials = False\n", None),
    (access.find_cors_for_all, "[cors]\nallowed_origin = https://ui.example\n", None),
    (access.find_keystone_mistakes, "[DEFAULT]\nauth_strategy = noauth\n", "[DEFAULT] auth_strategy: must be"),
    (secrets.find_weak_encryption_key, "[transport]\nmessage_encryption_key = AES256\n", "[transport] message_encry"),
    (secrets.find_weak_encryption_key, "[transport]\nmessage_encryption_key = short\n", "[transport] message_encry"),
    (secrets.find_weak_encryption_key, f"[transport]\nmessage_encryption_key = {KEY}\n", None),
    (secrets.find_guessable, "[signed_url]\nsecret_key = abc\n", "[signed_url] secret_key: a key of less than 32"),
    (secrets.find_guessable, f"[signed_url]\nsecret_key = {KEY}\n", None),
    (secrets.find_guessable, "[profiler]\nenabled = True\n", "[profiler] hmac_keys: this is the default key"),
    (secrets.find_guessable, "[profiler]\nenabled = True\nhmac_keys = own\n", None),
    (
        secrets.find_guessable,
        "[notification]\nsmtp_user_password = Password\n",
        "[notification] smtp_user_password: this value is in many examples",
    ),
    (
        notifications.find_open_networks,
        "[notification]\nwebhook_allowed_networks = 10.0.0.0/8, 127.0.0.0/8\n",
        "[notification] webhook_allowed_networks: with 127.0.0.0/8 ",
    ),
    (
        notifications.find_open_networks,
        "[notification]\nwebhook_allowed_networks = 169.254.0.0/16\n",
        "[notification] webhook_allowed_networks: with 169.254.0.0/16 a webhook of any tenant reaches the metadata",
    ),
    (notifications.find_open_networks, "[notification]\nwebhook_allowed_networks = 10.0.0.0/8, fd00::/24\n", None),
    (
        notifications.find_unreachable_links,
        "[notification]\nrequire_confirmation = True\n",
        "[notification] public_url: it is not set",
    ),
    (
        notifications.find_unreachable_links,
        "[notification]\nrequire_confirmation = True\npublic_url = https://mq.example\n",
        None,
    ),
    (
        notifications.find_mail_without_server,
        "[notification]\nsmtp_command = /nosuch/program -t\n",
        "[notification] smtp_command: there is no program '/nosuch/program' here",
    ),
    (notifications.find_mail_without_server, "[notification]\nsmtp_command = sh -c true\n", None),
    (
        notifications.find_mail_without_server,
        "[notification]\nsmtp_mode = self_local\nsmtp_host = mx.example\nsmtp_security = none\n",
        "[notification] smtp_security: with 'none' mail",
    ),
    (logs.find_debug, "[DEFAULT]\ndebug = True\n", "[DEFAULT] debug: libraries then log"),
    (
        logs.find_debug,
        "[DEFAULT]\ndefault_log_levels = keystoneauth=DEBUG\n",
        "[DEFAULT] default_log_levels: the level",
    ),
    (logs.find_debug, "", None),
    (logs.find_missing_places, "[DEFAULT]\nlog_file = /nosuch/zaqar.log\n", "[DEFAULT] log_file: /nosuch/zaqar.log"),
    (logs.find_missing_places, "[DEFAULT]\nlog_dir = /nosuch\n", "[DEFAULT] log_dir: /nosuch/zaqar.log cannot"),
    (logs.find_missing_places, "[DEFAULT]\nlog_config_append = /nosuch\n", "[DEFAULT] log_config_append: /nosuch"),
    (logs.find_missing_places, "", None),
    (logs.find_open_metrics, "[metrics]\nbind = 0.0.0.0:9464\n", "[metrics] bind: every host that reaches"),
    (logs.find_open_metrics, "[metrics]\nbind = 9464\n", "[metrics] bind: '9464' is not of the form HOST:PORT"),
    (logs.find_open_metrics, "[metrics]\nbind = [::1]:9464\n", None),
    (logs.find_open_metrics, "[metrics]\nbind =\n", None),
    (capacity.find_long_drain, "[DEFAULT]\ndrain_delay = 60\n", "[DEFAULT] drain_delay: the server may take 69.5 s"),
    (capacity.find_long_drain, "[DEFAULT]\ndrain_delay = 5\n", None),
    (service.find_policy_mistakes, "[oslo_policy]\npolicy_file = nosuch.yaml\n", "[oslo_policy] policy_file: there is"),
    (service.find_encryption_mistakes, "[transport]\nmessage_encryption_key = hex:00\n", "[transport] message_encry"),
    (
        service.find_other_mistakes,
        "[notification]\nrequire_confirmation = True\n",
        "[signed_url] secret_key: must be set",
    ),
    (service.find_other_mistakes, "[storage]\nmessage_pipeline = nosuch\n", "[storage] message_pipeline: "),
    (
        stores.find_relaxed_sqlite,
        "[drivers:message_store:sqlalchemy]\nsynchronous = NORMAL\n",
        "[drivers:message_store:sqlalchemy] synchronous: with NORMAL",
    ),
    (
        stores.find_relaxed_sqlite,
        "[drivers:management_store:sqlalchemy]\nuri = sqlite:///:memory:\n",
        "[drivers:management_store:sqlalchemy] uri: a database in memory ends with its process",
    ),
    (
        stores.find_relaxed_sqlite,
        "[drivers:message_store:sqlalchemy]\nuri = postgresql://x\nsynchronous = NORMAL\n",
        None,
    ),
    (stores.find_relaxed_sqlite, "", None),
]


@pytest.fixture
def examine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Examined]:
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("OS_METRICS__BIND", raising=False)

    def load(text: str) -> Examined:
        path = tmp_path / "zaqar.conf"
        path.write_text(text)
        path.chmod(0o600)
        conf = configuration.load(["--config-file", str(path)])
        return Examined(conf, tuple(files.read_settings(conf)))

    return load


@pytest.mark.parametrize(("find", "text", "expected"), CASES)
def test_a_check_finds_its_mistake(
    examine: Callable[[str], Examined], find: Find, text: str, expected: str | None
) -> None:
    complaints = list(find(examine(text)))
    if expected is None:
        assert complaints == []
    else:
        (complaint,) = complaints
        assert str(complaint).startswith(expected)
        assert re.fullmatch(r"\[[\w:]+\] [\w-]+(, [\w-]+)*: \S.*[.)]", str(complaint))


def test_a_default_configuration_has_no_complaint(examine: Callable[[str], Examined], tmp_path: Path) -> None:
    examined = examine("")
    found = [str(each) for check in CHECKS if check.title != "Capacity" for each in check.find(examined)]
    assert found == []
    # Nothing was made, in particular no database.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zaqar.conf"]


def test_every_option_of_the_sample_is_known(examine: Callable[[str], Examined]) -> None:
    path = Path(__file__).parents[3] / "etc" / "zaqar.conf.sample"
    settings, group = [], ""
    for line in path.read_text().splitlines():
        if header := re.fullmatch(r"\[(.+)\]", line):
            group = header[1]
        elif option := re.fullmatch(r"#([A-Za-z_][\w-]*) = .*", line):
            settings.append(Setting(path, group, option[1].replace("-", "_")))
    assert len(settings) > 200
    assert list(files.find_unknown(Examined(examine("").conf, settings))) == []


def test_a_limit_of_open_files_below_the_connections_is_found(
    examine: Callable[[str], Examined], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "most_files", lambda: 4096)
    found = [str(each) for each in capacity.find_few_files(examine(""))]
    assert [each.partition(":")[0] for each in found[:1]] == ["[transport] max_waiting_clients, max_streams"]
    assert found[1].startswith("[drivers:transport:websocket] max_connections: a process needs 11256 open files")
    few = (
        "[transport]\nmax_waiting_clients = 10\nmax_streams = 10\n[drivers:transport:websocket]\nmax_connections = 99\n"
    )
    assert list(capacity.find_few_files(examine(few))) == []


@pytest.mark.parametrize(
    ("mode", "text", "expected"),
    [
        (0o644, f"[signed_url]\nsecret_key = {KEY}\n", "[signed_url] secret_key: it may be secret"),
        (0o640, f"[signed_url]\nsecret_key = {KEY}\n", None),
        (0o644, "[drivers:message_store:redis]\nuri = redis://host\n", None),
        (0o644, "[drivers:message_store:redis]\nuri = redis://:p@host\n", "[drivers:message_store:redis] uri: it may"),
        (0o644, "[transport]\nmax_wait = 3\n", None),
        (0o666, "[transport]\nmax_wait = 3\n", "[transport] max_wait: every user can change "),
    ],
)
def test_a_configuration_file_that_is_open_to_others_is_found(
    examine: Callable[[str], Examined], tmp_path: Path, mode: int, text: str, expected: str | None
) -> None:
    examined = examine(text)
    (tmp_path / "zaqar.conf").chmod(mode)
    found = [str(each) for each in secrets.find_open_files(examined)]
    assert len(found) == (expected is not None)
    assert not expected or found[0].startswith(expected)
    assert KEY not in "".join(found)


def test_key_files_and_a_state_directory_that_are_open_are_found(
    examine: Callable[[str], Examined], tmp_path: Path
) -> None:
    key, state = tmp_path / "key.pem", tmp_path / "state"
    key.touch()
    key.chmod(0o604)
    state.mkdir()
    state.chmod(0o777)
    examined = examine("")
    examined.conf.register_opts(configuration.access.TRUSTEE_OPTS, "trustee")
    examined.conf.set_override("keyfile", str(key), "trustee")
    found = [str(each).partition(":")[0] for each in secrets.find_open_files(examined)]
    assert found == ["[trustee] keyfile", "[DEFAULT] state_dir"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_policy_files_that_others_can_change_are_found(
    examine: Callable[[str], Examined], tmp_path: Path, is_folder: bool
) -> None:
    folder = tmp_path / "policy.d"
    folder.mkdir()
    path = folder / "a.yaml" if is_folder else tmp_path / "policy.yaml"
    path.write_text("{}")
    path.chmod(0o666)
    (complaint,) = secrets.find_open_policy_files(examine(""))
    assert complaint.option == f"[oslo_policy] {'policy_dirs' if is_folder else 'policy_file'}"
    assert str(path) in complaint.sentence
    path.chmod(0o644)
    assert list(secrets.find_open_policy_files(examine(""))) == []


@pytest.mark.parametrize(
    ("group", "option", "value"),
    [("trustee", "insecure", True), ("trustee", "auth_url", "http://keystone.example/v3")],
)
def test_keystone_without_verified_tls_is_found(
    examine: Callable[[str], Examined], group: str, option: str, value: object
) -> None:
    examined = examine("")
    examined.conf.register_opts(configuration.access.TRUSTEE_OPTS, group)
    assert list(access.find_unverified_keystone(examined)) == []
    examined.conf.set_override(option, value, group)
    (complaint,) = access.find_unverified_keystone(examined)
    assert complaint.option == f"[{group}] {option}"


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ([("/", "ext4"), ("/srv", "nfs4")], "nfs4"),
        ([("/", "nfs"), ("/srv", "ext4")], "ext4"),
        ([("/srv", "ext4"), ("/srv", "cifs")], "cifs"),
        ([], None),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_longest_mount_point(
    mounts: list[tuple[str, str]], kind: str | None
) -> None:
    assert stores._file_system_of(Path("/srv/zaqar/zaqar.db"), mounts) == kind


def test_mount_points_are_read_with_their_escapes(tmp_path: Path) -> None:
    path = tmp_path / "mounts"
    path.write_text("server:/x /mnt/two\\040words nfs4 rw 0 0\nproc /proc proc rw 0 0\n")
    assert stores._read_mounts(path) == [("/mnt/two words", "nfs4"), ("/proc", "proc")]
    assert stores._read_mounts(tmp_path / "nosuch") == []


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("", "[DEFAULT] state_dir"),
        (
            "[drivers:{0}:sqlalchemy]\nuri = sqlite:////srv/x.db\n",
            "[drivers:{0}:sqlalchemy] uri",
        ),
    ],
)
def test_sqlite_on_a_network_file_system_is_found(
    examine: Callable[[str], Examined], monkeypatch: pytest.MonkeyPatch, text: str, option: str
) -> None:
    monkeypatch.setattr(stores, "_read_mounts", lambda path: [("/", "nfs4")])
    for which in ("message_store", "management_store"):
        found = [each.option for each in stores.find_network_file_systems(examine(text.format(which)))]
        assert option.format(which) in found


def test_an_error_that_names_its_option_keeps_it() -> None:
    error = StartupError("[transport] max_wait, x: 3 is too much.")
    assert Complaint.of(error, "other") == Complaint("[transport] max_wait, x", "3 is too much.", is_error=True)
    assert Complaint.of(StartupError("It is wrong: x."), "[a] b") == Complaint(
        "[a] b", "It is wrong: x.", is_error=True
    )


def test_the_text_of_a_warning_is_one_sentence_of_the_store_at_a_time(examine: Callable[[str], Examined]) -> None:
    class Store:
        def durability(self) -> dict[str, str]:
            return {"warning": "appendonly is off; maxmemory-policy is allkeys-lru", "members": "1"}

    examined = examine("[drivers]\nmessage_store = redis\n")
    asked = stores._Asked("message_store")
    found = [str(each) for each in stores._describe_losses(examined.conf, asked, Store())]  # type: ignore[arg-type]
    option = "[drivers:message_store:redis] uri"
    assert found[:2] == [f"{option}: appendonly is off.", f"{option}: maxmemory-policy is allkeys-lru."]
    assert "one member" in found[2]


def test_a_state_directory_that_cannot_be_made_is_an_error(
    examine: Callable[[str], Examined], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(files.find_unusable_state_dir(examine(""))) == []
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(tmp_path / "zaqar.conf" / "state"))
    (complaint,) = files.find_unusable_state_dir(examine(""))
    assert (complaint.option, complaint.is_error) == ("[DEFAULT] state_dir", True)
