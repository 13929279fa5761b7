# SPDX-License-Identifier: Apache-2.0
"""``openstack messaging ...``, as published.

The first test starts the program as a user does. The other tests run the same commands in forks of one program
(``openstack_commands.py``), because loading the libraries takes most of the time of a command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cloud import CLIENT_ID, Cloud, running_cloud
from tests.acceptance.server import wait_until
from tests.virtualenvs import KEYSTONE

VIRTUALENVS = (KEYSTONE,)

HOOK = "http://127.0.0.1:9/hook"
COMMAND_SECONDS = 120

# These commands print nothing, or always JSON; the others print a table unless asked for JSON.
PLAIN = {
    "claim release",
    "flavor delete",
    "health",
    "homedoc",
    "message post",
    "queue delete",
    "queue purge",
    "queue set metadata",
    "subscription delete",
}

Run = Callable[..., Any]
Execute = Callable[[list[str], dict[str, str]], "CommandResult"]
"""Runs the program with these arguments and this environment."""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(tmp_path_factory.mktemp("command"), "admin_mode = true", "pooling = true") as cloud:
        yield cloud


@dataclass(frozen=True)
class CommandResult:
    """The result of a command."""

    status: int
    output: str
    errors: str


def run_program(arguments: list[str], environment: dict[str, str]) -> CommandResult:
    """Run the program as a user does, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "openstackclient.shell", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


