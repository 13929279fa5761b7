# SPDX-License-Identifier: Apache-2.0
"""Who may do what: the rules, and the one place that asks them."""

from __future__ import annotations

import logging
import os

from oslo_config import cfg
from oslo_policy import policy

from zaqar import conf as configuration
from zaqar.context import Context
from zaqar.errors import Forbidden
from zaqar.model import QueueName
from zaqar.policies import base, claims, files, flavors, health, messages, pools, queues, subscriptions, topics
from zaqar.policies.loaded import LoadedPolicy

_log = logging.getLogger(__name__)


def list_rules() -> list[policy.RuleDefault]:
    """Every rule with its default, as oslo.policy's generators ask for them."""
    modules = (base, queues, messages, claims, subscriptions, topics, pools, flavors, health)
    return [rule for module in modules for rule in module.RULES]


class Authorizer:
    """Decides by the rules and the operator's policy files, which are read once, here.

    No decision looks at a file again: one that is being written, or is gone, must neither fail a request nor open the
    defaults. The workers of ``zaqar-server`` read its snapshot of the files instead, so that all have the same rules.
    Raises StartupError if the rules cannot be used.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self.files: files.PolicyFiles
        self._policy: LoadedPolicy
        self.reload(conf)

    def reload(self, conf: cfg.ConfigOpts) -> None:
        """Read the rules anew and use them from now on, all at once; with StartupError the ones in use stay."""
        snapshot = os.environ.get(configuration.POLICY_SNAPSHOT_VARIABLE)
        found = files.read_snapshot(snapshot) if snapshot else files.read(conf)
        loaded = LoadedPolicy(conf, list_rules(), found)
        if not snapshot:
            # The workers of zaqar-server need not repeat what it has said.
            for sentence in loaded.find_warnings(found):
                _log.warning("[oslo_policy] policy_file: %s", sentence)
        # Requests that run meanwhile ask either the old rules or the new ones, with their own remembered decisions.
        self._policy, self.files = loaded, found

    def check(self, context: Context, rule: str, address: QueueName | None = None, **attributes: str) -> None:
        """Return if the rule admits the caller, raise Forbidden if it does not.

        ``address`` is the queue or topic that the request is about, in the caller's project. ``attributes`` are what
        else the target has, such as ``pool_name``. No rule is asked for a signed request: what its signature grants was
        checked when it was made. Raises PolicyUnavailable if a service that the rule asks does not answer.
        """
        loaded = self._policy
        if context.signed or rule in loaded.open:
            return
        if not loaded.admits(context, rule, address, attributes):
            raise Forbidden(f"The policy does not allow this: {rule}")

    def asks_for(self, rule: str, name: str) -> bool:
        """Whether the decision by ``rule`` can depend on the attribute ``name`` of the target.

        If not, a caller of :meth:`check` need not look it up.
        """
        return self._policy.asks_for(rule, name)


def make_enforcer() -> policy.Enforcer:
    """What the tools of oslo.policy work with: the rules, and the policy files that the configuration names.

    The tools have read their own ``--config-file`` into ``cfg.CONF``; without one, ``zaqar.conf`` is read from where
    the service reads it.
    """
    tool = cfg.CONF
    given = {option: tool[option] for option in ("config_file", "config_dir") if option in tool}
    conf = configuration.load([f"--{option.replace('_', '-')}={path}" for option in given for path in given[option]])
    enforcer = policy.Enforcer(tool)
    for option in ("policy_default_rule", "enforce_new_defaults"):
        tool.set_override(option, conf.oslo_policy[option], "oslo_policy")
    # oslopolicy-validator opens the file as it is named, from its working directory.
    enforcer.policy_file = configuration.policy_file(conf) or conf.oslo_policy.policy_file
    tool.set_override("policy_file", enforcer.policy_file, "oslo_policy")
    folders = (conf.find_file(name) for name in conf.oslo_policy.policy_dirs)
    tool.set_override("policy_dirs", [folder for folder in folders if folder is not None], "oslo_policy")
    enforcer.register_defaults(list_rules())
    return enforcer
