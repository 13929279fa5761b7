# SPDX-License-Identifier: Apache-2.0
"""Streams that run their opening through ``message_pipeline``, like a listing of messages."""

from __future__ import annotations

from typing import Any

from zaqar.context import Context
from zaqar.errors import NotAcceptable
from zaqar.model import QueueName
from zaqar.service.streams import Stream, Streams
from zaqar.stages.base import Done
from zaqar.stages.operations import ListMessages
from zaqar.stages.pipeline import Changed, Pipeline


class StagedStreams(Streams):
    """The ``before_`` hooks are called once for each stream; the ``after_`` hooks see each batch of its messages."""

    def __init__(self, *, pipeline: Pipeline, **parts: Any) -> None:
        """``parts`` are the parameters of :class:`Streams`."""
        super().__init__(**parts)
        self._pipeline = pipeline

    def open(
        self, context: Context, queue_name: QueueName, *, marker: str | None, from_start: bool, echo: bool, version: int
    ) -> Stream:
        request = ListMessages(queue_name, marker, self.most, echo, include_claimed=True, include_delayed=True)
        wanted = self._pipeline.run_before(context, request)
        if isinstance(wanted, Done):
            # The result of a stage is a page without a position from which a stream could continue.
            raise NotAcceptable("Accept: a stage answers for these messages, so they can be listed, but not followed.")

        def begin(changed: Changed[ListMessages]) -> Stream:
            return super(StagedStreams, self).open(
                context,
                queue_name,
                marker=changed.request.marker,
                from_start=from_start,
                echo=bool(changed.request.echo),
                version=version,
            )

        stream = self._pipeline.serve(wanted, begin)
        stream.on_batch = lambda messages: self._pipeline.run_after(context, wanted.request, messages)
        return stream
