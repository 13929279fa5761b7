# SPDX-License-Identifier: Apache-2.0
"""The delivery log of a subscription, and resending. The tests do the notifier's work by hand, on the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.api.client import Api
from tests.api.test_common import assert_error
from zaqar.model import DEAD, DONE, QUEUE, WAITING, Attempt, Delivery
from zaqar.storage.base import MessageStore


class Notifier:
    """The work of a notifier, done on the store of an application."""

    def __init__(self, api: Api) -> None:
        self._api = api
        created = api.post("/v2/queues/q/subscriptions", {"subscriber": "mailto:a@example.org", "ttl": 86_400})
        self.subscription: str = created.json["subscription_id"]
        self.path = f"/v2/queues/q/subscriptions/{self.subscription}"
        queue = api.parts.management.queue_records.get(project=api.project, kind=QUEUE, name="q")
        assert queue is not None
        self._uid = queue.uid

    @property
    def store(self) -> MessageStore:
        (store,) = self._api.parts.stores()
        return store

    def expand(self) -> list[Delivery]:
        """Expand the posts into deliveries. Returns the deliveries, which no notifier has leased."""
        now, made = self._api.clock.now, []
        for posted in self.store.outbox.take(owner="n", until=now + 60, now=now, limit=1000):
            if posted.queue_uid != self._uid:
                # Other tests left these in the same store.
                self.store.outbox.expand(posted=posted, deliveries=[], position=None, until=now)
                continue
            deliveries = [
                Delivery(
                    posted.queue_uid,
                    self.subscription,
                    posted.first + index,
                    draft.body,
                    draft.ttl,
                    posted.created,
                    posted.client_id,
                    now,
                )
                for index, draft in enumerate(posted.drafts)
            ]
            self.store.outbox.expand(posted=posted, deliveries=deliveries, position=None, until=now)
            made += deliveries
        return made

    def settle(self, state: str, attempts: Sequence[Attempt] = (), *, due: float | None = None) -> list[Delivery]:
        """Take the due deliveries of this subscription and settle them."""
        now = self._api.clock.now
        taken = [
            each
            for each in self.store.deliveries.take(
                owner="n", until=now + 60, now=now, limit=1000, most_of_one=1000, without=()
            )
            if each.subscription_id == self.subscription
        ]
        settled = [
            replace(each, state=state, tries=1, attempts=tuple(attempts), due=due or now, keep_until=now + 1000)
            for each in taken
        ]
        self.store.deliveries.settle(owner="n", settled=settled, now=now)
        return settled


@pytest.fixture
def notifier(api: Api) -> Notifier:
    return Notifier(api)


def log(api: Api, notifier: Notifier, query: str = "") -> dict[str, Any]:
    result = api.get(f"{notifier.path}/deliveries{query}")
    assert result.status_code == 200, result.text
    found: dict[str, Any] = result.json
    return found


def test_the_log_lists_deliveries_newest_first_with_counts(api: Api, notifier: Notifier) -> None:
    assert log(api, notifier) == {"deliveries": [], "counts": {"waiting": 0, "dead": 0}, "links": []}
    ids = api.send("q", "a", "b")
    notifier.expand()
    found = log(api, notifier)
    assert [each["id"] for each in found["deliveries"]] == ids[::-1]
    assert found["counts"] == {"waiting": 2, "dead": 0}
    moment = "2023-11-14T22:13:20.000Z"
    assert found["deliveries"][1] == {
        "id": ids[0],
        "message_id": ids[0],
        "kind": "Notification",
        "state": "waiting",
        "created": moment,
        "tries": 0,
        "next_attempt": moment,
        "settled": None,
        "attempts": [],
    }
    attempts = [Attempt(api.clock.now, 500, 0.25, "oh no"), Attempt(api.clock.now + 1, None, 10.0, "time-out")]
    notifier.settle(DEAD, attempts)
    dead = log(api, notifier)["deliveries"][0]
    assert (dead["state"], dead["tries"], dead["next_attempt"], dead["settled"]) == ("dead", 1, None, moment)
    assert dead["attempts"] == [
        {"time": moment, "status": 500, "latency": 0.25, "answer": "oh no"},
        {"time": "2023-11-14T22:13:21.000Z", "status": None, "latency": 10.0, "answer": "time-out"},
    ]
    assert log(api, notifier)["counts"] == {"waiting": 0, "dead": 2}


def test_the_log_can_be_filtered_by_state_and_read_in_pages(api: Api, notifier: Notifier) -> None:
    ids = []
    for state in (DONE, DEAD, WAITING):
        ids.append(api.send("q", 1, 2, 3))
        notifier.expand()
        if state != WAITING:
            notifier.settle(state)
    for state, of_state in zip((DONE, DEAD, WAITING), ids, strict=True):
        seen, path = [], f"{notifier.path}/deliveries?state={state}&limit=2"
        while page := api.get(path).json["deliveries"]:
            assert {each["state"] for each in page} == {state}
            seen += [each["id"] for each in page]
            path = api.get(path).json["links"][0]["href"]
            assert f"state={state}" in path
        assert seen == of_state[::-1]
    assert len(log(api, notifier)["deliveries"]) == 9


@pytest.mark.parametrize(
    "query", ["state=x", "state=Dead", "limit=0", "limit=21", "limit=x", "marker=x", "marker=" + "0" * 35]
)
def test_a_bad_query_of_the_log_is_refused(api: Api, notifier: Notifier, query: str) -> None:
    assert_error(api.get(f"{notifier.path}/deliveries?{query}"), 400, query.partition("=")[0])


def test_a_settled_delivery_can_be_resent(api: Api, notifier: Notifier) -> None:
    (id_,) = api.send("q", "a")
    path = f"{notifier.path}/deliveries/{id_}/resend"
    assert_error(api.post(path), 404)
    notifier.expand()
    assert_error(api.post(path), 409)
    for state in (DONE, DEAD):
        notifier.settle(state)
        assert api.post(path).status_code == 204
        (shown,) = log(api, notifier)["deliveries"]
        assert (shown["state"], shown["tries"]) == ("waiting", 0)
        assert_error(api.post(path), 409)


def test_all_dead_deliveries_can_be_resent(api: Api, notifier: Notifier) -> None:
    path = f"{notifier.path}/resend"
    assert api.post(path, {"state": "dead"}).json == {"resent": 0}
    api.send("q", *range(30))
    notifier.expand()
    notifier.settle(DEAD)
    api.send("q", "done")
    notifier.expand()
    notifier.settle(DONE)
    assert api.post(path, {"state": "dead"}).json == {"resent": 30}
    assert log(api, notifier)["counts"] == {"waiting": 30, "dead": 0}
    assert api.post(path, {"state": "dead"}).json == {"resent": 0}


@pytest.mark.parametrize("body", [None, [], 1, {}, {"state": "done"}, {"state": ["dead"]}, {"state": "dead", "x": 1}])
def test_a_bad_body_of_a_resend_is_refused(api: Api, notifier: Notifier, body: Any) -> None:
    assert_error(api.post(f"{notifier.path}/resend", body), 400)


@pytest.mark.parametrize("id_", ["x", "0" * 36, "0" * 35, "%00", "ä", "f" * 300])
def test_resending_an_absent_delivery_is_404(api: Api, notifier: Notifier, id_: str) -> None:
    assert_error(api.post(f"{notifier.path}/deliveries/{id_}/resend"), 404)


def test_another_project_or_subscription_cannot_see_or_resend_a_delivery(
    api: Api, make_api: Callable[..., Api], notifier: Notifier
) -> None:
    (id_,) = api.send("q", "a")
    notifier.expand()
    notifier.settle(DEAD)
    other = Notifier(make_api())
    own = api.project
    elsewhere = api.post("/v2/queues/q/subscriptions", {"subscriber": "mailto:b@example.org"}).json["subscription_id"]
    api.put("/v2/queues/r")
    for path, project in (
        (notifier.path, own + "x"),
        (notifier.path.replace("/q/", "/r/"), own),
        (notifier.path.replace("queues", "topics"), own),
        (other.path, own),
    ):
        api.project = project
        assert_error(api.get(f"{path}/deliveries"), 404)
        assert_error(api.post(f"{path}/resend", {"state": "dead"}), 404)
        assert_error(api.post(f"{path}/deliveries/{id_}/resend"), 404)
    api.project = own
    assert_error(api.post(f"/v2/queues/q/subscriptions/{elsewhere}/deliveries/{id_}/resend"), 404)
    assert log(api, notifier)["counts"] == {"waiting": 0, "dead": 1}


def test_an_unknown_marker_begins_at_the_newest_delivery(api: Api, notifier: Notifier) -> None:
    ids = api.send("q", "a")
    notifier.expand()
    assert [each["id"] for each in log(api, notifier, "?marker=" + "0" * 36)["deliveries"]] == ids


def test_the_policy_restricts_the_log_and_resending(make_api: Callable[..., Api], tmp_path: Any) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text('"subscription:deliveries": "role:boss"\n"subscription:resend": "role:boss"\n')
    api = make_api(oslo_policy__policy_file=str(policy))
    notifier = Notifier(api)
    boss = {"X-Roles": "boss"}
    for method, tail, body in (("GET", "/deliveries", None), ("POST", "/resend", {"state": "dead"})):
        assert_error(api.request(method, notifier.path + tail, body), 403, "subscription:")
        assert api.request(method, notifier.path + tail, body, headers=boss).status_code == 200


def test_subscribers_of_a_dead_letter_queue_get_the_dead_letters(api: Api, notifier: Notifier) -> None:
    """The dead letter queue has each dead letter once, whether it came before or after the subscription."""
    api.put("/v2/queues/work", {"_max_claim_count": 1, "_dead_letter_queue": "q"})
    for body in ("a", "b"):
        api.send("work", body)
        claim = api.post("/v2/queues/work/claims", {"ttl": 60, "grace": 60})
        assert [message["body"] for message in claim.json["messages"]] == [body]
        assert api.delete(claim.headers["location"]).status_code == 204
        assert api.post("/v2/queues/work/claims", {"ttl": 60, "grace": 60}).status_code == 204
    dead = api.get("/v2/queues/q/messages?echo=true").json["messages"]
    assert [message["body"] for message in dead] == ["a", "b"]
    made = notifier.expand()
    assert [(each.id, each.body) for each in made] == [
        (message["id"], b'"%s"' % message["body"].encode()) for message in dead
    ]
