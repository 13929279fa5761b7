# SPDX-License-Identifier: Apache-2.0
"""A copy has all queues, messages and subscriptions once and in order, whatever breaks in between."""

from __future__ import annotations

import pytest

from tests.unit.upgrade.harness import BROKEN, PROJECT, InProcess
from zaqar.upgrade import service
from zaqar.upgrade.copying import Copied, QueueCopy, Settings
from zaqar.upgrade.progress import Progress
from zaqar.upgrade.service import ATTEMPTS, Refused, Unavailable
from zaqar.upgrade.verification import Difference, compare


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.time, "sleep", lambda _seconds: None)


@pytest.fixture
def source() -> InProcess:
    return InProcess()


@pytest.fixture
def target() -> InProcess:
    return InProcess()


@pytest.fixture
def progress() -> Progress:
    return Progress(None, source="http://old", target="http://new")


class Killed(Exception):
    """Ends the copy as a signal would: nothing handles it."""


class Run:
    def __init__(self, source: InProcess, target: InProcess, progress: Progress) -> None:
        self._source, self._target, self._progress = source, target, progress

    def copy(self, queue: str, **settings: bool) -> Copied:
        return self._new(**settings).copy(queue)

    def compare(self, queue: str, refused: set[str] | None = None) -> Difference:
        copy = self._new()
        pages = copy.source_pages(queue), copy.target_pages(queue)
        return compare(self._progress, PROJECT, queue, source=pages[0], target=pages[1], refused=refused or set())

    def _new(self, **settings: bool) -> QueueCopy:
        return QueueCopy(self._source, self._target, self._progress, Settings(PROJECT, **settings))


@pytest.fixture
def run(source: InProcess, target: InProcess, progress: Progress) -> Run:
    return Run(source, target, progress)


BODIES = [{"n": n} for n in range(50)]


def test_messages_are_copied_in_order_with_the_rest_of_their_ttl(
    source: InProcess, target: InProcess, run: Run
) -> None:
    for start in (0, 20, 40):
        source.fill("mail", BODIES[start : start + 20], ttl=1000)
    source.now += 300
    result = run.copy("mail")
    assert target.bodies("mail") == BODIES
    assert {message["ttl"] for message in target.messages("mail")} == {700}
    assert (result.read, result.copied, result.is_complete) == (50, 50, True)
    assert run.compare("mail") == (0, 0)


def test_metadata_are_copied_without_those_that_are_not_set(source: InProcess, target: InProcess, run: Run) -> None:
    source.put("queues", "mail", body={"owner": "web", "_default_message_ttl": 600, "_max_claim_count": 3})
    assert run.copy("mail").is_complete
    there = target.get("queues", "mail")
    assert (there["owner"], there["_default_message_ttl"], there["_max_claim_count"]) == ("web", 600, 3)
    assert there["_dead_letter_queue"] is None


def test_a_queue_that_exists_with_other_metadata_is_reported(source: InProcess, target: InProcess, run: Run) -> None:
    source.put("queues", "mail", body={"owner": "web"})
    target.put("queues", "mail", body={"owner": "batch"})
    result = run.copy("mail")
    assert not result.is_complete
    assert result.notes == ["the queue exists on the target with other metadata: owner"]


def test_a_message_keeps_the_rest_of_the_default_delay(source: InProcess, target: InProcess, run: Run) -> None:
    source.put("queues", "mail", body={"_default_message_delay": 100})
    source.fill("mail", ["early"])
    source.now += 80
    source.fill("mail", ["late"])
    run.copy("mail")
    visible = [
        message["body"]
        for page in target.pages("queues", "mail", "messages", query={"echo": "true"})
        for message in page
    ]
    assert visible == []
    target.now += 30
    claimed = target.post("queues", "mail", "claims", body={"ttl": 300, "grace": 60})
    assert [message["body"] for message in claimed["messages"]] == ["early"]


def test_a_message_that_is_about_to_expire_lives_a_minute(source: InProcess, target: InProcess, run: Run) -> None:
    source.fill("mail", ["short"], ttl=60)
    source.now += 50
    run.copy("mail")
    assert [message["ttl"] for message in target.messages("mail")] == [60]


def test_claimed_messages_are_copied_as_free_ones(source: InProcess, target: InProcess, run: Run) -> None:
    source.fill("mail", ["a", "b"])
    source.post("queues", "mail", "claims", body={"ttl": 300, "grace": 60})
    run.copy("mail")
    assert target.bodies("mail") == ["a", "b"]
    assert target.get("queues", "mail", "stats")["messages"]["free"] == 2


def test_a_second_run_copies_what_came_later(source: InProcess, target: InProcess, run: Run) -> None:
    source.fill("mail", ["a", "b"])
    run.copy("mail")
    source.fill("mail", ["c"])
    result = run.copy("mail")
    assert (result.copied, result.copied_before) == (1, 2)
    assert target.bodies("mail") == ["a", "b", "c"]


@pytest.mark.parametrize("is_posted", [True, False])
def test_a_post_without_an_answer_is_not_repeated_if_it_had_an_effect(
    source: InProcess, target: InProcess, run: Run, *, is_posted: bool
) -> None:
    source.fill("mail", BODIES[:20])
    source.fill("mail", BODIES[20:40])
    target.faults["POST"] = [None, BROKEN if is_posted else (503, b"{}")]
    result = run.copy("mail")
    assert target.bodies("mail") == BODIES[:40]
    assert (result.copied, target.requests.count("POST queues/mail/messages")) == (40, 2 if is_posted else 3)


