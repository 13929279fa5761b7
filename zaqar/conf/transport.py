# SPDX-License-Identifier: Apache-2.0
"""``[transport]``: the limits and defaults of requests, of every transport."""

from oslo_config import cfg

GROUP = "transport"

OPTS = [
    cfg.IntOpt("default_message_ttl", default=3600, help="TTL of a message that names none, in seconds."),
    cfg.IntOpt("default_message_delay", default=0, help="Delay of a message that names none, in seconds."),
    cfg.IntOpt("default_claim_ttl", default=300, help="TTL of a claim that names none, in seconds."),
    cfg.IntOpt("default_claim_grace", default=60, help="Grace of a claim that names none, in seconds."),
    cfg.IntOpt("default_subscription_ttl", default=3600, help="TTL of a subscription that names none, in seconds."),
    cfg.IntOpt("max_queues_per_page", default=20, min=1, help="Most queues of one page."),
    cfg.IntOpt("max_messages_per_page", default=20, min=1, help="Most messages of one page, or ids of one request."),
    cfg.IntOpt("max_subscriptions_per_page", default=20, min=1, help="Most subscriptions of one page."),
    cfg.IntOpt("max_messages_per_claim_or_pop", default=20, min=1, help="Most messages of one claim or one pop."),
    cfg.IntOpt("max_queue_metadata", default=65536, min=1, help="Most bytes of the metadata of a queue, as JSON."),
    cfg.IntOpt("max_messages_post_size", default=262144, min=1, help="Most bytes of one request that posts messages."),
    cfg.IntOpt("max_message_ttl", default=1209600, help="Longest TTL of a message, in seconds."),
    cfg.IntOpt("max_message_delay", default=900, help="Longest delay of a message, in seconds."),
    cfg.IntOpt("max_claim_ttl", default=43200, help="Longest TTL of a claim, in seconds."),
    cfg.IntOpt("max_claim_grace", default=43200, help="Longest grace of a claim, in seconds."),
    cfg.ListOpt(
        "subscriber_types",
        default=["http", "https", "mailto", "trust+http", "trust+https"],
        help="URI schemes that a subscriber may have.",
    ),
    cfg.IntOpt("max_flavors_per_page", default=20, min=1, help="Most flavors of one page."),
    cfg.IntOpt("max_pools_per_page", default=20, min=1, help="Most pools of one page."),
    cfg.StrOpt(
        "client_id_uuid_safe",
        default="strict",
        choices=["strict", "off"],
        help="Whether a Client-ID has to be a UUID (strict) or any text of an allowed length (off).",
    ),
    cfg.IntOpt("min_length_client_id", default=10, help="Fewest characters of a Client-ID that need not be a UUID."),
    cfg.IntOpt("max_length_client_id", default=36, help="Most characters of a Client-ID that need not be a UUID."),
    cfg.BoolOpt(
        "message_delete_with_claim_id",
        default=False,
        help="Whether a message can be deleted only with the id of the claim that holds it.",
    ),
    cfg.StrOpt(
        "message_encryption_algorithms", default="AES256", help="How bodies of encrypting queues are encrypted."
    ),
    cfg.StrOpt(
        "message_encryption_key", default="AES256", secret=True, help="What the key of message encryption is made from."
    ),
]
