# SPDX-License-Identifier: Apache-2.0
"""Stages of a shop: ledgers are never emptied, and the numbers of credit cards are never stored."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace

from zaqar.context import Context
from zaqar.errors import Forbidden
from zaqar.model import Draft, Queue
from zaqar.stages.base import Stage
from zaqar.stages.operations import DeleteQueue, PurgeQueue

_log = logging.getLogger(__name__)


class Ledgers(Stage):
    """For ``queue_pipeline``: refuses to delete or empty queues whose name begins with ``ledger-``."""

    def before_delete_queue(self, context: Context, request: DeleteQueue) -> DeleteQueue:
        self._check(request.queue_name.name)
        return request

    def before_purge_queue(self, context: Context, request: PurgeQueue) -> PurgeQueue:
        self._check(request.queue_name.name)
        return request

    def after_delete_queue(self, context: Context, request: DeleteQueue, result: None) -> None:
        _log.info("%s: project %s deleted a queue", context.request_id, context.project)

    def _check(self, name: str) -> None:
        if name.startswith("ledger-"):
            raise Forbidden("A ledger is kept.")


class Cards(Stage):
    """For ``message_pipeline``: keeps the last four digits of the field ``card``."""

    def before_post(self, context: Context, queue: Queue, drafts: Sequence[Draft]) -> Sequence[Draft]:
        return [self._masked(draft) if b'"card"' in draft.body else draft for draft in drafts]

    def _masked(self, draft: Draft) -> Draft:
        body = json.loads(draft.body)
        if not isinstance(body, dict) or not isinstance(body.get("card"), str):
            return draft
        body["card"] = "*" * 12 + body["card"][-4:]
        return replace(draft, body=json.dumps(body).encode())


class Code:
    """For the header EXTRA-SPEC: ``acme:`` and the code of the day."""

    def execute(self, value: str) -> None:
        if value != "acme:open sesame":
            raise Forbidden("The code is wrong.")
