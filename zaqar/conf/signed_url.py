# SPDX-License-Identifier: Apache-2.0
"""``[signed_url]``"""

from oslo_config import cfg, types

GROUP = "signed_url"

OPTS = [
    cfg.StrOpt(
        "secret_key",
        secret=True,
        help="Key that signs pre-signed URLs and confirmations, the same on every server, of at least 32 random "
        "characters, such as `openssl rand -hex 32` prints. Whoever knows it can reach the messages of every project. "
        "Unset: POST .../share is refused.",
    ),
    cfg.ListOpt(
        "previous_secret_keys",
        item_type=types.String(quotes=True),
        default=[],
        secret=True,
        help="Keys that sign nothing any more; what they have signed stays valid until it expires. To rotate, move the "
        "value of secret_key here, and remove it when no URL that it signed is needed. Separated by commas; a key that "
        "holds a comma stands in quotes.",
    ),
    cfg.IntOpt(
        "max_expiry",
        min=1,
        help="Seconds for which a pre-signed URL may be valid at most. Unset: any time up to the year 9999, as Heat "
        "asks for.",
    ),
]