@pytest.mark.parametrize("is_posted", [True, False])
def test_a_run_that_was_killed_in_a_post_is_continued(
    source: InProcess, target: InProcess, progress: Progress, run: Run, *, is_posted: bool
) -> None:
    source.fill("mail", BODIES[:20])
    source.fill("mail", BODIES[20:40])
    target.faults["POST"] = [None, Killed()] if is_posted else [None, *[(503, b"{}")] * ATTEMPTS]
    with pytest.raises(Killed if is_posted else Unavailable):
        run.copy("mail")
    assert progress.uncertain(PROJECT, "mail").source_ids
    assert run.copy("mail").is_complete
    assert target.bodies("mail") == BODIES[:40]
    assert run.compare("mail") == (0, 0)


def test_messages_of_other_producers_do_not_hide_those_of_a_broken_post(
    source: InProcess, target: InProcess, run: Run
) -> None:
    source.fill("mail", BODIES[:20])
    run.copy("mail")
    target.fill("mail", ["of another producer"])
    source.fill("mail", BODIES[20:40])
    target.faults["POST"] = [BROKEN]
    run.copy("mail")
    assert target.bodies("mail") == [*BODIES[:20], "of another producer", *BODIES[20:40]]


def test_a_message_that_the_target_refuses_does_not_hold_up_the_others(
    source: InProcess, target: InProcess, run: Run
) -> None:
    source.fill("mail", ["a", "b", "c"])
    refusal = (400, b'{"description": "too large"}')
    target.faults["POST"] = [refusal, None, refusal, None]
    result = run.copy("mail")
    assert target.bodies("mail") == ["a", "c"]
    (note,) = result.notes
    assert note.endswith("too large")
    assert not result.is_complete
    assert run.compare("mail") == (1, 0)
    assert run.compare("mail", refused=result.refused) == (0, 0)


def test_a_caller_that_may_not_post_stops_the_copy(source: InProcess, target: InProcess, run: Run) -> None:
    source.fill("mail", ["a"])
    target.faults["POST"] = [(403, b"{}")]
    with pytest.raises(Refused, match="403"):
        run.copy("mail")


def test_a_queue_that_the_target_refuses_is_reported(source: InProcess, target: InProcess, run: Run) -> None:
    source.fill("mail", ["a"])
    target.faults["PUT"] = [(400, b'{"title": "no such flavor"}')]
    result = run.copy("mail")
    assert not result.is_complete
    assert "no such flavor" in result.notes[0]


def test_large_messages_are_posted_in_several_requests(source: InProcess, target: InProcess, run: Run) -> None:
    for letter in "abc":
        source.fill("mail", [letter * 150_000])
    assert run.copy("mail").copied == 3
    assert [body[0] for body in target.bodies("mail")] == ["a", "b", "c"]
    assert target.requests.count("POST queues/mail/messages") == 3


def test_a_source_that_does_not_list_claimed_messages_is_read_without_them(
    source: InProcess, target: InProcess, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    source.fill("mail", ["a", "b"])
    source.post("queues", "mail", "claims", body={"ttl": 300, "grace": 60})
    source.fill("mail", ["c"])
    source.faults["GET"] = [None, (503, b"{}"), (503, b"{}")]
    result = run.copy("mail")
    assert target.bodies("mail") == ["c"]
    assert result.notes == ["2 claimed messages are left; run again when their claims are over"]
    assert "does not list claimed messages" in capsys.readouterr().err
    # In the next run they are free, or can be listed.
    assert run.copy("mail").copied == 2
    assert target.bodies("mail") == ["c", "a", "b"]
    assert run.compare("mail") == (0, 0)


def test_a_dry_run_writes_nothing(source: InProcess, target: InProcess, run: Run) -> None:
    source.fill("mail", ["a", "b"])
    source.post("queues", "mail", "subscriptions", body={"subscriber": "http://192.0.2.1/hook"})
    result = run.copy("mail", dry_run=True)
    assert (result.copied, result.subscriptions) == (2, 1)
    assert target.requests == []


def test_subscriptions_are_copied_confirmed_and_with_the_rest_of_their_ttl(
    source: InProcess, target: InProcess, run: Run
) -> None:
    wanted = {"subscriber": "http://192.0.2.1/hook", "ttl": 3600, "options": {"post_data": "x"}}
    made = source.post("queues", "mail", "subscriptions", body=wanted)
    source.put("queues", "mail", "subscriptions", made["subscription_id"], "confirm", body={"confirmed": True})
    source.post("queues", "mail", "subscriptions", body={"subscriber": "http://192.0.2.2/hook", "ttl": 60})
    source.now += 30
    result = run.copy("mail")
    (copy,) = target.get("queues", "mail", "subscriptions")["subscriptions"]
    assert (copy["subscriber"], copy["options"], copy["ttl"], copy["confirmed"]) == (
        "http://192.0.2.1/hook",
        {"post_data": "x"},
        3570,
        True,
    )
    assert result.subscriptions == 1
    assert result.is_complete
    assert run.copy("mail").is_complete


def test_subscriptions_can_be_left_out(source: InProcess, target: InProcess, run: Run) -> None:
    source.post("queues", "mail", "subscriptions", body={"subscriber": "http://192.0.2.1/hook"})
    run.copy("mail", subscriptions=False)
    assert target.get("queues", "mail", "subscriptions")["subscriptions"] == []


def test_the_comparison_finds_missing_messages_and_another_order(
    source: InProcess, target: InProcess, progress: Progress, run: Run
) -> None:
    source.fill("mail", ["a", "b", "c"])
    run.copy("mail")
    gone = target.messages("mail")[1]["id"]
    target._again("DELETE", ("queues", "mail", "messages", gone), {}, None, 1)
    assert run.compare("mail") == (1, 0)
    copies = target.messages("mail")
    found = compare(progress, PROJECT, "mail", source=[], target=[copies[::-1]])
    assert found == (0, 1)
