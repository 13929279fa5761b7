# SPDX-License-Identifier: Apache-2.0
"""The stream between notifiers and a WebSocket process: what each side accepts, and that it accepts nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaqar.ipc import push_protocol
from zaqar.ipc.push_protocol import Answered, NodePeer, NotifierPeer, ProtocolError, Push, Status

KEY = b"k" * 32
NODE = "a" * 24


def peers(*, notifier_key: bytes = KEY, notifier_node: str = NODE, most: int = 10_000) -> tuple[NotifierPeer, NodePeer]:
    return NotifierPeer(notifier_key, notifier_node, most=most), NodePeer(KEY, NODE, most=most)


def opened(most: int = 10_000) -> tuple[NotifierPeer, NodePeer]:
    notifier, node = peers(most=most)
    _, challenge = node.feed(notifier.hello())
    _, proof = notifier.feed(challenge)
    assert node.feed(proof) == ([], b"")
    assert notifier.is_open
    assert node.is_open
    return notifier, node


def push(call: int = 1, text: bytes = b"{}") -> Push:
    return Push(call, "c", "q", "s", 7, 0, text)


def test_notifications_and_answers_come_through_in_both_directions() -> None:
    notifier, node = opened()
    sent = [push(1), push(2)]
    payloads, reply = node.feed(notifier.seal(push_protocol.encode(sent)))
    assert [push_protocol.decode_pushes(payload) for payload in payloads] == [sent]
    assert reply == b""
    answers = [Answered(2, Status.PUSHED), Answered(1, Status.WAIT)]
    payloads, _ = notifier.feed(node.seal(push_protocol.encode(answers)))
    assert [push_protocol.decode_answers(payload) for payload in payloads] == [answers]


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(1, 40))
def test_a_stream_may_be_cut_anywhere(payloads: list[bytes], size: int) -> None:
    notifier, node = peers()
    found: list[bytes] = []
    for side, other, first in ((notifier, node, notifier.hello()),):
        reply = b"".join(other.feed(first[at : at + size])[1] for at in range(0, len(first), size))
        proof = b"".join(side.feed(reply[at : at + size])[1] for at in range(0, len(reply), size))
        stream = proof + b"".join(map(side.seal, payloads))
        for at in range(0, len(stream), size):
            found += other.feed(stream[at : at + size])[0]
    assert found == payloads


@pytest.mark.parametrize("wrong", [{"notifier_key": b"x" * 32}, {"notifier_node": "b" * 24}])
def test_a_notifier_with_another_key_or_for_another_node_trusts_this_one_not(wrong: dict[str, object]) -> None:
    notifier, node = peers(**wrong)  # type: ignore[arg-type]
    _, challenge = node.feed(notifier.hello())
    with pytest.raises(ProtocolError):
        notifier.feed(challenge)


def test_a_stranger_who_repeats_an_earlier_proof_is_refused() -> None:
    notifier, node = peers()
    hello = notifier.hello()
    _, challenge = node.feed(hello)
    _, proof = notifier.feed(challenge)
    again = NodePeer(KEY, NODE, most=100)
    again.feed(hello)
    with pytest.raises(ProtocolError):
        again.feed(proof)
    assert not again.is_open


def test_what_one_side_says_is_no_proof_of_the_other_one() -> None:
    """A stranger between them, or opposite one of them, who sends back what he has heard."""
    notifier, node = peers()
    _, challenge = node.feed(notifier.hello())
    with pytest.raises(ProtocolError):
        # The node's proof for the notifier's.
        node.feed(challenge[push_protocol.NONCE_BYTES :])
    notifier, other = peers()
    with pytest.raises(ProtocolError):
        # The notifier's nonce as the node's, and a proof that another node made with it.
        notifier.feed(notifier.hello()[len(push_protocol.MAGIC) :] + other.feed(notifier.hello())[1][32:])
    notifier, node = opened()
    frame = node.seal(b"payload")
    with pytest.raises(ProtocolError):
        node.feed(frame)


@pytest.mark.parametrize(
    "rubbish",
    [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", push_protocol.MAGIC + b"n" * 33, b"zaqarpu2", b"\0" * 100],
)
def test_a_node_drops_whatever_is_not_a_notifier(rubbish: bytes) -> None:
    with pytest.raises(ProtocolError):
        NodePeer(KEY, NODE, most=100).feed(rubbish)


@given(st.data())
def test_a_changed_frame_is_refused(data: st.DataObject) -> None:
    notifier, node = opened()
    frame = bytearray(notifier.seal(b"payload"))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    try:
        payloads, _ = node.feed(bytes(frame))
    except ProtocolError:
        return
    # A length that became greater waits for more.
    assert payloads == []
    assert at < push_protocol.HEADER_BYTES


@pytest.mark.parametrize("order", [(0, 0), (1,), (0, 2)])
def test_a_repeated_or_a_missing_frame_is_refused(order: tuple[int, ...]) -> None:
    notifier, node = opened()
    frames = [notifier.seal(b"%d" % each) for each in range(3)]
    stream = b"".join(frames[each] for each in order)
    with pytest.raises(ProtocolError):
        node.feed(stream)


def test_a_frame_of_one_direction_is_refused_in_the_other_one() -> None:
    notifier, _ = opened()
    with pytest.raises(ProtocolError):
        notifier.feed(notifier.seal(b"payload"))


def test_a_frame_that_is_too_large_is_refused_by_its_header() -> None:
    notifier, node = opened(most=10)
    with pytest.raises(ProtocolError):
        node.feed(notifier.seal(b"x" * 11)[:4])


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x80", b"\x91\x01", b"\x91\x92\x01\xa1x", b"\x91\x92\x01\x09"])
def test_a_payload_of_another_form_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        push_protocol.decode_pushes(payload)
    with pytest.raises(ProtocolError):
        push_protocol.decode_answers(payload)


def test_small_notifications_share_a_frame_and_a_large_one_has_its_own() -> None:
    large = b"x" * push_protocol.BATCH_BYTES
    groups = push_protocol.batches([push(1), push(2), push(3, large), push(4)])
    assert [[each.call for each in group] for group in groups] == [[1, 2], [3], [4]]