@contextmanager
def forking_program() -> Iterator[Execute]:
    """Run commands in forks of one program that has loaded the libraries."""
    command = [sys.executable, str(Path(__file__).with_name("openstack_commands.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def execute(arguments: list[str], environment: dict[str, str]) -> CommandResult:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps({"arguments": arguments, "environment": environment}) + "\n")
            process.stdin.flush()
            return CommandResult(**json.loads(process.stdout.readline()))

        try:
            yield execute
        finally:
            # The program ends with its standard input, which this closes.
            process.communicate()


def command_of(cloud: Cloud, user: str, execute: Execute) -> Run:
    """Runs a command as this user. Returns its output, decoded, or its error text if it is expected to fail."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    environment = inherited | cloud.environment(user)

    def run(command: str, *arguments: str, fails: bool = False) -> Any:
        as_json = [] if command in PLAIN else ["-f", "json"]
        done = execute(["messaging", *command.split(), *arguments, *as_json], environment)
        assert (done.status != 0) == fails, f"{command}: {done}"
        return done.errors if fails else json.loads(done.output) if done.output.strip() else None

    return run


@pytest.fixture(scope="module")
def execute() -> Iterator[Execute]:
    with forking_program() as execute:
        yield execute


@pytest.fixture(scope="module")
def admin(cloud: Cloud, execute: Execute) -> Run:
    return command_of(cloud, cloud.new_user("admin"), execute)


@pytest.fixture(scope="module")
def member(cloud: Cloud) -> str:
    return cloud.new_user("member")


@pytest.fixture(scope="module")
def run(cloud: Cloud, member: str, execute: Execute) -> Run:
    return command_of(cloud, member, execute)


@pytest.fixture(scope="module", autouse=True)
def pool(admin: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pool that takes every queue of this module."""
    file: Path = tmp_path_factory.mktemp("pool") / "messages.db"
    made = admin("pool create", "fast", f"sqlite:///{file}", "10", "--pool_options", '{"connections": 5}')
    assert (made["Name"], made["Weight"]) == ("fast", 10)
    return f"sqlite:///{file}"


def test_the_installed_program_finds_the_service(cloud: Cloud, member: str) -> None:
    run = command_of(cloud, member, run_program)
    # The removal fails if Keystone or the service does not answer in time.
    wait_until(lambda: run("ping") == {"Pingable": True})
    assert "Forbidden" in run("health", fails=True)


def test_ping_homedoc_and_health_answer(run: Run, admin: Run) -> None:
    assert run("ping") == {"Pingable": True}
    assert "rel/queues" in run("homedoc")["resources"]
    assert admin("health")["catalog_reachable"] is True
    assert "Forbidden" in run("health", fails=True)


def test_commands_for_queues_work(run: Run) -> None:
    assert run("queue create", "jobs") == {"Name": "jobs"}
    run("queue set metadata", "jobs", '{"color": "red", "_default_message_ttl": 120}')
    metadata = run("queue get metadata", "jobs")["Metadata"]
    assert (metadata["color"], metadata["_default_message_ttl"]) == ("red", 120)
    (listed,) = (queue for queue in run("queue list", "--detailed") if queue["Name"] == "jobs")
    assert listed["Metadata_Dict"]["color"] == "red"
    run("message post", "jobs", '[{"body": 1}, {"body": 2}]')
    stats = run("queue stats", "jobs")["Stats"]["messages"]
    assert (stats["free"], stats["claimed"], stats["total"]) == (2, 0, 2)
    run("queue purge", "jobs", "--resource_types", "messages")
    assert run("queue stats", "jobs")["Stats"]["messages"]["total"] == 0
    run("queue delete", "jobs")
    assert "jobs" not in [queue["Name"] for queue in run("queue list")]


def test_commands_for_messages_and_claims_work(run: Run) -> None:
    run("message post", "work", '[{"body": {"n": 1}, "ttl": 300}, {"body": {"n": 2}, "ttl": 300}]')
    messages = run("message list", "work", "--echo")
    assert [(message["Body"], message["TTL"]) for message in messages] == [({"n": 1}, 300), ({"n": 2}, 300)]
    (found,) = run("message list", "work", "--message-ids", messages[1]["ID"])
    assert found["Body"] == {"n": 2}

    (claimed,) = run("claim create", "work", "--ttl", "300", "--grace", "60", "--limit", "1")
    assert claimed["Messages"] == {"n": 1}
    claim = claimed["Claim_ID"]
    (queried,) = run("claim query", "work", claim)
    assert queried["Message"] == {"n": 1}
    (renewed,) = run("claim renew", "work", claim, "--ttl", "600", "--grace", "120")
    assert renewed["Message"] == {"n": 1}
    assert [message["Body"] for message in run("message list", "work", "--echo")] == [{"n": 2}]
    run("claim release", "work", claim)
    assert len(run("message list", "work", "--echo")) == 2
    assert "not" in run("claim query", "work", claim, fails=True).lower()


def test_commands_for_subscriptions_work(run: Run) -> None:
    made = run("subscription create", "news", HOOK, "3600", "--options", '{"a": "b"}')
    assert (made["Subscriber"], made["TTL"], made["Options"]) == (HOOK, 3600, {"a": "b"})
    (listed,) = run("subscription list", "news")
    assert listed["ID"] == made["ID"]
    run("subscription update", "news", made["ID"], "--subscriber", f"{HOOK}/2", "--ttl", "7200", "--options", "{}")
    shown = run("subscription show", "news", made["ID"])
    assert (shown["Subscriber"], shown["TTL"], shown["Options"]) == (f"{HOOK}/2", 7200, {})
    run("subscription delete", "news", made["ID"])
    assert run("subscription list", "news") == []


def test_the_command_for_a_signed_url_works(run: Run, cloud: Cloud) -> None:
    run("queue create", "shared")
    arguments = ("--paths", "messages,claims", "--methods", "GET,POST", "--ttl-seconds", "600")
    signed = run("queue signed url", "shared", *arguments)
    assert signed["Paths"] == "/v2/queues/shared/claims,/v2/queues/shared/messages"
    assert (signed["Methods"], signed["Project ID"]) == ("GET,POST", cloud.project_id)
    headers = {
        "URL-Signature": signed["Signature"],
        "URL-Expires": signed["Expires"],
        "URL-Methods": signed["Methods"],
        "URL-Paths": signed["Paths"],
        "X-Project-ID": signed["Project ID"],
        "Client-ID": CLIENT_ID,
    }
    assert cloud.get_with("/v2/queues/shared/messages", headers) == {"messages": [], "links": []}


def test_commands_for_pools_and_flavors_work(admin: Run, run: Run, pool: str) -> None:
    assert admin("pool list", "--detailed")[0]["Name"] == "fast"
    assert admin("pool update", "fast", "--pool_weight", "20")["Weight"] == 20
    shown = admin("pool show", "fast")
    assert (shown["Weight"], shown["URI"]) == (20, pool)
    assert admin("flavor create", "gold", "--pool_list", "fast")["Name"] == "gold"
    assert [flavor["Name"] for flavor in admin("flavor list", "--detailed")] == ["gold"]
    assert admin("flavor show", "gold")["Name"] == "gold"
    admin("flavor update", "gold", "--pool_list", "fast")
    admin("flavor delete", "gold")
    assert admin("flavor list") == []
    assert "Forbidden" in run("pool list", fails=True)


def test_a_user_without_a_role_in_the_project_is_refused(cloud: Cloud, execute: Execute) -> None:
    assert "401" in command_of(cloud, "nobody", execute)("queue list", fails=True)
