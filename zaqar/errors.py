# SPDX-License-Identifier: Apache-2.0
"""Every error that the service raises on purpose. All layers raise them; transports turn them into answers.

::

    ZaqarError
    |-- ClientError                 the request cannot be served as it is; nothing was changed
    |   |-- InvalidInput      400   a field breaks a rule; names the field
    |   |-- ClaimOver         400   the claim ended, or it does not hold the message
    |   |-- Unauthorized      401   no token, or one that Keystone does not accept
    |   |-- Forbidden         403   the policy refuses, or another client has claimed the message
    |   |   `-- QuotaExceeded       the project, or the queue, has as much as it may have
    |   |-- NotFound          404
    |   |   `-- SignatureRefused    a pre-signed request without a valid signature
    |   |-- NotAcceptable     406
    |   |-- Conflict          409
    |   |   `-- AlreadySubscribed
    |   |-- UnsupportedMedia  415
    |   `-- RateExceeded      429   too many requests or messages in a short time; has the time until a retry
    |-- StoreUnavailable      503   a store does not answer in time; has the time until a retry
    |   |-- CannotEncrypt           the queue is encrypted, and this service has no key
    |   |-- KeystoneUnavailable     Keystone does not answer, and the token of the request is not in the cache
    |   |-- MessageUnreadable       the body of one message cannot be decrypted
    |   |-- MessagesUnreadable      the first messages of a queue, very many of them, cannot be decrypted
    |   |-- NoPool                  no registered pool takes new queues of the flavor
    |   |-- PolicyUnavailable       a policy rule asks a service over HTTP, which does not answer
    |   |-- StageFailed             a stage of a pipeline raised an exception or returned an invalid object
    |   |-- TooBusy                 the process runs too many requests of the project, queue or store
    |   `-- TooManyStreams          the process, or the project in it (429), has as many streams as it may
    |-- AddressRefused              a webhook has an address that the operator does not allow
    |-- StartupError                the process cannot start; one sentence for the operator
    `-- QueueSignal                 between a message store and the service, never seen by a client
        |-- StaleQueue              the cached queue is stale: it does not match the fence of the store
        |-- SealedMessages          a pop found encrypted messages and took nothing
        `-- QueueDropped            the queue was deleted; its row in the management store can be removed

A transport maps ``status`` and ``title`` of a class to its own form in one place, and shows ``str(error)`` as the
description.
"""

from collections.abc import Mapping


class ZaqarError(Exception):
    """The root of the tree."""

    status: int = 500
    title: str = "Internal server error"


class ClientError(ZaqarError):
    """The request cannot be served as it is. Nothing was changed."""

    status = 400
    title = "Bad request"


class InvalidInput(ClientError):
    """A field of the request breaks a rule. ``field`` is its path, such as ``messages[0].ttl``."""

    title = "Invalid input"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class ClaimOver(ClientError):
    """The claim of the request does not hold the message: the claim ended, or the message is not claimed."""

    title = "Invalid claim"


class Unauthorized(ClientError):
    """There is no token, or Keystone does not accept it. ``challenge`` is the value of WWW-Authenticate."""

    status = 401
    title = "Unauthorized"

    def __init__(self, challenge: str) -> None:
        # The same sentence as that of keystonemiddleware, so that clients see no difference.
        super().__init__("The request you have made requires authentication.")
        self.challenge = challenge

    def __reduce__(self) -> tuple[object, ...]:
        return Unauthorized, (self.challenge,)


class Forbidden(ClientError):
    """The policy, or a claim of another client, does not allow the request."""

    status = 403
    title = "Forbidden"


class QuotaExceeded(Forbidden):
    """The project, or one of its queues, has as much as it may have. A retry does not help. The text names the limit.

    ``limit`` is the name of the option.
    """

    title = "Quota exceeded"

    def __init__(self, description: str, *, limit: str) -> None:
        super().__init__(description)
        self.limit = limit


class NotFound(ClientError):
    """The object of the request does not exist."""

    status = 404
    title = "Not found"


