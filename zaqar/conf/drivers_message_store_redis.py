# SPDX-License-Identifier: Apache-2.0
"""``[drivers:message_store:redis]``"""

from zaqar.conf.redis import connection_opts

GROUP = "drivers:message_store:redis"

OPTS = connection_opts()
