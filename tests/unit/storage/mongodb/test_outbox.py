# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import replace

import pytest

from zaqar.model import NOT_EXPANDED, Draft, Posted
from zaqar.storage.base.packed_posts import unpack_posted
from zaqar.storage.mongodb import outbox
from zaqar.storage.mongodb.documents import INDEXES
from zaqar.storage.mongodb.outbox import posted_documents

UID = "0123456789abcdef01234567"


def test_a_post_is_one_document() -> None:
    drafts = [Draft(b"1", 60), Draft(b'"x"', 90, delay=5)]
    (document,) = posted_documents(UID, 7, drafts, "client", 1.5, request_id="req-1")
    posted = unpack_posted(document["body"], queue_uid=document["queue"], first=document["first"])
    assert replace(posted, position=NOT_EXPANDED) == Posted(UID, 7, "client", 1.5, tuple(drafts), request_id="req-1")


def test_a_very_large_one_is_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_DOCUMENT_BYTES", 3000)
    sizes = [1000, 1000, 1000, 5000, 10, 10]
    documents = posted_documents(UID, 4, [Draft(b"x" * size, 60) for size in sizes], "client", 1.5, request_id="req-1")
    parts = [unpack_posted(each["body"], queue_uid=UID, first=each["first"]) for each in documents]
    assert [[len(draft.body) for draft in part.drafts] for part in parts] == [[1000, 1000], [1000], [5000], [10, 10]]
    assert [part.first for part in parts] == [4, 6, 7, 8]
    assert len({each["_id"] for each in documents}) == 4


def test_it_is_in_no_index_of_messages() -> None:
    (document,) = posted_documents(UID, 7, [Draft(b"1", 60)], "client", 1.5, request_id="req-1")
    assert [index.name for index in INDEXES if index.having in document] == ["outbox"]
