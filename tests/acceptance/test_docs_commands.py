# SPDX-License-Identifier: Apache-2.0
"""Commands of the documentation, pasted into a shell as a reader would do it.

``tests/unit/test_docs_blocks.py`` lists the commands that other tests run, and those that cannot run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.acceptance.server import HTTP_COMMAND, Server, running
from tests.acceptance.test_clients_openstack_command import Execute, forking_program
from tests.documented import ROOT, commands_of
from tests.keystone import PASSWORD, REGION, Keystone
from tests.virtualenvs import KEYSTONE
from zaqar import conf

VIRTUALENVS = (KEYSTONE,)
RUNS_WITH = "plain_server"

PASTED = {
    "docs/api.rst": r"curl ",
    "docs/consume.rst": r"curl |[A-Z]=",
    "docs/contributor/first_patch.rst": r"grep ",
    "docs/encryption.rst": r"openssl ",
    "docs/live_updates.rst": r"printf ",
    "docs/streams.rst": r"curl ",
    "docs/troubleshooting.rst": r"curl |H=|ps |date ",
    "docs/tracing.rst": r"curl |[A-Z]+=",
    "docs/websocket_push.rst": r"printf ",
}
STREAM_SECONDS = 3


@pytest.mark.parametrize("page", PASTED)
def test_the_commands_of_a_page_work(plain_server: Server, page: str, tmp_path: Path) -> None:
    """The commands run in one shell, with the address of a running service. A stream is read for some seconds."""
    lines = [command for command in commands_of(page) if re.match(PASTED[page], command)]
    assert lines
    # In a folder of its own, in which the sources are as in the source tree.
    (tmp_path / "zaqar").symlink_to(ROOT / "zaqar")
    script = "\n".join(["set -euo pipefail", *map(as_pasted, lines)]).replace("http://127.0.0.1:8888", plain_server.url)
    # Each page has a project, as each reader has.
    script = re.sub(r"(X-Project-ID: ?)demo", rf"\g<1>{uuid.uuid4().hex}", script)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done
    for written in tmp_path.glob("*.conf"):
        conf.load(["--config-file", str(written)]).cors.allowed_origin  # noqa: B018, an option is parsed when it is read


def as_pasted(command: str) -> str:
    """The command, with an end if it follows a stream, and without the wait if it waits for a message."""
    command = command.replace("wait=20", "wait=1").replace("$(uuidgen)", str(uuid.uuid4()))
    if "text/event-stream" in command:
        return f"(timeout {STREAM_SECONDS} {command} || true) | grep -m1 'event: open'"
    return command.replace("curl ", "curl --fail-with-body ") if command.startswith("curl ") else command


# -- the guide to Keystone ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keystone() -> Iterator[Keystone]:
    keystone = servers.own(Keystone)
    yield keystone
    keystone.stop()


@pytest.fixture(scope="module")
def execute() -> Iterator[Execute]:
    with forking_program() as execute:
        yield execute


def test_the_commands_of_the_guide_to_keystone_work(keystone: Keystone, execute: Execute, tmp_path: Path) -> None:
    """They run in their order. Accounts and services that this Keystone has already get other names."""
    options = tmp_path / "zaqar.conf"
    options.write_text(keystone.options())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    environment |= {"OS_AUTH_URL": keystone.uri, "OS_IDENTITY_API_VERSION": "3", "OS_REGION_NAME": REGION}
    environment |= {"OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default"}
    environment |= {"OS_USERNAME": "admin", "OS_PASSWORD": PASSWORD, "OS_PROJECT_NAME": "admin"}
    count = 0
    with running(tmp_path / "state", options=("--config-file", str(options)), command=HTTP_COMMAND) as server:
        keystone.set_endpoint(server.url)
        for line in commands_of("docs/keystone.rst"):
            words = shlex.split(of_other_names(line), posix=True)
            if words[0] == "export":
                environment |= dict(word.split("=", 1) for word in words[1:])
                # From here on the service of the tests has the messages, as the one of the guide would.
            elif words[0] == "openstack" or words[0].startswith("TOKEN="):
                arguments = words[1:] if words[0] == "openstack" else ["token", "issue", "-f", "value", "-c", "id"]
                done = execute(arguments, environment)
                assert done.status == 0, (line, done)
                count += 1
                token = done.output.strip()
            elif words[0] == "curl":
                url = words[-1].replace("http://messaging.example:8888", server.url)
                command = [*words[:-1], url] if words[0] == "curl" else words
                answer = subprocess.run(
                    [word.replace("$TOKEN", token) for word in command], capture_output=True, timeout=60, check=True
                )
                assert b'"greetings"' in answer.stdout
    assert count == 20


def of_other_names(line: str) -> str:
    if line.startswith(("openstack service create", "openstack endpoint create")):
        return re.sub(r"\bmessaging(?=[ -]|$)(?!\.)", "guide", line)
    line = re.sub(r"(?<=--password 'SERVICE-PASSWORD' )zaqar$|(?<=--user )zaqar\b", "guide-zaqar", line)
    return re.sub(r"\bdemo\b", "guide-demo", line)
