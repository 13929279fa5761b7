# SPDX-License-Identifier: Apache-2.0
"""The adapter for published plug-ins in ``claim_pipeline``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from zaqar.context import Context
from zaqar.model import Claim
from zaqar.stages.base import Done
from zaqar.stages.operations import CreateClaim, GetClaim, HeldClaim, ReleaseClaim, RenewClaim
from zaqar.stages.published.base import (
    BadResult,
    PublishedStage,
    created_of,
    integer_of,
    items_of,
    messages_of,
    object_of,
)

Q = TypeVar("Q", CreateClaim, RenewClaim)


class PublishedClaimStage(PublishedStage):
    """Wraps a plug-in with methods for claims."""

    methods: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "before_create_claim": ("create",),
        "before_get_claim": ("get",),
        "before_renew_claim": ("update",),
        "before_release_claim": ("delete",),
    }

    def before_create_claim(self, context: Context, request: CreateClaim) -> CreateClaim | Done[HeldClaim]:
        terms: dict[str, Any] = {"ttl": request.ttl, "grace": request.grace}
        answer = self._call(
            "create", request.queue_name.name, metadata=terms, project=request.queue_name.project, limit=request.limit
        )
        if answer is None:
            return _with(request, terms["ttl"], terms["grace"])
        id_, messages = _two(answer)
        return Done(self._held(context, id_, {}, messages, ttl=request.ttl, grace=request.grace))

    def before_get_claim(self, context: Context, request: GetClaim) -> GetClaim | Done[HeldClaim]:
        answer = self._call(
            "get", request.queue_name.name, claim_id=request.claim_id, project=request.queue_name.project
        )
        if answer is None:
            return request
        terms, messages = _two(answer)
        fields = object_of(terms)
        ttl, grace = integer_of(fields.get("ttl", 0), "ttl"), integer_of(fields.get("grace", 0), "grace")
        return Done(self._held(context, request.claim_id, fields, messages, ttl=ttl, grace=grace))

    def before_renew_claim(self, context: Context, request: RenewClaim) -> RenewClaim | Done[None]:
        asked = {"ttl": request.ttl, "grace": request.grace}
        terms: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        answer = self._call(
            "update",
            request.queue_name.name,
            claim_id=request.claim_id,
            metadata=terms,
            project=request.queue_name.project,
        )
        if answer is None:
            return _with(request, terms.get("ttl"), terms.get("grace"))
        return Done(None)

    def before_release_claim(self, context: Context, request: ReleaseClaim) -> ReleaseClaim | Done[None]:
        answer = self._call(
            "delete", request.queue_name.name, claim_id=request.claim_id, project=request.queue_name.project
        )
        return request if answer is None else Done(None)

    def _held(
        self, context: Context, id_: object, fields: dict[str, Any], messages: object, *, ttl: int, grace: int
    ) -> HeldClaim:
        # The id becomes a part of a path and of a header.
        if not isinstance(id_, str) or not id_.isascii() or not id_.isprintable():
            raise BadResult("a claim without an id of printable ASCII characters")
        now = self._clock()
        claim = Claim(id_, ttl, grace, created_of(fields, now))
        return HeldClaim(claim, messages_of(items_of(messages), now, context.client_id))


def _with(request: Q, ttl: Any, grace: Any) -> Q:
    """Return the request with these terms; the same object if the plug-in has not changed them."""
    return request if (request.ttl, request.grace) == (ttl, grace) else replace(request, ttl=ttl, grace=grace)


def _two(answer: object) -> tuple[Any, Any]:
    if not isinstance(answer, list | tuple) or len(answer) != 2:
        raise BadResult("no pair of a claim and its messages")
    return answer[0], answer[1]
