# SPDX-License-Identifier: Apache-2.0
"""The names of the attributes of spans. The HTTP transport, the WebSocket transport and the notifier use them.

They follow the semantic conventions of OpenTelemetry for HTTP (https://opentelemetry.io/docs/specs/semconv/http/) and
for messaging, which are still in development. Names that begin with ``zaqar.`` are of this service. No attribute has a
body, a token, a secret, or the path or query of a URL: the path of a webhook may be a secret.
"""

HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
MESSAGING_SYSTEM = "messaging.system"
OPERATION_TYPE = "messaging.operation.type"
OPERATION_NAME = "messaging.operation.name"
DESTINATION = "messaging.destination.name"
SUBSCRIPTION = "messaging.destination.subscription.name"
MESSAGE_COUNT = "messaging.batch.message_count"
MESSAGE_ID = "messaging.message.id"
PROJECT = "zaqar.project.id"
REQUEST_ID = "zaqar.request.id"
DELIVERY_TRY = "zaqar.delivery.try"
REPLY_STATUS = "zaqar.reply.status"
SUBSCRIBER_SCHEME = "zaqar.subscriber.scheme"

SYSTEM = "zaqar"
"""The value of ``MESSAGING_SYSTEM``."""
