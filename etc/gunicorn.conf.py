# SPDX-License-Identifier: Apache-2.0
# For gunicorn without zaqar-server:
#
#   ZAQAR_CONFIG_FILE=/etc/zaqar/zaqar.conf gunicorn -c gunicorn.conf.py zaqar.wsgi:application
#
# Also run the sweeper: zaqar-gc --every 60

bind = "127.0.0.1:8888"
workers = 2

# gunicorn's gevent worker, with time limits for clients that send a body slowly or do not read an answer. A worker
# serves other clients while it waits for a slow one, so no proxy is needed against slow clients.
worker_class = "zaqar.cmd.server.gunicorn_worker.BoundedWorker"

# Connections of a worker. 0: as many as [transport] max_waiting_clients and max_streams need.
worker_connections = 0

# Seconds that a client may take to send the headers, and that a connection may be idle.
keepalive = 30
# Seconds for running requests to end after SIGTERM.
graceful_timeout = 8
# A worker that does not respond for so many seconds is killed.
timeout = 60

# gunicorn ignores headers about a proxy, because a client may set them. See [oslo_middleware]
# enable_proxy_headers_parsing instead.
forwarder_headers = ""
secure_scheme_headers = {}

loglevel = "warning"
# accesslog = "-"
