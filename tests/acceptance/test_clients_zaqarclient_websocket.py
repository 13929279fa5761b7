# SPDX-License-Identifier: Apache-2.0
"""python-zaqarclient's WebSocket transport, as published, without and with a real Keystone.

The transport sends the content of a request, and drops its parameters. So it is used with requests whose content
has everything; of the functions above it, those work that need no parameter.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import pytest
from zaqarclient import transport as zaqarclient_transport
from zaqarclient.queues.v2 import client as zaqarclient
from zaqarclient.transport import errors
from zaqarclient.transport.request import Request

from tests import servers
from tests.acceptance.server import Server, running
from tests.keystone import Keystone

SECRET_KEY = "a key of more than thirty-two characters"
_CONFIG = f"""\
[DEFAULT]
admin_mode = True
pooling = True
[signed_url]
secret_key = {SECRET_KEY}
"""


@dataclass
class Service:
    """A running service and a way to log in to it. ``project`` is a project that only one test uses."""

    server: Server
    endpoint: str
    keystone: Keystone | None

    def login(self, role: str = "member") -> dict[str, Any]:
        """The login options of a user in a project that no other test uses."""
        if self.keystone is None:
            token, project = "any", uuid.uuid4().hex
        else:
            name = self.keystone.new_project()
            token = self.keystone.token(self.keystone.new_user(name, role), name)
            project = self.keystone.id_of("project", name)
        backend = "keystone" if self.keystone else "noauth"
        return {"auth_opts": {"backend": backend, "options": {"os_auth_token": token, "os_project_id": project}}}

    def connect(self, login: dict[str, Any], **headers: str) -> Connection:
        """Open a connection. ``X_Roles="admin"`` is sent as the header X-Roles, with each request."""
        return Connection(self.endpoint, login, {name.replace("_", "-"): value for name, value in headers.items()})

    def administrator(self) -> Connection:
        # Without Keystone the service believes the headers.
        return self.connect(self.login("admin"), **({} if self.keystone else {"X_Roles": "admin"}))

    def add_pool(self, name: str, *, weight: int) -> None:
        with closing(self.administrator()) as call:
            uri = f"sqlite:///{self.server.state_dir}/{name}.db"
            said = call("pool_create", pool_name=name, weight=weight, uri=uri, options={})
            assert said == f"Pool {name} created."


class Connection:
    """The transport, and requests in the form that it can send."""

    def __init__(self, endpoint: str, login: dict[str, Any], headers: dict[str, str]) -> None:
        self._headers = headers
        self.transport = zaqarclient_transport.get_transport_for(endpoint, version=2, options=login)
        self._endpoint = endpoint

    def close(self) -> None:
        self.transport.cleanup()

    def __call__(self, action: str, /, *, headers: dict[str, str] | None = None, **body: Any) -> Any:
        """The body of the reply."""
        content = json.dumps(body) if body else None
        request = Request(self._endpoint, action, content=content, headers={**self._headers, **(headers or {})})
        return self.transport.send(request).deserialized_content


@pytest.fixture(scope="module", params=["without Keystone", "with Keystone"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    keystone: Keystone | None = servers.shared("keystone") if request.param == "with Keystone" else None
    folder = tmp_path_factory.mktemp("zaqarclient")
    config = folder / "zaqar.conf"
    options = keystone.options() if keystone else ""
    config.write_text(options + _CONFIG)
    with running(folder / "state", options=("--config-file", str(config), "--workers", "1")) as server:
        service = Service(server, server.websocket_url, keystone)
        service.add_pool("first", weight=1)
        yield service


@pytest.fixture
def login(service: Service) -> dict[str, Any]:
    return service.login()


@pytest.fixture
def call(service: Service, login: dict[str, Any]) -> Iterator[Connection]:
    with closing(service.connect(login)) as connection:
        yield connection


def post(call: Connection, queue: str, *bodies: Any) -> list[str]:
    """Post messages. Returns their ids."""
    ids: list[str] = call("message_post", queue_name=queue, messages=[{"body": body, "ttl": 300} for body in bodies])[
        "message_ids"
    ]
    return ids


def bodies(listed: Any) -> list[Any]:
    return [message["body"] for message in listed["messages"]]


# -- requests of the transport -----------------------------------------------------------------------------------------


def test_the_example_of_its_documentation_works(service: Service, login: dict[str, Any]) -> None:
    with zaqarclient_transport.get_transport_for(service.endpoint, options=login) as connection:
        request = Request(service.endpoint, "queue_create", content=json.dumps({"queue_name": "foo"}))
        response = connection.send(request)
    assert (response.status_code, response.deserialized_content) == (201, "Queue foo created.")


def test_actions_on_queues_work(call: Connection) -> None:
    assert call("queue_list") == {"queues": []}
    assert call("queue_create", queue_name="jobs", metadata={"color": "red"}) == "Queue jobs created."
    assert call("queue_create", queue_name="jobs", metadata={"color": "red"}) == "Queue jobs created."
    assert call("queue_get", queue_name="jobs")["color"] == "red"
    assert call("queue_list", detailed=True, limit=5)["queues"][0]["metadata"]["color"] == "red"
    post(call, "jobs", 1, 2)
    counts = call("queue_get_stats", queue_name="jobs")["messages"]
    assert (counts["free"], counts["claimed"], counts["total"]) == (2, 0, 2)
    call("queue_purge", queue_name="jobs", resource_types=["messages"])
    assert bodies(call("message_list", queue_name="jobs", echo=True)) == []
    assert call("queue_delete", queue_name="jobs") == "Queue jobs removed."
    assert call("queue_list") == {"queues": []}


def test_actions_on_messages_work(call: Connection, service: Service, login: dict[str, Any]) -> None:
    ids = post(call, "jobs", *range(6))
    assert bodies(call("message_list", queue_name="jobs")) == []
    with closing(service.connect(login)) as other:
        # Each connection of this client has a Client-ID of its own.
        assert bodies(other("message_list", queue_name="jobs", limit=2)) == [0, 1]
        assert bodies(other("message_list", queue_name="jobs", marker=ids[1])) == [2, 3, 4, 5]
    assert call("message_get", queue_name="jobs", message_id=ids[2])["messages"]["body"] == 2
    assert bodies(call("message_get_many", queue_name="jobs", message_ids=[ids[3], ids[0]])) in ([3, 0], [0, 3])
    assert call("message_delete", queue_name="jobs", message_id=ids[0]) == {}
    assert call("message_delete_many", queue_name="jobs", message_ids=ids[1:3]) == {}
    assert bodies(call("message_delete_many", queue_name="jobs", pop=2)) == [3, 4]
    assert bodies(call("message_list", queue_name="jobs", echo=True)) == [5]


def test_actions_on_claims_work(call: Connection) -> None:
    post(call, "jobs", *range(3))
    claimed = call("claim_create", queue_name="jobs", ttl=300, grace=60, limit=2)
    claim = claimed["claim_id"]
    assert bodies(claimed) == [0, 1]
    assert {message["claim_id"] for message in claimed["messages"]} == {claim}
    assert call("claim_update", queue_name="jobs", claim_id=claim, ttl=400) == f"Claim {claim} updated."
    assert call("claim_get", queue_name="jobs", claim_id=claim)["ttl"] == 400
    first = claimed["messages"][0]["id"]
    with pytest.raises(errors.ForbiddenError):
        call("message_delete", queue_name="jobs", message_id=first)
    call("message_delete", queue_name="jobs", message_id=first, claim_id=claim)
    assert call("claim_delete", queue_name="jobs", claim_id=claim) == f"Claim {claim} deleted."
    assert bodies(call("claim_create", queue_name="jobs", ttl=300, grace=60)) == [1, 2]
    assert call("claim_create", queue_name="jobs", ttl=300, grace=60) == {"claim_id": None}


def test_actions_on_subscriptions_of_other_subscribers_work(call: Connection) -> None:
    made = call("subscription_create", queue_name="jobs", subscriber="mailto:ann@example.org", ttl=600, options={})
    assert made["message"] == "Subscription jobs created."
    one = {"queue_name": "jobs", "subscription_id": made["subscription_id"]}
    assert call("subscription_get", **one)["subscriber"] == "mailto:ann@example.org"
    (listed,) = call("subscription_list", queue_name="jobs")["subscriptions"]
    assert listed["id"] == made["subscription_id"]
    assert call("subscription_delete", **one) == f"Subscription {made['subscription_id']} removed."
    with pytest.raises(errors.ResourceNotFound):
        call("subscription_get", **one)


def test_a_subscribed_connection_gets_notifications(call: Connection) -> None:
    """The client takes the next frame for the reply to its request, so no notification may come in between."""
    made = call("subscription_create", queue_name="jobs", ttl=600)
    assert made["message"] == "Subscription jobs created."
    with pytest.raises(errors.ConflictError):
        call("subscription_create", queue_name="jobs", ttl=600)
    for number in range(10):
        assert len(post(call, "jobs", number)) == 1
        pushed = call.transport.recv()
        assert (pushed["body"], pushed["queue_name"], pushed["Message_Type"]) == (number, "jobs", "Notification")
    call("subscription_delete", queue_name="jobs", subscription_id=made["subscription_id"])


def test_actions_of_administrators_work(service: Service) -> None:
    name = f"p{uuid.uuid4().hex}"
    service.add_pool(name, weight=0)
    with closing(service.administrator()) as call:
        assert call("pool_get", pool_name=name)["weight"] == 0
        assert call("pool_update", pool_name=name, weight=0)["name"] == name
        assert name in [pool["name"] for pool in call("pool_list")["pools"]]
        call("flavor_create", flavor_name=name, pool_list=[name])
        assert call("flavor_get", flavor_name=name)["pool_list"] == [name]
        assert name in [flavor["name"] for flavor in call("flavor_list")["flavors"]]
        call("flavor_delete", flavor_name=name)
        call("pool_delete", pool_name=name)
        assert call("ping_node") in ({}, None)
        assert call("check_node_health")["catalog_reachable"] is True
        assert "resources" in call("get_home_doc")


def test_errors_name_the_wrong_field(call: Connection) -> None:
    refused: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (errors.MalformedRequest, "queue_name", lambda: call("queue_create")),
        (errors.MalformedRequest, "limit", lambda: call("queue_list", limit=0)),
        (errors.MalformedRequest, "ttl", lambda: call("claim_create", queue_name="q", ttl=1, grace=60)),
        (errors.MalformedRequest, "is not a valid action", lambda: call("nope")),
        (errors.ResourceNotFound, "message", lambda: call("message_get", queue_name="q", message_id="x")),
        (errors.ResourceNotFound, "claim", lambda: call("claim_get", queue_name="q", claim_id="x")),
    ]
    for kind, words, request in refused:
        with pytest.raises(kind, match=words) as caught:
            request()
        text = str(caught.value)
        assert "Title: Websocket Transport Error. Description: " in text, text
        assert "Description: None" not in text
    assert call("queue_list") == {"queues": []}


# -- the client above the transport ------------------------------------------------------------------------------------


def test_the_list_functions_of_the_client_work(service: Service) -> None:
    """Each call of this client opens a connection. Its headers have X-Project-Id beside X-Project-ID."""
    login = service.login("admin")
    with closing(service.connect(login)) as call:
        for name in ("a", "b"):
            call("queue_create", queue_name=name)
    made: list[Any] = []
    client = Client(service.endpoint, made, conf=login)
    with ExitStack() as stack:
        # The client never closes its connections.
        stack.callback(lambda: [connection.cleanup() for connection in made])
        assert [queue.name for queue in client.queues()[0]] == ["a", "b"]
        assert list(client.flavors()) == []
        # The client has no action of this name.
        assert client.ping() is False
        with pytest.raises(errors.MalformedRequest, match="queue_name"):
            client.queue("c", force_create=True)


class Client(zaqarclient.Client):  # type: ignore[misc]
    """The client, with its transports noted in ``made``."""

    def __init__(self, endpoint: str, made: list[Any], conf: dict[str, Any]) -> None:
        super().__init__(endpoint, version=2, conf=conf)
        self._made = made

    def _get_transport(self, request: Any) -> Any:
        self._made.append(super()._get_transport(request))
        return self._made[-1]


# -- identity ----------------------------------------------------------------------------------------------------------


def test_with_keystone_a_wrong_token_or_project_is_refused(service: Service, login: dict[str, Any]) -> None:
    options = login["auth_opts"]["options"]
    bad = {"auth_opts": {"options": {**options, "os_auth_token": "nobody-knows-it"}}}
    foreign = {"auth_opts": {"options": {**options, "os_project_id": "somebody-else"}}}
    with closing(service.connect(bad)) as unknown, closing(service.connect(foreign)) as elsewhere:
        if service.keystone is None:
            assert unknown("queue_list") == elsewhere("queue_list") == {"queues": []}
        else:
            with pytest.raises(errors.UnauthorizedError, match="Authentication failed"):
                unknown("queue_list")
            with pytest.raises(errors.ForbiddenError):
                elsewhere("queue_list")


def test_signed_requests_work(service: Service, login: dict[str, Any], call: Connection) -> None:
    post(call, "mail", 1)
    made = call("queue_share", queue_name="mail", paths=["messages"], methods=["GET", "POST"])
    headers = {
        "URL-Signature": made["signature"],
        "URL-Paths": ",".join(made["paths"]),
        "URL-Methods": ",".join(made["methods"]),
        "URL-Expires": made["expires"],
    }
    with closing(service.connect(login)) as guest:
        signed = {"queue_name": "mail", "headers": headers}
        assert len(guest("message_post", messages=[{"body": 2, "ttl": 300}], **signed)["message_ids"]) == 1
        assert bodies(guest("message_list", echo=True, **signed)) == [1, 2]
        with pytest.raises(errors.ForbiddenError):
            guest("message_delete_many", pop=1, **signed)
        with pytest.raises(errors.ForbiddenError):
            guest("message_list", queue_name="other", headers=headers)


def test_no_secret_is_logged(service: Service, login: dict[str, Any], call: Connection) -> None:
    assert call("queue_list") == {"queues": []}
    text = service.server.log.read_text()
    token = login["auth_opts"]["options"]["os_auth_token"]
    assert service.keystone is None or token not in text
    assert SECRET_KEY not in text
