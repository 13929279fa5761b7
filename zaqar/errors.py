# SPDX-License-Identifier: Apache-2.0
"""Every error the service raises on purpose.

::

    ZaqarError
    |-- ClientError                 the request cannot be served as it is; nothing was changed
    |   |-- InvalidInput      400   a field breaks a rule; names the field
    |   |-- ClaimOver         400   a claim id that does not, or no longer, hold the message
    |   |-- Unauthorized      401   no token, or one that Keystone does not accept
    |   |-- Forbidden         403   policy, or a message that somebody else has claimed
    |   |-- NotFound          404
    |   |   `-- SignatureRefused    a pre-signed request that no signature of ours opens
    |   |-- NotAcceptable     406
    |   |-- Conflict          409
    |   |   `-- AlreadySubscribed
    |   `-- UnsupportedMedia  415
    |-- StoreUnavailable      503   a store is away or too slow; carries when to try again
    |   |-- CannotEncrypt           a queue is encrypted, and this service has no key
    |   |-- KeystoneUnavailable     Keystone is, and the token of the request is not one that is known to be valid
    |   |-- MessageUnreadable       the body of one message cannot be decrypted
    |   |-- MessagesUnreadable      nor those of very many, which a claim or pop has to come past
    |   |-- NoPool                  no registered pool takes new queues of the kind that is asked for
    |   |-- PolicyUnavailable       a service that a policy rule asks does not answer
    |   |-- StageFailed             a stage of a pipeline raised or returned something that cannot be served
    |   |-- TooBusy                 the process has too many requests of the project, queue or store under way
    |   `-- TooManyStreams          the process, or the project in it (429), has as many streams as it may
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


class Unauthorized(ClientError):
    """There is no token, or Keystone does not accept it. ``challenge`` is the value of WWW-Authenticate."""

    status = 401
    title = "Unauthorized"

    def __init__(self, challenge: str) -> None:
        # The sentence of keystonemiddleware, so that no client sees a difference.
        super().__init__("The request you have made requires authentication.")
        self.challenge = challenge

    def __reduce__(self) -> tuple[object, ...]:
        return Unauthorized, (self.challenge,)


class Forbidden(ClientError):
    status = 403
    title = "Forbidden"


class NotFound(ClientError):
    status = 404
    title = "Not found"


class SignatureRefused(NotFound):
    """A signature does not open the request that it came with.

    The client gets one and the same answer whatever is wrong. ``reason`` is for the log: a few fixed words, nothing
    that came with the request.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("The signature does not open this.")
        self.reason = reason


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


class KeystoneUnavailable(StoreUnavailable):
    """Keystone did not say whether a token is valid. Whoever asked it has logged why.

    ``is_outage``: whether it would say nothing about another token either.
    """

    is_logged = True

    def __init__(self, *, retry_after: int = 1, is_outage: bool = True) -> None:
        super().__init__(retry_after=retry_after)
        self.args = ("The identity service cannot be asked about the token at the moment. Please try again.",)
        self.is_outage = is_outage

    def __reduce__(self) -> tuple[object, ...]:
        return KeystoneUnavailable, (), {"retry_after": self.retry_after, "is_outage": self.is_outage}


class NoPool(StoreUnavailable):
    """No registered pool takes new queues of this flavor (None: without one); an operator has to register one."""

    def __init__(self, flavor: str | None) -> None:
        super().__init__(retry_after=5)
        kind = "without a flavor" if flavor is None else f"of the flavor '{flavor}'"
        self.args = (f"There is no pool that takes new queues {kind}.",)


class PolicyUnavailable(StoreUnavailable):
    """A policy rule of the kind ``http`` or ``https`` asks a service that does not answer, or too late."""

    def __init__(self) -> None:
        super().__init__(retry_after=5)
        self.args = ("Whether this is allowed cannot be found out at the moment. Please try again.",)


class StageFailed(StoreUnavailable):
    """A stage failed on the way to the store, so nothing was stored. The log says which one and why."""

    is_logged = True

    def __init__(self) -> None:
        super().__init__()
        self.args = ("The request cannot be served at the moment. Please try again.",)


class TooBusy(StoreUnavailable):
    """The process carries out as many requests of the project, queue or store as it may, or all threads are busy."""

    is_logged = True

    def __init__(self) -> None:
        super().__init__()
        self.args = ("The server is too busy with other requests of this project, queue or store. Try again later.",)


class TooManyStreams(StoreUnavailable):
    """This process, or the project in it, has as many streams as it may."""

    is_logged = True

    def __init__(self, *, of_project: bool) -> None:
        super().__init__(retry_after=5)
        self.args = ("This server has as many streams as it may have, or is about to stop. Try again later.",)
        if of_project:
            self.status, self.title = 429, "Too many streams"
            self.args = ("The project has as many streams here as it may have. Close one, or try again later.",)


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
