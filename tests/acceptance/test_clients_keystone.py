# SPDX-License-Identifier: Apache-2.0
"""keystoneauth, openstacksdk and python-zaqarclient, as published, log in at a Keystone and use the service."""

from __future__ import annotations

import urllib.parse
from typing import Any

import openstack
import pytest
from keystoneauth1 import exceptions as keystoneauth_exceptions
from keystoneauth1 import session as keystoneauth
from keystoneauth1.identity import v3
from zaqarclient.queues import client as zaqarclient
from zaqarclient.transport import errors

from tests.acceptance.cloud import CLIENT_ID, Cloud
from tests.keystone import REGION
from tests.virtualenvs import KEYSTONE

VIRTUALENVS = (KEYSTONE,)
RUNS_WITH = "shared_cloud"

# openstacksdk warns about its own code, on each call.
pytestmark = pytest.mark.filterwarnings(r"ignore:::openstack\.")


@pytest.fixture(scope="module")
def member(cloud: Cloud) -> str:
    return cloud.new_user("member")


# -- keystoneauth ------------------------------------------------------------------------------------------------------


def test_a_keystoneauth_session_finds_and_uses_the_service(cloud: Cloud, member: str) -> None:
    session = keystoneauth.Session(auth=v3.Password(**cloud.account(member)))
    where = {"service_type": "messaging", "region_name": REGION}
    assert session.get_endpoint(**where) == cloud.server.url
    body = {"messages": [{"body": "from a session", "ttl": 300}]}
    headers = {"Client-ID": CLIENT_ID}
    posted = session.post("/v2/queues/session/messages", endpoint_filter=where, json=body, headers=headers)
    assert posted.status_code == 201
    assert cloud.bodies("session", session.get_token()) == ["from a session"]
    session.auth = v3.Password(**cloud.account(cloud.new_user("member")))
    assert cloud.bodies("session", session.get_token()) == ["from a session"]


def test_a_keystoneauth_session_gets_another_token_when_its_own_is_revoked(cloud: Cloud, member: str) -> None:
    """The session repeats a request that is answered 401."""
    session = keystoneauth.Session(auth=v3.Password(**cloud.account(member)))
    where = {"service_type": "messaging", "region_name": REGION}
    first = session.get_token()
    cloud.keystone.revoke(first)
    answer = session.get("/v2/queues", endpoint_filter=where, headers={"Client-ID": CLIENT_ID})
    assert answer.status_code == 200
    assert session.get_token() != first


def test_an_application_credential_with_access_rules_opens_only_their_requests(cloud: Cloud, member: str) -> None:
    rules = [("GET", "/v2/queues"), ("POST", "/v2/queues/*/messages")]
    credential = cloud.keystone.application_credential(member, cloud.project, access_rules=rules)
    auth = v3.ApplicationCredential(
        auth_url=cloud.keystone.uri,
        application_credential_id=credential.id,
        application_credential_secret=credential.secret,
    )
    session = keystoneauth.Session(auth=auth)
    what = {"endpoint_filter": {"service_type": "messaging"}, "headers": {"Client-ID": CLIENT_ID}}
    assert session.get("/v2/queues", **what).status_code == 200
    messages = {"messages": [{"body": 1, "ttl": 60}]}
    assert session.post("/v2/queues/rules/messages", json=messages, **what).status_code == 201
    refused = session.get("/v2/queues/rules/messages", raise_exc=False, **what)
    assert refused.status_code == 401


# -- openstacksdk ------------------------------------------------------------------------------------------------------


def connect(cloud: Cloud, user: str) -> Any:
    """A connection as clouds.yaml describes it: with an account, and no URL of the service."""
    return openstack.connect(auth=cloud.account(user), region_name=REGION, load_envvars=False, load_yaml_config=False)


def test_openstacksdk_works_in_the_project_of_its_token(cloud: Cloud, member: str) -> None:
    with connect(cloud, member) as connection:
        proxy = connection.message
        proxy.create_queue(name="sdk", _default_message_ttl=120)
        assert "sdk" in [queue.name for queue in proxy.queues()]
        proxy.post_message("sdk", [{"body": {"n": n}, "ttl": 300} for n in range(3)])
        assert [message.body["n"] for message in proxy.messages("sdk", echo=True)] == [0, 1, 2]
        created = proxy.create_subscription("sdk", subscriber="http://127.0.0.1:9/sdk", ttl=600)
        found = proxy.get_subscription("sdk", created.subscription_id)
        assert (found.subscriber, found.ttl) == ("http://127.0.0.1:9/sdk", 600)
        proxy.delete_subscription("sdk", created.subscription_id)
    assert cloud.get("/v2/queues/sdk", cloud.token(member))["_default_message_ttl"] == 120


def test_openstacksdk_of_another_project_sees_nothing(cloud: Cloud, member: str) -> None:
    with connect(cloud, member) as connection:
        connection.message.create_queue(name="private")
        connection.message.post_message("private", [{"body": "secret", "ttl": 300}])
    stranger = Cloud(cloud.keystone, cloud.server, cloud.keystone.new_project())
    with connect(stranger, stranger.new_user()) as connection:
        assert list(connection.message.queues()) == []
        assert list(connection.message.messages("private", echo=True)) == []
        # The project of the token is used, whatever project the headers name.
        session = connection.session
        headers = {"Client-ID": CLIENT_ID, "X-Project-ID": cloud.project_id}
        answer = session.get(f"{cloud.server.url}/v2/queues", headers=headers)
        assert answer.json()["queues"] == []


