# SPDX-License-Identifier: Apache-2.0
"""The access rules for subscriptions."""

from oslo_policy import policy

from zaqar.policies.base import ANYBODY, on_both

RULES: list[policy.RuleDefault] = [
    policy.DocumentedRuleDefault(
        "subscription:get_all",
        ANYBODY,
        "List the subscriptions of a queue or topic.",
        on_both("GET", "/subscriptions"),
    ),
    policy.DocumentedRuleDefault(
        "subscription:create",
        ANYBODY,
        "Subscribe to a queue or topic.",
        on_both("POST", "/subscriptions"),
    ),
    policy.DocumentedRuleDefault(
        "subscription:get",
        ANYBODY,
        "Show a subscription.",
        on_both("GET", "/subscriptions/{subscription_id}"),
    ),
    policy.DocumentedRuleDefault(
        "subscription:delete",
        ANYBODY,
        "Delete a subscription.",
        on_both("DELETE", "/subscriptions/{subscription_id}"),
    ),
    policy.DocumentedRuleDefault(
        "subscription:update",
        ANYBODY,
        "Change a subscription.",
        on_both("PATCH", "/subscriptions/{subscription_id}"),
    ),
    policy.DocumentedRuleDefault(
        "subscription:confirm",
        ANYBODY,
        "Confirm a subscription or take the confirmation back.",
        on_both("PUT", "/subscriptions/{subscription_id}/confirm"),
    ),
    policy.DocumentedRuleDefault(
        "subscription:confirm_unsigned",
        ANYBODY,
        "Confirm without the signature that the subscriber was sent; needed besides subscription:confirm. With '!' "
        "only subscribers themselves confirm.",
        on_both("PUT", "/subscriptions/{subscription_id}/confirm"),
    ),
    policy.DocumentedRuleDefault(
        "subscription:rotate_secret",
        ANYBODY,
        "Give a subscription a new secret to sign with, and see it.",
        on_both("POST", "/subscriptions/{subscription_id}/rotate_secret"),
    ),
    policy.DocumentedRuleDefault(
        "subscription:deliveries",
        ANYBODY,
        "See what was, and what is to be, delivered to a subscriber, and how that went.",
        on_both("GET", "/subscriptions/{subscription_id}/deliveries"),
    ),
    policy.DocumentedRuleDefault(
        "subscription:resend",
        ANYBODY,
        "Deliver again.",
        on_both("POST", "/subscriptions/{subscription_id}/deliveries/{delivery_id}/resend")
        + on_both("POST", "/subscriptions/{subscription_id}/resend"),
    ),
]
