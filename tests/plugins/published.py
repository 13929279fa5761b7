# SPDX-License-Identifier: Apache-2.0
"""Stages with the interface of OpenStack Zaqar, written without knowledge of this service."""

import itertools
import uuid

METHODS = (
    *("create", "get", "get_metadata", "set_metadata", "delete", "exists", "stats", "list", "post", "bulk_get"),
    *("bulk_delete", "pop", "first", "update", "confirm", "get_with_subscriber", "calculate_resource_count"),
)

CALLS = []
MADE = []


class Recorder:
    """Has every method of every controller. Records each call and changes nothing."""

    def __init__(self, *args, **kwargs):
        MADE.append((args, kwargs))

    def __getattr__(self, name):
        if name.startswith("_") or name not in METHODS:
            raise AttributeError(name)

        def method(*args, **kwargs):
            CALLS.append((name, args, kwargs))

        return method


class TakesKeywordsOnly:
    def __init__(self, **kwargs):
        MADE.append(((), kwargs))

    def post(self, queue, messages, project, client_uuid):
        CALLS.append(("post", (queue,), {"client_uuid": client_uuid}))


class TakesNothing:
    def __init__(self):
        MADE.append(((), {}))

    def post(self, queue, messages, client_uuid, project=None):
        assert isinstance(client_uuid, uuid.UUID)


class Undeletable:
    """Refuses to delete the queue whose name is ``ledger``, and deletes all others."""

    def __init__(self, *args, **kwargs):
        pass

    def create(self, name, metadata=None, project=None):
        print(f"{project} creates {name}")

    def delete(self, name, project=None):
        return "kept" if name == "ledger" else None


class Mutator:
    """Changes its arguments in place."""

    def __init__(self, *args, **kwargs):
        pass

    def post(self, queue, messages, project=None, client_uuid=None):
        messages[:] = [message for message in messages if message["body"] != "drop me"]
        for message in messages:
            if isinstance(message["body"], dict):
                message["body"]["seen_by"] = str(client_uuid)
            if message["body"] == "hurry":
                message["ttl"] = 77

    def create(self, name, metadata=None, project=None, **kwargs):
        if metadata is not None:
            metadata["ttl" if "ttl" in metadata else "owner"] = 99

    def set_metadata(self, name, metadata, project=None):
        metadata["changed"] = True

    def update(self, queue, claim_id=None, metadata=None, project=None):
        metadata["ttl"] = 111


class SubscriptionMutator:
    def create(self, queue, subscriber, ttl, options, project=None):
        options["subject"] = "added"


class Ender:
    """Answers every call itself."""

    def __init__(self, *args, **kwargs):
        pass

    def post(self, queue, messages, project=None, client_uuid=None):
        return [f"own-{number}" for number, _ in enumerate(messages)]

    def get(self, queue, message_id, project=None):
        return {"id": message_id, "body": {"own": True}, "ttl": 60, "age": 5}

    def bulk_get(self, queue, message_ids, project=None):
        return iter([self.get(queue, id_) for id_ in message_ids])

    def list(self, queue=None, project=None, limit=None, **kwargs):
        yield iter({"id": str(number), "body": number, "ttl": 60, "age": 0} for number in itertools.count())
        yield "marker"

    def pop(self, queue, project=None, limit=None):
        return [{"id": "popped", "body": 1, "ttl": 60, "age": 0, "claim_count": 3}]

    def delete(self, *args, **kwargs):
        return False

    def bulk_delete(self, *args, **kwargs):
        return 0


class QueueEnder:
    def create(self, name, metadata=None, project=None):
        return name == "new"

    def get(self, name, project=None):
        return {"own": name}

    def set_metadata(self, name, metadata, project):
        return True

    def delete(self, name, project=None):
        return []

    def stats(self, name, project=None):
        oldest = {"id": "1", "age": 9, "created": "2026-01-01T00:00:00Z"}
        return {"messages": {"free": 2, "claimed": 1, "total": 3, "oldest": oldest, "newest": oldest}}

    def list(self, project=None, kfilter=None, marker=None, limit=10, detailed=False, name=None):
        yield [{"name": f"own{number}", "metadata": {"n": number}} for number in range(limit)]
        yield f"own{limit - 1}"


class ClaimEnder:
    def create(self, queue, metadata, project=None, limit=10):
        return "claim-1", [{"id": "m", "body": "claimed", "ttl": metadata["ttl"], "age": 0, "claim_id": "claim-1"}]

    def get(self, queue, claim_id, project=None):
        return {"id": claim_id, "ttl": 120, "grace": 60, "age": 7}, []

    def update(self, queue, claim_id, metadata, project=None):
        return {}

    def delete(self, queue, claim_id, project=None):
        return "released"


class SubscriptionEnder:
    def create(self, queue, subscriber, ttl, options, project=None):
        return "" if subscriber.endswith("/twice") else "sub-1"

    def get(self, queue, subscription_id, project=None):
        return {"id": subscription_id, "source": queue, "subscriber": "http://x", "ttl": 60, "age": 3, "options": {}}

    def list(self, queue, project=None, marker=None, limit=10):
        yield [self.get(queue, "a"), self.get(queue, "b")]
        yield "b"

    def update(self, queue, subscription_id, project=None, **fields):
        return sorted(fields)

    def delete(self, queue, subscription_id, project=None):
        return True

    def confirm(self, queue, subscription_id, project=None, confirmed=True):
        return confirmed


class Raiser:
    """Fails at every call, each time with another exception."""

    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)

        def method(*args, **kwargs):
            raise _Fatal("the password is 1234")

        return method


class _Fatal(BaseException):
    pass


class Exits(Raiser):
    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)

        def method(*args, **kwargs):
            raise SystemExit(3)

        return method


class FailsAtLoad:
    def __init__(self, *args, **kwargs):
        raise RuntimeError("no licence")


def make_recorder(**kwargs):
    return Recorder(**kwargs)


class Reader:
    """Posts only to queues of the owner, and prints how many subscribers there are."""

    def __init__(self, queue_controller, subscription_controller, **kwargs):
        self.queues = queue_controller
        self.subscriptions = subscription_controller

    def post(self, queue, messages, project=None, client_uuid=None):
        page, marker = self.subscriptions.list(queue, project=project)
        subscribers = [each["subscriber"] for each in page]
        if marker is not None:
            assert self.subscriptions.get(queue, marker, project=project)["subscriber"] == subscribers[-1]
        for message in messages:
            message["body"] = {
                "owner": self.queues.get_metadata(queue, project=project).get("owner"),
                "exists": self.queues.exists(queue, project=project),
                "subscribers": subscribers,
            }


class Hostile:
    """Each method returns the value that a test sets here."""

    answer = None

    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: Hostile.answer()
