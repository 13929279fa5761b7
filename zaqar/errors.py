# SPDX-License-Identifier: Apache-2.0
"""Every error the service raises on purpose.

::

    ZaqarError
    |-- ClientError                 the request cannot be served as it is; nothing was changed
    |   |-- InvalidInput      400   a field breaks a rule; names the field
    |   |-- ClaimOver         400   a claim id that does not, or no longer, hold the message
    |   |-- Forbidden         403   policy, or a message that somebody else has claimed
    |   |-- NotFound          404
    |   |-- NotAcceptable     406
    |   |-- Conflict          409
    |   |   `-- AlreadySubscribed
    |   `-- UnsupportedMedia  415
    |-- StoreUnavailable      503   a store is away or too slow; carries when to try again
    |   |-- NoPool                  no registered pool takes new queues of the kind that is asked for
    |   |-- MessageUnreadable       the body of one message cannot be decrypted
    |   |-- MessagesUnreadable      nor those of very many, which a claim or pop has to come past
    |   `-- CannotEncrypt           a queue is encrypted, and this service has no key
    |-- AddressRefused              a webhook leads to an address that the operator does not allow
    |-- StartupError                the process cannot start; one sentence for the operator
    `-- QueueSignal                 between a message store and the service, never seen by a client
        |-- StaleQueue              the cached queue is not the one the store knows
        |-- SealedMessages          a pop met encrypted messages and took nothing
        `-- QueueDropped            the queue was deleted; its row is a left-over

A transport maps ``status`` and ``title`` of a class to its own form, once, and shows ``str(error)`` as the description.
"""


class ZaqarError(Exception):
    """The root of the tree."""

    status: int = 500
    title: str = "Internal server error"


class ClientError(ZaqarError):
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
    """A claim id was given that does not hold the message, because the claim ended or the message is not claimed."""

    title = "Invalid claim"


class Forbidden(ClientError):
    status = 403
    title = "Forbidden"


class NotFound(ClientError):
    status = 404
    title = "Not found"


class NotAcceptable(ClientError):
    status = 406
    title = "Not acceptable"


class Conflict(ClientError):
    status = 409
    title = "Conflict"


class AlreadySubscribed(Conflict):
    """The queue has a confirmed subscription with this subscriber."""


class UnsupportedMedia(ClientError):
    """The media type of a body is not served; ``accept_patch`` is the one that is (RFC 5789, section 2.2)."""

    status = 415
    title = "Unsupported media type"

    def __init__(self, description: str, *, accept_patch: str) -> None:
        super().__init__(description)
        self.accept_patch = accept_patch


class StoreUnavailable(ZaqarError):
    """A store did not answer. ``retry_after`` is in seconds. The cause is for the log, never for a client."""

    status = 503
    title = "Service unavailable"

    is_logged = False
    """Whether the log has the outage already, so that it need not say more about this one request."""

    def __init__(self, *, retry_after: int = 1) -> None:
        super().__init__("The storage backend is not available at the moment. Please try again.")
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        # What a process pool hands on from a child; the default would call the class with the sentence.
        return StoreUnavailable, (), {"retry_after": self.retry_after}


class NoPool(StoreUnavailable):
    """No registered pool takes new queues of this flavor (None: without one); an operator has to register one."""

    def __init__(self, flavor: str | None) -> None:
        super().__init__(retry_after=5)
        kind = "without a flavor" if flavor is None else f"of the flavor '{flavor}'"
        self.args = (f"There is no pool that takes new queues {kind}.",)


class MessageUnreadable(StoreUnavailable):
    """The body of a message cannot be decrypted, and ``reason`` is a sentence that says why.

    It stays where it is, as an operator can bring the key back.
    """

    is_logged = True

    def __init__(self, message_id: str, reason: str) -> None:
        super().__init__(retry_after=60)
        self.args = (f"{message_id}: {reason}",)


class MessagesUnreadable(StoreUnavailable):
    """So many of the first messages cannot be decrypted that the next claim or pop has to go on behind them."""

    is_logged = True

    def __init__(self) -> None:
        super().__init__()
        self.args = ("Many of the first messages cannot be decrypted; the next request goes on behind them.",)


class CannotEncrypt(StoreUnavailable):
    """A message is to be encrypted and the service has no key; nothing is stored. ``reason`` names the option."""

    def __init__(self, reason: str) -> None:
        super().__init__(retry_after=60)
        self.args = (f"The message would have to be stored without encryption: {reason}.",)


class AddressRefused(ZaqarError):
    """A webhook leads to an address that the operator does not allow; the text says which."""


class StartupError(ZaqarError):
    """The process cannot start as configured; the text is one sentence for the operator."""


class QueueSignal(ZaqarError):
    """What a message store tells the service about a queue. ``uid`` says which, as a claim may involve two."""

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid


class StaleQueue(QueueSignal):
    """The fence is absent, tombstoned or of another generation than the queue that was passed."""


class QueueDropped(QueueSignal):
    """The queue was dropped in this message store; its management row, if there is one, is a left-over."""


class SealedMessages(QueueSignal):
    """A pop met messages whose bodies are encrypted, and has taken nothing: somebody has to be able to read them."""
