# SPDX-License-Identifier: Apache-2.0
"""Metrics: counted by every process of the service, shown together to Prometheus.

::

    API worker, WebSocket, notifier, sweeper            exporter (in one process of the host)
        Recorder --> cells of the process   --read-->   Collector --> prometheus_client --> GET /metrics
                     STATE/metrics/*.cells              retired.json: what ended processes have counted

- ``families`` has the name, type, labels and help of each metric.
- ``recorder`` counts. It is on the hot path: a count is an addition to a number in shared memory.
- ``zaqar.storage.observed`` counts at the one place where every call of a store passes, and
  ``zaqar.transport.wsgi.request_observer`` counts the requests of HTTP.
- ``cells`` is the file of one process. It outlives the process, so that nothing that a killed process has counted is
  lost.
"""
