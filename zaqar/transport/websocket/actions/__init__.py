# SPDX-License-Identifier: Apache-2.0
"""The table of actions, one module for each noun.

Each module has a tuple ``ACTIONS``. :data:`ACTIONS` here has them all by name: the session, the reference documentation
and the AsyncAPI document read it.
"""

from __future__ import annotations

from collections.abc import Mapping

from zaqar.transport.websocket.action import Action
from zaqar.transport.websocket.actions.claims import ACTIONS as CLAIMS
from zaqar.transport.websocket.actions.flavors import ACTIONS as FLAVORS
from zaqar.transport.websocket.actions.messages import ACTIONS as MESSAGES
from zaqar.transport.websocket.actions.pools import ACTIONS as POOLS
from zaqar.transport.websocket.actions.queues import ACTIONS as QUEUES
from zaqar.transport.websocket.actions.service import ACTIONS as SERVICE
from zaqar.transport.websocket.actions.streams import ACTIONS as STREAMS
from zaqar.transport.websocket.actions.subscriptions import ACTIONS as SUBSCRIPTIONS

_TABLES = (
    QUEUES,
    MESSAGES,
    CLAIMS,
    STREAMS,
    SUBSCRIPTIONS,
    POOLS,
    FLAVORS,
    SERVICE,
)

ACTIONS: Mapping[str, Action] = {action.name: action for table in _TABLES for action in table}
