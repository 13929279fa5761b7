# SPDX-License-Identifier: Apache-2.0
"""``[drivers:management_store:redis]``"""

from zaqar.conf.redis import connection_opts

GROUP = "drivers:management_store:redis"

OPTS = connection_opts()