def test_openstacksdk_raises_an_error_when_its_user_is_disabled(cloud: Cloud) -> None:
    """The client logs in again only because the service refuses its token. Keystone refuses the login."""
    user = cloud.new_user("member")
    with connect(cloud, user) as connection:
        assert connection.auth_token
        cloud.keystone.set_enabled(user, False)
        with pytest.raises(keystoneauth_exceptions.Unauthorized):
            list(connection.message.queues())


# -- python-zaqarclient ------------------------------------------------------------------------------------------------


def client_of(cloud: Cloud, user: str, **more: Any) -> Any:
    """A client configured as python-zaqarclient's documentation says. The catalogue gives the endpoint."""
    options = {f"os_{name}": value for name, value in cloud.account(user).items()} | more
    conf = {"auth_opts": {"backend": "keystone", "options": options}}
    return zaqarclient.Client(version=2, conf=conf)


def test_zaqarclient_logs_in_and_finds_the_service(cloud: Cloud, member: str) -> None:
    client = client_of(cloud, member)
    assert client.ping() is True
    queue = client.queue("jobs", force_create=True)
    queue.post([{"body": n, "ttl": 300} for n in range(3)])
    claim = queue.claim(ttl=300, grace=60, limit=2)
    assert [message.body for message in claim] == [0, 1]
    assert cloud.bodies("jobs", cloud.token(member)) == [2]
    claim.delete()
    subscription = client.subscription("jobs", subscriber="http://127.0.0.1:9/client", ttl=600, options={})
    assert [found.id for found in client.subscriptions("jobs")] == [subscription.id]
    queue.delete()


def test_zaqarclient_works_with_a_token_only(cloud: Cloud, member: str) -> None:
    """As Aodh and Heat use it: the project comes from the token."""
    auth = {"backend": "keystone", "options": {"os_auth_token": cloud.token(member)}}
    client = zaqarclient.Client(cloud.server.url, version=2, conf={"auth_opts": auth})
    client.queue("token").post({"body": "by token", "ttl": 300})
    assert cloud.bodies("token", cloud.token(member)) == ["by token"]


def test_zaqarclient_works_with_a_session(cloud: Cloud, member: str) -> None:
    session = keystoneauth.Session(auth=v3.Password(**cloud.account(member)))
    client = zaqarclient.Client(version=2, session=session)
    client.queue("sessions").post({"body": "by session", "ttl": 300})
    assert cloud.bodies("sessions", session.get_token()) == ["by session"]


def test_zaqarclient_raises_an_error_for_an_invalid_token(cloud: Cloud) -> None:
    auth = {"backend": "keystone", "options": {"os_auth_token": "gAAAAABnothing"}}
    client = zaqarclient.Client(cloud.server.url, version=2, conf={"auth_opts": auth})
    with pytest.raises(errors.UnauthorizedError):
        client.queue("jobs").post({"body": 1, "ttl": 300})


def signed_client(cloud: Cloud, signed: dict[str, Any], **more: Any) -> Any:
    options = {name: signed[name] for name in ("signature", "expires", "methods", "paths")}
    auth = {"backend": "signed-url", "options": options | {"os_project_id": signed["project"]} | more}
    return zaqarclient.Client(cloud.server.url, version=2, conf={"auth_opts": auth})


def test_zaqarclient_uses_a_signed_url(cloud: Cloud, member: str) -> None:
    signed = client_of(cloud, member).queue("shared").signed_url(["messages"], 600, ["GET", "POST"])
    queue = signed_client(cloud, signed).queue("shared")
    queue.post({"body": "signed", "ttl": 300})
    assert [message.body for message in queue.messages(echo=True)] == ["signed"]
    assert cloud.bodies("shared", cloud.token(member)) == ["signed"]
    with pytest.raises(errors.ResourceNotFound):  # DELETE is not among the methods
        queue.delete_messages(next(queue.messages(echo=True)).id)
    with pytest.raises(errors.ResourceNotFound):  # nor are the claims among the paths
        list(queue.claim(ttl=300, grace=60))
    with pytest.raises(errors.ResourceNotFound):
        list(signed_client(cloud, signed).queue("jobs").messages(echo=True))


def test_a_signed_url_is_refused_in_another_project(cloud: Cloud, member: str) -> None:
    signed = client_of(cloud, member).queue("shared").signed_url(["messages"], 600, ["GET"])
    stranger = signed_client(cloud, signed, os_project_id=cloud.keystone.id_of("project", "other"))
    with pytest.raises(errors.ResourceNotFound):
        list(stranger.queue("shared").messages(echo=True))


def test_a_query_string_of_heat_opens_the_queue(cloud: Cloud, member: str) -> None:
    """``OS::Zaqar::SignedQueueURL`` offers such a query string. Aodh parses it and splits lists at commas."""
    signed = client_of(cloud, member).queue("alarms").signed_url(["messages"], 600, ["GET", "POST"])
    lists = {"paths": ",".join(signed["paths"]), "methods": ",".join(signed["methods"])}
    query = urllib.parse.urlencode(signed | lists)
    back: dict[str, Any] = dict(urllib.parse.parse_qsl(query))
    back |= {"paths": back["paths"].split(","), "methods": back["methods"].split(",")}
    signed_client(cloud, back).queue("alarms").post({"body": "alarm"})
    assert cloud.bodies("alarms", cloud.token(member)) == ["alarm"]
