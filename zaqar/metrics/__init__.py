# SPDX-License-Identifier: Apache-2.0
"""Metrics: counted by every process of the service, shown together to Prometheus.

::

    API worker, WebSocket, notifier, sweeper            exporter (in one process of the host)
        Recorder --> cells of the process   --read-->   Collector --> prometheus_client --> GET /metrics
                     STATE/metrics/*.cells              retired.json: what ended processes have counted

- ``families`` has the name, type, labels and help of each metric that is counted, ``asked_families`` of the others.
- ``recorder`` counts. It is on the hot path: a count is an addition to a number in shared memory.
- ``zaqar.storage.observed`` counts at the one place where every call of a store passes, and
  ``zaqar.transport.wsgi.request_observer`` counts the requests of HTTP.
- ``cells`` is the file of one process. It outlives the process, so that nothing that a killed process has counted is
  lost. ``retirement`` merges the files of processes that are over, and adds up all of them.
- ``exporter`` is the HTTP server, in one process of the host, and ``pages`` what it shows: ``collector`` the numbers of
  the host, with ``processes``, and ``store_collectors`` those of stores and queues. ``shown`` gives them to
  prometheus_client, which makes the formats. API workers load none of these.
"""
