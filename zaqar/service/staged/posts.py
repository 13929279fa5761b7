# SPDX-License-Identifier: Apache-2.0
"""Runs the ``before_post`` hooks. ``Messages.post`` calls it after the rules of the queue and before the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zaqar.context import Context
from zaqar.errors import InvalidInput, ZaqarError
from zaqar.limits import MIN_MESSAGE_TTL, Limits
from zaqar.model import Draft
from zaqar.schemas import strict_json
from zaqar.schemas.fields import check_range, is_id
from zaqar.schemas.messages import make_checksum
from zaqar.service.queue_cache import ResolvedQueue
from zaqar.stages.base import Done
from zaqar.stages.pipeline import Hook, call_hook, failure


class PostEnded(ZaqarError):
    """A stage has ended the post. Nothing is stored, and the client gets these ids."""

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__()
        self.ids = list(ids)


def run_before_post(
    hooks: Sequence[Hook], context: Context, resolved: ResolvedQueue, drafts: list[Draft], limits: Limits
) -> list[Draft]:
    """Return the drafts to store, at least one. Raises PostEnded if there is nothing to store.

    Drafts that a stage has made are checked like the drafts of a client, so that every stored message can be read.
    """
    given = {id(draft): draft for draft in drafts}
    for hook in hooks:
        answer = call_hook(hook, context, resolved.queue, drafts)
        ended = isinstance(answer, Done)
        items, fits = (answer.result, _is_id) if ended else (answer, _is_draft)
        if not isinstance(items, list | tuple) or not all(map(fits, items)):
            raise failure(hook, "returned neither a list of drafts nor Done with a list of ids")
        if ended:
            raise PostEnded(items)
        drafts = list(items)
    if not drafts:
        raise PostEnded(())
    if len(drafts) != len(given) or any(id(draft) not in given for draft in drafts):
        try:
            drafts = _check(drafts, given, resolved, limits)
        except InvalidInput as exc:
            raise failure(hooks[-1], f"or one before it made an invalid draft: {exc}") from exc
    return drafts


def _is_draft(item: object) -> bool:
    return isinstance(item, Draft)


def _is_id(item: object) -> bool:
    # The id becomes a part of the header Location.
    return isinstance(item, str) and is_id(item)


def _check(drafts: list[Draft], given: dict[int, Draft], resolved: ResolvedQueue, limits: Limits) -> list[Draft]:
    checked = []
    size = 0
    for index, draft in enumerate(drafts):
        if id(draft) not in given:
            draft = _checked(index, draft, limits)
        size += len(draft.body)
        most = resolved.rules.max_messages_post_size
        if size > most:
            raise InvalidInput("messages", f"the bodies have more than {most} bytes")
        checked.append(draft)
    return checked


def _checked(index: int, draft: Draft, limits: Limits) -> Draft:
    place = f"messages[{index}]"
    if not isinstance(draft.body, bytes):
        raise InvalidInput(f"{place}.body", "must be bytes that hold JSON")
    strict_json.decode(draft.body, field=f"{place}.body")
    for name, value, low, high in (
        ("ttl", draft.ttl, MIN_MESSAGE_TTL, limits.max_message_ttl),
        ("delay", draft.delay, 0, limits.max_message_delay),
    ):
        if type(value) is not int:
            raise InvalidInput(f"{place}.{name}", "must be an integer")
        check_range(value, low, high, field=f"{place}.{name}", unit=" seconds")
    return replace(draft, checksum=make_checksum(draft.body) if limits.enable_checksum else None)
