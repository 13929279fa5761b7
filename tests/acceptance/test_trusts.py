# SPDX-License-Identifier: Apache-2.0
"""Subscribers of ``trust+http`` beside a real Keystone: from the subscription to the end of the trust."""

from __future__ import annotations

import http.client
import json
import os
import signal
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.acceptance.server import HTTP_COMMAND, Server, free_port, start, wait_until
from tests.acceptance.webhook_sinks import Sink, Sinks
from tests.keystone import Keystone

PATIENCE = 60.0
MOST_TIMES = 5.0
"""How many times longer a message may take beside messages that wait for Keystone, on the same machine."""

# The first retries come without a pause, so that tests need not wait; later ones often enough for a returning trustor.
EAGER = {
    "retries_with_no_delay": 1,
    "minimum_delay_retries": 20,
    "minimum_delay": 1,
    "maximum_delay": 11,
    "maximum_delay_retries": 1,
}


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Like :func:`wait_until`, with time for a new trust or a new token."""
    return wait_until(condition, seconds=seconds)


@dataclass
class User:
    """A user with a token and with queues of their own."""

    server: Server
    token: str
    name: str
    queue: str = field(default_factory=lambda: f"q-{uuid.uuid4().hex}")
    client_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Client-ID": self.client_id, "X-Auth-Token": self.token, "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection(self.server.host, self.server.port, timeout=90)) as connection:
            connection.request(method, f"/v2{path}", None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        return answer.status, json.loads(text) if text else None

    def subscribe(self, subscriber: str, *, ttl: int = 3600, **options: Any) -> tuple[int, Any]:
        wanted = {"subscriber": subscriber, "ttl": ttl, "options": options}
        return self.ask("POST", f"/queues/{self.queue}/subscriptions", wanted)

    def subscribed(self, subscriber: str, **fields: Any) -> str:
        status, answer = self.subscribe(subscriber, **fields)
        assert status == 201, answer
        return str(answer["subscription_id"])

    def warm_up(self) -> None:
        """Let every process of the server see the token, because only then it is accepted while Keystone is away."""
        for _ in range(30):
            assert self.ask("GET", f"/queues/{self.queue}")[0] == 200

    def path_of(self, subscription: str) -> str:
        return f"/queues/{self.queue}/subscriptions/{subscription}"

    def subscriptions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", f"/queues/{self.queue}/subscriptions")[1]["subscriptions"]
        return found

    def post(self, body: Any = "x", queue: str = "") -> None:
        status, answer = self.ask("POST", f"/queues/{queue or self.queue}/messages", {"messages": [{"body": body}]})
        assert status == 201, answer


@contextmanager
def subscribing_at_once(user: User, url: str, count: int) -> Iterator[list[int]]:
    """Statuses of so many concurrent requests to subscribe. All have ended when the block ends."""
    statuses: list[int] = []

    def ask(number: int) -> None:
        statuses.append(user.subscribe(f"trust+{url}?{number}")[0])

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for asker in askers:
        asker.start()
    yield statuses
    for asker in askers:
        asker.join(PATIENCE)


@dataclass
class Cloud:
    keystone: Keystone
    server: Server

    def user(self, name: str = "", project: str = "demo") -> User:
        """A new user, unless a name is given."""
        name = name or self.keystone.new_user(project)
        return User(self.server, self.keystone.token(name, project), name)

    def trust_ids(self, user: User) -> set[str]:
        return {trust["id"] for trust in self.keystone.trusts(user.name)}

    def kill_notifier(self) -> None:
        """Send SIGKILL to the notifier. Returns when another one runs."""
        old = self._notifiers()
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        until(lambda: set(self._notifiers()) - set(old))

    def _notifiers(self) -> list[int]:
        found = [pid for pid in self.server.processes() if b"zaqar.cmd.notifier" in _command_line(pid)]
        assert found or self.server.process.poll() is None
        return found


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("trusts")
    keystone = servers.own(Keystone)
    port = free_port()
    config = folder / "zaqar.conf"
    config.write_text(
        keystone.options(f"127.0.0.1:{port}") + "timeout = 2\n[notification]\nwebhook_allowed_networks = 127.0.0.0/8\n"
    )
    server = start(folder / "state", port=port, options=("--config-file", str(config)), command=HTTP_COMMAND)
    try:
        yield Cloud(keystone, server)
    finally:
        server.close()
        keystone.stop()


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    with Sinks(sink):
        yield sink


# -- from a message to its receiver ------------------------------------------------------------------------------------


def test_a_receiver_gets_a_token_of_the_subscribing_user(cloud: Cloud, sink: Sink) -> None:
    user = cloud.user()
    subscription = user.subscribed(f"trust+{sink.url}", ttl=7200)
    (trust,) = cloud.keystone.trusts(user.name)
    ends = datetime.fromisoformat(trust["expires_at"]).timestamp()
    assert 7200 <= ends - time.time() <= 7200 + 400
    assert trust["impersonation"] is True
    assert user.ask("GET", user.path_of(subscription))[1]["options"] == {"trust_id": trust["id"]}
    for number in range(3):
        user.post({"n": number})
    until(lambda: len(sink.receipts) == 3)
    (token,) = {receipt.headers["x-auth-token"] for receipt in sink.receipts}
    token_of_trust, own = cloud.keystone.inspect(token), cloud.keystone.inspect(user.token)
    for name in ("user", "project"):
        assert token_of_trust[name]["id"] == own[name]["id"]
    assert {role["name"] for role in token_of_trust["roles"]} == {role["name"] for role in own["roles"]}
    assert token_of_trust["OS-TRUST:trust"]["id"] == trust["id"]
    assert sink.receipts[0].headers["content-type"] == "application/json"
    assert set(sink.receipts[0].document) == {"body", "ttl", "queue_name", "Message_Type"}
    log = cloud.server.log.read_text()
    assert token not in log and user.token not in log


def test_a_trigger_of_mistral_gets_the_expected_request(cloud: Cloud, sink: Sink) -> None:
    user = cloud.user()
    post_data = json.dumps(
        {
            "workflow_id": "7d3c",
            "params": {"description": "d", "env": {"notification": "$zaqar_message$"}},
            "input": {"a": [1, None]},
        }
    )
    subscription = user.subscribed(f"trust+{sink.url}", post_data=post_data)
    assert user.ask("GET", user.path_of(subscription))[1]["options"]["post_data"] == post_data
    user.post({"k": "v"})
    (receipt,) = until(lambda: list(sink.receipts))
    expected = json.loads(post_data)
    expected["params"]["env"]["notification"] = {
        "body": {"k": "v"},
        "ttl": 3600,
        "queue_name": user.queue,
        "Message_Type": "Notification",
    }
    assert receipt.document == expected
    assert cloud.keystone.inspect(receipt.headers["x-auth-token"])["user"]["name"] == user.name


def test_a_subscription_can_post_to_another_queue(cloud: Cloud) -> None:
    """The same as test_trust_subscription of the tempest plug-in."""
    user = cloud.user("member")
    target = f"q-{uuid.uuid4().hex}"
    project = cloud.keystone.id_of("project", "demo")
    user.subscribed(
        f"trust+{cloud.server.url}/v2/queues/{target}/messages",
        ttl=1200,
        post_data=json.dumps({"messages": [{"body": "$zaqar_message$", "ttl": 60}]}),
        post_headers={"X-Project-ID": project, "Client-ID": str(uuid.uuid4())},
    )
    message = {"body": {"k": "v", "n": [1, 2.5, None]}, "ttl": 350}
    assert user.ask("POST", f"/queues/{user.queue}/messages", {"messages": [message]})[0] == 201
    path = f"/queues/{target}/messages?echo=true"
    (found,) = until(lambda: user.ask("GET", path)[1]["messages"])
    assert found["body"] == {**message, "queue_name": user.queue, "Message_Type": "Notification"}


def test_many_concurrent_subscriptions_with_trusts_all_succeed(cloud: Cloud, sink: Sink) -> None:
    """As for one Heat stack. Keystone accepts one trust for each end time between two users, so the times differ."""
    user = cloud.user()
    user.warm_up()
    with subscribing_at_once(user, sink.url, 12) as statuses:
        pass
    assert statuses == 12 * [201]
    assert len(cloud.trust_ids(user)) == 12


# -- callers that may make or name a trust -----------------------------------------------------------------------------


def test_a_delegated_token_cannot_make_a_trust(cloud: Cloud, sink: Sink) -> None:
    owner = cloud.user()
    keystone = cloud.keystone
    tokens = [
        keystone.token_of(keystone.application_credential(owner.name)),
        keystone.token_of(keystone.application_credential(owner.name, unrestricted=True)),
        keystone.token_of(keystone.application_credential(owner.name, access_rules=[("POST", "/v2/**")])),
        keystone.token("zaqar", trust=keystone.trust(owner.name)),
    ]
    for token in tokens:
        user = User(cloud.server, token, owner.name)
        status, answer = user.subscribe(f"trust+{sink.url}")
        assert (status, "delegation" in answer["description"]) == (403, True), answer
        user.token = owner.token
        assert user.subscriptions() == []


def test_a_trust_in_the_request_must_be_the_callers_own(cloud: Cloud, sink: Sink) -> None:
    """Otherwise a caller could make the service act for another user who trusts it."""
    keystone, user = cloud.keystone, cloud.user()
    victim, project = keystone.new_user(), keystone.new_project()
    keystone.grant("member", user.name, project)
    foreign = {
        "of another user": keystone.trust(victim),
        "of another project": keystone.trust(user.name, project=project),
        "without impersonation": keystone.trust(user.name, impersonation=False),
        "to another user": keystone.trust(user.name, "aodh"),
        "unknown": uuid.uuid4().hex,
    }
    answers = set()
    for trust in foreign.values():
        status, answer = user.subscribe(f"trust+{sink.url}", trust_id=trust)
        assert status == 400
        answers.add(answer["description"])
    (answer,) = answers
    assert answer.startswith("options.trust_id")
    assert user.subscriptions() == []
    own = keystone.trust(user.name)
    subscription = user.subscribed(f"trust+{sink.url}", trust_id=own)
    for trust in foreign.values():
        assert user.ask("PATCH", user.path_of(subscription), {"options": {"trust_id": trust}})[0] == 400
    user.post()
    (receipt,) = until(lambda: list(sink.receipts))
    assert keystone.inspect(receipt.headers["x-auth-token"])["OS-TRUST:trust"]["id"] == own
    # The service must not delete it. It deletes its own trusts within seconds, so this one would be gone too.
    other = cloud.user(user.name)
    made = other.subscribed(f"trust+{sink.url}")
    assert user.ask("DELETE", user.path_of(subscription))[0] == 204
    before = cloud.trust_ids(user)
    assert other.ask("DELETE", other.path_of(made))[0] == 204
    until(lambda: len(cloud.trust_ids(user)) < len(before))
    assert own in cloud.trust_ids(user)
    assert set(foreign.values()) & before <= cloud.trust_ids(user)


def test_a_user_who_redirects_a_subscription_gives_their_own_trust(cloud: Cloud, sink: Sink) -> None:
    victim = cloud.user()
    subscription = victim.subscribed(f"trust+{sink.url}?a")
    intruder = cloud.user()
    intruder.queue = victim.queue
    for change in ({"subscriber": f"trust+{sink.url}?b"}, {"options": {"post_data": '{"x": "$zaqar_message$"}'}}):
        assert intruder.ask("PATCH", intruder.path_of(subscription), change)[0] == 204
    until(lambda: cloud.trust_ids(victim) == set())
    assert len(cloud.trust_ids(intruder)) == 1
    victim.post()
    (receipt,) = until(lambda: list(sink.receipts))
    assert cloud.keystone.inspect(receipt.headers["x-auth-token"])["user"]["name"] == intruder.name


# -- the end of a trust ------------------------------------------------------------------------------------------------


def test_a_change_of_a_subscription_replaces_its_trust_if_needed(cloud: Cloud, sink: Sink) -> None:
    user = cloud.user()
    subscription = user.subscribed(f"{sink.url}?a", ttl=600)
    path = user.path_of(subscription)
    assert cloud.trust_ids(user) == set()
    assert user.ask("PATCH", path, {"subscriber": f"trust+{sink.url}?a"})[0] == 204
    (first,) = cloud.trust_ids(user)
    # The trust is kept if it lasts as long as the subscription.
    for change in ({"ttl": 500}, {"subscriber": f"trust+{sink.url}?b"}, {"options": {"k": 1}}):
        assert user.ask("PATCH", path, change)[0] == 204
    assert user.ask("GET", path)[1]["options"] == {"k": 1, "trust_id": first}
    assert user.ask("PATCH", path, {"ttl": 86400})[0] == 204
    second = user.ask("GET", path)[1]["options"]["trust_id"]
    assert second != first
    until(lambda: cloud.trust_ids(user) == {second})
    assert user.ask("PATCH", path, {"subscriber": f"{sink.url}?c"})[0] == 204
    assert user.ask("GET", path)[1]["options"] == {"k": 1}
    until(lambda: cloud.trust_ids(user) == set())


@pytest.mark.parametrize("end", ["unsubscribe", "purge", "delete the queue"])
def test_a_trust_ends_with_its_subscription(cloud: Cloud, sink: Sink, end: str) -> None:
    user = cloud.user()
    subscription = user.subscribed(f"trust+{sink.url}")
    other = cloud.user(user.name)
    other.subscribed(f"trust+{sink.url}")
    status, answer = user.subscribe(f"trust+{sink.url}")
    assert (status, len(cloud.trust_ids(user))) == (201, 2), answer
    kept = other.subscriptions()[0]["options"]["trust_id"]
    if end == "unsubscribe":
        assert user.ask("DELETE", user.path_of(subscription))[0] == 204
    elif end == "purge":
        assert user.ask("POST", f"/queues/{user.queue}/purge", {"resource_types": ["subscriptions"]})[0] == 204
    else:
        assert user.ask("DELETE", f"/queues/{user.queue}")[0] == 204
    until(lambda: cloud.trust_ids(user) == {kept})


def test_a_subscription_ends_with_its_trust(cloud: Cloud, sink: Sink) -> None:
    user = cloud.user()
    subscription = user.subscribed(f"trust+{sink.url}")
    (trust,) = cloud.trust_ids(user)
    cloud.keystone.request("DELETE", f"/OS-TRUST/trusts/{trust}", token=user.token)
    user.post()
    until(lambda: user.subscriptions() == [])
    assert user.ask("GET", user.path_of(subscription))[0] == 404
    assert sink.receipts == []


def test_deliveries_wait_for_a_disabled_trustor(cloud: Cloud, sink: Sink) -> None:
    user = cloud.user()
    subscription = user.subscribed(f"trust+{sink.url}", _retry_policy=EAGER)
    reader = cloud.user("member")
    reader.queue = user.queue
    cloud.keystone.set_enabled(user.name, False)
    reader.post("while away")
    path = f"{reader.path_of(subscription)}/deliveries"
    tried = until(lambda: [each for each in reader.ask("GET", path)[1]["deliveries"] if each["attempts"]])
    assert "user may be disabled" in json.dumps(tried)
    cloud.keystone.set_enabled(user.name, True)
    (receipt,) = until(lambda: list(sink.receipts))
    assert receipt.document["body"] == "while away"


def test_a_project_that_is_disabled_for_a_while_loses_no_subscription(cloud: Cloud, sink: Sink) -> None:
    """Keystone then gives the same answers as for a deleted trust."""
    keystone = cloud.keystone
    project = keystone.new_project()
    user = cloud.user(project=project)
    user.subscribed(f"trust+{sink.url}", _retry_policy=EAGER)
    path = f"/projects/{keystone.id_of('project', project)}"
    user.post("x")
    until(lambda: sink.receipts)
    sink.behaviour = "failing"
    user.post("y")
    until(lambda: sink.refused)
    keystone.request("PATCH", path, {"project": {"enabled": False}}, token=keystone.administrator())
    time.sleep(3)
    keystone.request("PATCH", path, {"project": {"enabled": True}}, token=keystone.administrator())
    sink.behaviour = "accepting"
    until(lambda: [receipt.document["body"] for receipt in sink.receipts] == ["x", "y"])
    user.token = keystone.token(user.name, project)
    assert len(user.subscriptions()) == 1


# -- Keystone is away --------------------------------------------------------------------------------------------------


def test_after_kills_of_keystone_and_notifier_no_message_is_lost(cloud: Cloud) -> None:
    trusting, plain = Sink(), Sink()
    with Sinks(trusting, plain):
        user, other, late = cloud.user(), cloud.user(), cloud.user()
        user.subscribed(f"trust+{trusting.url}")
        other.subscribed(plain.url)
        for each in (user, other):
            each.post("first")
        until(lambda: trusting.receipts and plain.receipts)
        for each in (user, other, late):
            each.warm_up()
        cloud.keystone.kill()
        try:
            # The notifier loses its cached tokens, so it needs Keystone.
            cloud.kill_notifier()
            status, answer = late.subscribe(f"trust+{trusting.url}")
            assert (status, late.subscriptions()) == (503, []), answer
            for number in range(10):
                user.post(number)
                other.post(number)
            until(lambda: len(plain.receipts) == 11)
            assert len(trusting.receipts) == 1
            cloud.kill_notifier()
        finally:
            cloud.keystone.start()
        until(lambda: {receipt.document["body"] for receipt in trusting.receipts} == {"first", *range(10)})
        assert len(user.subscriptions()) == 1


def seconds_to_arrive(user: User, sink: Sink) -> float:
    """Seconds that one message takes to the only subscriber of the user."""
    before, began = len(sink.receipts), time.monotonic()
    user.post("timed")
    until(lambda: len(sink.receipts) == before + 1)
    return time.monotonic() - began


def test_a_silent_keystone_does_not_delay_other_subscribers(cloud: Cloud) -> None:
    trusting, plain = Sink(), Sink()
    with Sinks(trusting, plain):
        user, other = cloud.user(), cloud.user()
        hoarders = [cloud.user() for _ in range(3)]
        subscription = user.subscribed(f"trust+{trusting.url}")
        for each in hoarders:
            each.subscribed(f"trust+{trusting.url}")
        other.subscribed(plain.url)
        for each in (user, other):
            each.post("first")
        until(lambda: trusting.receipts and plain.receipts)
        for each in (user, other, *hoarders):
            each.warm_up()
        alone = seconds_to_arrive(other, plain)
        cloud.keystone.signal(signal.SIGSTOP)
        try:
            for each in hoarders:
                for number in range(20):
                    each.post(number)
            with subscribing_at_once(user, trusting.url, 24) as statuses:
                delays = [seconds_to_arrive(other, plain) for _ in range(5)]
                # A question to Keystone times out after 2 s.
                assert statistics.median(delays) < max(2, MOST_TIMES * alone)
            assert statuses == 24 * [503]
            assert [each["id"] for each in user.subscriptions()] == [subscription]
        finally:
            cloud.keystone.signal(signal.SIGCONT)
        until(lambda: len(trusting.receipts) == 1 + 3 * 20)
