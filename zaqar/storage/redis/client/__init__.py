# SPDX-License-Identifier: Apache-2.0
"""How the driver talks to Redis. The parts call ``client.commands`` and load their scripts with ``client.scripts``.

::

    commands --> server, cluster --> pool --> connection --> redis-py, hiredis

redis-py opens connections. It does not find masters, because its Sentinel client asks for ``SENTINEL MASTERS`` and its
Cluster client for ``COMMAND``. Both need more rights than this driver asks operators for. Both also keep pools of their
own, so the number of connections would have no bound. ``client.server`` and ``client.cluster`` send one command each.
"""
