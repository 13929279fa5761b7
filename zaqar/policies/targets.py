# SPDX-License-Identifier: Apache-2.0
"""The attributes of the target of a request, which a rule names as ``%(name)s`` on the right side of a check.

``loaded.py`` uses it to warn of names that do not exist.
"""

from __future__ import annotations

ALWAYS = frozenset({"project_id", "tenant_id", "user_id"})
"""These have the values of the caller, because a caller never reaches objects of another project."""

_NAMED = {
    "queues": {"queue_name", "kind"},
    "topics": {"topic_name", "kind"},
    "messages": {"queue_name", "topic_name", "kind"},
    "claims": {"queue_name", "kind"},
    "subscription": {"queue_name", "topic_name", "kind", "scheme"},
    "pools": {"pool_name"},
    "flavors": {"flavor_name"},
}
_OF_LISTS = {"queues": {"kind"}, "topics": {"kind"}, "pools": set[str](), "flavors": set[str]()}
_LOOKED_UP = "scheme"


def target_names(rule: str) -> frozenset[str]:
    """Return the attributes of the target of a rule. ``scheme`` is looked up only if the rule uses it."""
    group, _, action = rule.partition(":")
    if action != "get_all":
        return ALWAYS | _NAMED.get(group, set())
    return ALWAYS | _OF_LISTS.get(group, _NAMED.get(group, set()) - {_LOOKED_UP})
