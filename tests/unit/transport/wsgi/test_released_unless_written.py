# SPDX-License-Identifier: Apache-2.0
"""The body of an answer that names a claim: the claim is released if the client cannot know of it."""

from __future__ import annotations

from zaqar.transport.wsgi.waits import ReleasedUnlessWritten


class Claim:
    def __init__(self) -> None:
        self.releases = 0
        self.is_gone = False
        self.body = ReleasedUnlessWritten(b"body", release=self._release, is_gone=lambda: self.is_gone)

    def _release(self) -> None:
        self.releases += 1


def test_a_body_that_was_written_keeps_the_claim() -> None:
    claim = Claim()
    assert list(claim.body) == [b"body"]
    claim.body.close()
    assert claim.releases == 0


def test_a_claim_is_released_once_if_its_body_was_not_begun() -> None:
    claim = Claim()
    claim.body.close()
    claim.body.close()
    assert claim.releases == 1


def test_a_claim_is_released_if_its_body_was_not_finished() -> None:
    claim = Claim()
    assert next(claim.body) == b"body"
    claim.body.close()
    assert claim.releases == 1


def test_a_claim_is_released_once_if_the_client_closed_before_the_write() -> None:
    claim = Claim()
    claim.is_gone = True
    assert list(claim.body) == [b"body"]
    claim.body.close()
    assert claim.releases == 1
