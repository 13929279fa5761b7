# SPDX-License-Identifier: Apache-2.0
"""Claims that run each operation through ``claim_pipeline``."""

from __future__ import annotations

from typing import Any

from zaqar.context import caller_in
from zaqar.model import QueueName
from zaqar.schemas.claims import parse_terms
from zaqar.service.awaited import Awaited
from zaqar.service.claims import Claimed, Claims
from zaqar.service.staged.awaiting import prepare_staged
from zaqar.service.staged.queues import check_limit, encode_changed
from zaqar.stages.operations import CreateClaim, GetClaim, HeldClaim, ReleaseClaim, RenewClaim
from zaqar.stages.pipeline import Changed, Pipeline


class StagedClaims(Claims):
    """See :class:`Claims` for the methods."""

    def __init__(self, *, pipeline: Pipeline, **parts: Any) -> None:
        """``parts`` are the parameters of :class:`Claims`."""
        super().__init__(**parts)
        self._pipeline = pipeline

    def prepare(self, queue_name: QueueName, raw: bytes, *, limit: int) -> Awaited[Claimed]:
        ttl, grace = self._terms(raw)

        def prepare(wanted: Changed[CreateClaim]) -> Awaited[Claimed]:
            request, document = wanted.request, raw
            if wanted.by_stages:
                check_limit(request.limit, self._limits.max_messages_per_claim_or_pop)
                document = encode_changed({"ttl": request.ttl, "grace": request.grace})
            return super(StagedClaims, self).prepare(queue_name, document, limit=request.limit)

        return prepare_staged(
            self._pipeline,
            caller_in(queue_name.project),
            CreateClaim(queue_name, ttl, grace, limit),
            prepare,
            to_result=lambda claimed: HeldClaim(claimed.claim, claimed.messages),
            to_answer=lambda held: Claimed(held.claim, list(held.messages), self._clock()),
        )

    def get(self, queue_name: QueueName, claim_id: str) -> Claimed:
        now = self._clock()

        def act(wanted: Changed[GetClaim]) -> HeldClaim:
            nonlocal now
            claim, messages, now = super(StagedClaims, self).get(queue_name, str(wanted.request.claim_id))
            return HeldClaim(claim, messages)

        held = self._pipeline.run(caller_in(queue_name.project), GetClaim(queue_name, claim_id), act)
        return Claimed(held.claim, list(held.messages), now)

    def renew(self, queue_name: QueueName, claim_id: str, raw: bytes) -> None:
        terms = parse_terms(raw, limits=self._limits)

        def act(wanted: Changed[RenewClaim]) -> None:
            request, document = wanted.request, raw
            if wanted.by_stages:
                fields = {"ttl": request.ttl, "grace": request.grace}
                document = encode_changed({name: value for name, value in fields.items() if value is not None})
            super(StagedClaims, self).renew(queue_name, str(request.claim_id), document)

        request = RenewClaim(queue_name, claim_id, terms.ttl, terms.grace)
        self._pipeline.run(caller_in(queue_name.project), request, act)

    def release(self, queue_name: QueueName, claim_id: str) -> None:
        def act(wanted: Changed[ReleaseClaim]) -> None:
            super(StagedClaims, self).release(queue_name, str(wanted.request.claim_id))

        self._pipeline.run(caller_in(queue_name.project), ReleaseClaim(queue_name, claim_id), act)