class SignatureRefused(NotFound):
    """The signature of a pre-signed request is not valid for this request.

    The client gets the same answer whatever is wrong. ``reason`` is for the log: a few fixed words, without any data of
    the request.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("The signature does not open this.")
        self.reason = reason


class NotAcceptable(ClientError):
    """The server cannot make an answer that the client accepts."""

    status = 406
    title = "Not acceptable"


class Conflict(ClientError):
    """The request conflicts with the state of its object."""

    status = 409
    title = "Conflict"


class AlreadySubscribed(Conflict):
    """The queue has a confirmed subscription with this subscriber."""


class UnsupportedMedia(ClientError):
    """The media type of a body is not accepted. ``accept_patch`` is the accepted one (RFC 5789, section 2.2)."""

    status = 415
    title = "Unsupported media type"

    def __init__(self, description: str, *, accept_patch: str) -> None:
        super().__init__(description)
        self.accept_patch = accept_patch


class RateExceeded(ClientError):
    """The caller has sent too many requests or messages in a short time. The text names the limit.

    ``retry_after`` is in seconds. ``headers`` tell a client over HTTP about the limit.
    """

    status = 429
    title = "Too many requests"

    def __init__(self, description: str, *, retry_after: int, headers: Mapping[str, str]) -> None:
        super().__init__(description)
        self.retry_after = retry_after
        self.headers = headers


class StoreUnavailable(ZaqarError):
    """A store did not answer. ``retry_after`` is in seconds. The cause is for the log and never shown to a client."""

    status = 503
    title = "Service unavailable"

    is_logged = False
    """Whether the outage is already in the log, so that this request adds no line."""

    def __init__(self, *, retry_after: int = 1) -> None:
        super().__init__("The storage backend is not available at the moment. Please try again.")
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        # A process pool pickles the error. The default would call the class with the sentence as its argument.
        return StoreUnavailable, (), {"retry_after": self.retry_after}


class KeystoneUnavailable(StoreUnavailable):
    """Keystone did not say whether a token is valid. The code that asked Keystone has logged the reason.

    ``is_outage``: whether Keystone would not answer about other tokens either.
    """

    is_logged = True

    def __init__(self, *, retry_after: int = 1, is_outage: bool = True) -> None:
        super().__init__(retry_after=retry_after)
        self.args = ("The identity service cannot be asked about the token at the moment. Please try again.",)
        self.is_outage = is_outage

    def __reduce__(self) -> tuple[object, ...]:
        return KeystoneUnavailable, (), {"retry_after": self.retry_after, "is_outage": self.is_outage}


class NoPool(StoreUnavailable):
    """No pool takes new queues of this flavor (None: queues without a flavor). An operator has to register one."""

    def __init__(self, flavor: str | None) -> None:
        super().__init__(retry_after=5)
        kind = "without a flavor" if flavor is None else f"of the flavor '{flavor}'"
        self.args = (f"There is no pool that takes new queues {kind}.",)


class PolicyUnavailable(StoreUnavailable):
    """A policy rule of the kind ``http`` or ``https`` asks a service that does not answer in time."""

    def __init__(self) -> None:
        super().__init__(retry_after=5)
        self.args = ("Whether this is allowed cannot be found out at the moment. Please try again.",)


class StageFailed(StoreUnavailable):
    """A stage failed before the store was called, so nothing was stored. The log names the stage and the reason."""

    is_logged = True

    def __init__(self) -> None:
        super().__init__()
        self.args = ("The request cannot be served at the moment. Please try again.",)


class TooBusy(StoreUnavailable):
    """The process runs as many requests of the project, queue or store as allowed, or all its threads are busy."""

    is_logged = True

    def __init__(self) -> None:
        super().__init__()
        self.args = ("The server is too busy with other requests of this project, queue or store. Try again later.",)


class TooManyStreams(StoreUnavailable):
    """This process, or the project in this process, has as many streams as allowed."""

    is_logged = True

    def __init__(self, *, of_project: bool) -> None:
        super().__init__(retry_after=5)
        self.args = ("This server has as many streams as it may have. Try again later.",)
        if of_project:
            self.status, self.title = 429, "Too many streams"
            self.args = ("The project has as many streams here as it may have. Close one, or try again later.",)


class MessageUnreadable(StoreUnavailable):
    """The body of a message cannot be decrypted. ``reason`` is a sentence that says why.

    The message stays in its queue, because an operator can add the missing key to the configuration.
    """

    is_logged = True

    def __init__(self, message_id: str, reason: str) -> None:
        super().__init__(retry_after=60)
        self.args = (f"{message_id}: {reason}",)


class MessagesUnreadable(StoreUnavailable):
    """Very many of the first messages cannot be decrypted. A retry of the claim or pop continues after them."""

    is_logged = True

    def __init__(self) -> None:
        super().__init__()
        self.args = ("Many of the first messages cannot be decrypted; the next request goes on behind them.",)


class CannotEncrypt(StoreUnavailable):
    """A message has to be encrypted and the service has no key, so nothing is stored. ``reason`` names the option."""

    def __init__(self, reason: str) -> None:
        super().__init__(retry_after=60)
        self.args = (f"The message would have to be stored without encryption: {reason}.",)


class AddressRefused(ZaqarError):
    """A webhook has an address that the operator does not allow. The text says which address."""


class StartupError(ZaqarError):
    """The process cannot start with this configuration. The text is one sentence for the operator."""


class QueueSignal(ZaqarError):
    """A message store tells the service about a queue. ``uid`` is its uid, because a claim may use two queues."""

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid


class StaleQueue(QueueSignal):
    """The fence is absent, a tombstone, or of another generation than the queue that was passed."""


class QueueDropped(QueueSignal):
    """The queue was dropped in this message store. If the management store still has a row of it, the row is stale."""


class SealedMessages(QueueSignal):
    """A pop found encrypted bodies and took nothing: a message is removed only after it could be decrypted."""
