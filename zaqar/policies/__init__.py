# SPDX-License-Identifier: Apache-2.0
"""Access rules: their defaults, and the :class:`Authorizer`, which the transports call for every request."""

from __future__ import annotations

import logging
import os

from oslo_config import cfg
from oslo_policy import policy

from zaqar import conf as configuration
from zaqar.context import Context
from zaqar.errors import Forbidden
from zaqar.model import QueueName
from zaqar.policies import (
    base,
    claims,
    files,
    flavors,
    health,
    limits,
    messages,
    pools,
    queues,
    subscriptions,
    topics,
)
from zaqar.policies.loaded import LoadedPolicy

_log = logging.getLogger(__name__)


def list_rules() -> list[policy.RuleDefault]:
    """Return every rule with its default. The generators of oslo.policy call it by an entry point."""
    modules = (base, queues, messages, claims, subscriptions, topics, pools, flavors, health, limits)
    return [rule for module in modules for rule in module.RULES]


class Authorizer:
    """Decides by the default rules and the operator's policy files, which it reads once.

    No decision reads a file again: a file that is being written, or that is gone, must neither fail a request nor make
    the open defaults apply. The workers of ``zaqar-server`` read its snapshot of the files instead, so that all of them
    have the same rules. Raises StartupError if the rules cannot be used.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self.files: files.PolicyFiles
        self._policy: LoadedPolicy
        self.reload(conf)

    def reload(self, conf: cfg.ConfigOpts) -> None:
        """Read the rules again and switch to them at once. If it raises StartupError, the current rules stay in use."""
        snapshot = os.environ.get(configuration.POLICY_SNAPSHOT_VARIABLE)
        found = files.read_snapshot(snapshot) if snapshot else files.read(conf)
        loaded = LoadedPolicy(conf, list_rules(), found)
        if not snapshot:
            # zaqar-server itself has logged the warnings, so its workers do not repeat them.
            for sentence in loaded.find_warnings(found):
                _log.warning("[oslo_policy] policy_file: %s", sentence)
        # A request that runs meanwhile uses either the old or the new object, each with its own cached decisions.
        self._policy, self.files = loaded, found

    def check(self, context: Context, rule: str, queue_name: QueueName | None = None, **attributes: str) -> None:
        """Raise Forbidden unless the rule admits the caller.

        ``queue_name`` is the queue or topic of the request, in the caller's project. ``attributes`` are the other
        attributes of the target, such as ``pool_name``. A signed request is always admitted: the rules were checked
        when its signature was made. Raises PolicyUnavailable if the rule asks a service that does not answer.
        """
        loaded = self._policy
        if context.signed or rule in loaded.open:
            return
        if not loaded.admits(context, rule, queue_name, attributes):
            raise Forbidden(f"The policy does not allow this: {rule}")

    def asks_for(self, rule: str, name: str) -> bool:
        """Whether the decision by ``rule`` can depend on the attribute ``name`` of the target.

        If not, a caller of :meth:`check` does not have to look the attribute up.
        """
        return self._policy.asks_for(rule, name)


def make_enforcer() -> policy.Enforcer:
    """Make the enforcer for the tools of oslo.policy, with our rules and the policy files of the configuration.

    The tools have read their own ``--config-file`` into ``cfg.CONF``. Without one, ``zaqar.conf`` is read from the same
    places as by the service.
    """
    tool = cfg.CONF
    given = {option: tool[option] for option in ("config_file", "config_dir") if option in tool}
    conf = configuration.load([f"--{option.replace('_', '-')}={path}" for option in given for path in given[option]])
    enforcer = policy.Enforcer(tool)
    for option in ("policy_default_rule", "enforce_new_defaults"):
        tool.set_override(option, conf.oslo_policy[option], "oslo_policy")
    # oslopolicy-validator opens the file relative to its working directory.
    enforcer.policy_file = configuration.policy_file(conf) or conf.oslo_policy.policy_file
    tool.set_override("policy_file", enforcer.policy_file, "oslo_policy")
    folders = (conf.find_file(name) for name in conf.oslo_policy.policy_dirs)
    tool.set_override("policy_dirs", [folder for folder in folders if folder is not None], "oslo_policy")
    enforcer.register_defaults(list_rules())
    return enforcer
