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
    cfg.IntOpt(
        "max_wait",
        default=20,
        min=0,
        max=20,
        help="Longest time that a request may wait for messages, in seconds; 0 switches waiting off.",
    ),
    cfg.IntOpt(
        "max_waiting_clients",
        default=2000,
        min=0,
        help="Most requests that wait for messages in one process. A further one is answered at once.",
    ),
    cfg.IntOpt(
        "max_waiting_clients_per_project", default=500, min=0, help="How many of them may be of the same project."
    ),
    cfg.IntOpt("max_streams", default=5000, min=0, help="Most streams of messages that one process serves."),
    cfg.IntOpt("max_streams_per_project", default=500, min=0, help="How many of them may be of the same project."),
    cfg.BoolOpt(
        "message_delete_with_claim_id",
        default=False,
        help="Whether a message can be deleted only with the id of the claim that holds it.",
    ),
    cfg.StrOpt(
        "message_encryption_algorithms",
        default="AES256",
        help="How bodies of encrypted queues are encrypted. AES256, which is AES-256-GCM, is all there is.",
    ),
    cfg.StrOpt(
        "message_encryption_key",
        secret=True,
        help="The key that bodies of encrypted queues are encrypted with: 'base64:' or 'hex:' and 32 random bytes, or "
        "any other text, whose SHA-256 is the key. 'openssl rand -base64 32' makes one. Without a key, or with the "
        "text AES256, which was the default of earlier releases, no queue can be encrypted.",
    ),
    cfg.ListOpt(
        "message_encryption_old_keys",
        default=[],
        secret=True,
        help="Keys that are only used to read what was encrypted with them, in the same forms.",
    ),
    cfg.StrOpt(
        "message_encryption_key_file",
        help="A file with one key in each line, in the same forms, the newest first; its group may read it, and "
        "others may not. If message_encryption_key is set too, that one is newer than all of them.",
    ),
    cfg.ListOpt(
        "message_encryption_key_ids",
        default=[],
        help="Ids of keys in the key manager that [key_manager] configures (Castellan, such as for Barbican), the "
        "newest first. They are read at start and at SIGHUP, and are older than the keys of the options above.",
    ),
]
