# SPDX-License-Identifier: Apache-2.0
# For gunicorn without zaqar-server:
#
#   ZAQAR_CONFIG_FILE=/etc/zaqar/zaqar.conf gunicorn -c gunicorn.conf.py zaqar.wsgi:application
#
# The sweeper has to be run beside it: zaqar-gc --every 60

bind = "127.0.0.1:8888"
workers = 2

# gevent's worker, with an end to bodies that trickle in and answers that are not read. A worker that waits for one slow
# client goes on serving the others, so no proxy has to stand in front for that.
worker_class = "zaqar.cmd.server.gunicorn_worker.BoundedWorker"

# Connections of a worker. 0: as many as [transport] max_waiting_clients and max_streams need.
worker_connections = 0

# Seconds. How long a client may take to send the headers, and may leave a connection unused.
keepalive = 30
# How long running requests have to end after SIGTERM.
graceful_timeout = 8
# A worker that does not come round for so long is killed.
timeout = 60

# What a client says about a proxy. See [oslo_middleware] enable_proxy_headers_parsing instead.
forwarder_headers = ""
secure_scheme_headers = {}

loglevel = "warning"
# accesslog = "-"
