# SPDX-License-Identifier: Apache-2.0
"""Hosts that webhooks may have: all spellings of addresses that are not public are refused, and public ones pass."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.schemas.refusals import refusal_of
from zaqar.errors import AddressRefused, InvalidInput
from zaqar.notification.webhook_targets import LONGEST_URL, WebhookTargetPolicy, look_up

NAMES = {
    "public.example": ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"],
    "loopback.example": ["127.0.0.1"],
    "loopback6.example": ["::1"],
    "mixed.example": ["93.184.215.14", "10.0.0.1"],
    "private.example": ["192.168.1.1"],
    "metadata.example": ["169.254.169.254"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "zone.example": ["fe80::1%eth0"],
    "odd.example": ["127.1"],
    "localhost": ["127.0.0.1", "::1"],
}


def resolve(name: str) -> Sequence[str]:
    try:
        return NAMES[name.removesuffix(".").lower()]
    except KeyError as exc:
        raise OSError("no such name") from exc


def target_policy(*allowed: str) -> WebhookTargetPolicy:
    return WebhookTargetPolicy(allowed, resolver=resolve)


def words(text: str) -> list[str]:
    return text.split()


REFUSED_ADDRESSES = words("""
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254
    169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1
    168.63.129.16 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1
    255.255.255.255
    :: ::1 ::2 ::7f00:1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:a9fe:a9fe ::ffff:10.0.0.1
    ::ffff:0:127.0.0.1 0:0:0:0:0:ffff:127.0.0.1 64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b::10.0.0.1
    64:ff9b:1::8.8.8.8 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1 2001:10::1 2001:20::1
    2002:7f00:1:: 2002:a9fe:a9fe::1 2002:808:808:: 2600::5efe:7f00:1 2600::200:5efe:a00:1 3fff::1 4000::1 5f00::1
    fc00::1 fd00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1 ff0e::1
""")

REFUSED_HOSTS = words("""
    2130706433 017700000001 0x7f000001 0x7F.1 0x7f.0x0.0x0.0x1 0177.0.0.1 0177.0.0.01 127.1 127.0.1 127.0.0.1.
    127.0.0.01 00127.0.0.1 1.2.3 256.256.256.256 127.0.0.256 0 0x0 1.1.1.1. 08.8.8.8 8.8.8.010 999999999999 127.0.0.1..
    4294967295 134744072 0x08080808
    localhost localhost. LOCALHOST LocalHost. loopback.example LOOPBACK.example. loopback6.example mixed.example
    private.example metadata.example mapped.example zone.example odd.example
    a..b .example -a.example a-.example a.-b.example . .. example..
    %31%32%37.0.0.1 127.0.0.1%2f 127%2e0%2e0%2e1 localhost%00.example.org %6c%6f%63%61%6c%68%6f%73%74
    127.0.0.1%00 127。0。0。1 \uff11\uff12\uff17.0.0.1 ⑫7.0.0.1 ⓛⓞⓒⓐⓛⓗⓞⓢⓣ 127.0.0.1\u200b l\u043ecalhost bücher.example
    [127.0.0.1] [::1%25lo] [::1%lo] [fe80::1%251] [v1.x] [::ffff:127.1] [::1 ::1] [[::1]] []
    ::1 fe80::1 ::ffff:127.0.0.1
    [::1].example.org [::1]example
""")

REFUSED_URLS = [
    "http://good.example@127.0.0.1/",
    "http://public.example:80@127.0.0.1/",
    "http://public.example%40127.0.0.1/",
    "http://public.example@public.example@127.0.0.1/",
    "http://127.0.0.1:80@public.example@127.0.0.1/",
    "http://public.example#@127.0.0.1@x/\\",
    "http://127.0.0.1\\@public.example/",
    "http://public.example\\@127.0.0.1/",
    "http:\\\\127.0.0.1/",
    "http:/127.0.0.1/",
    "http:127.0.0.1",
    "http:///127.0.0.1/",
    "http://",
    "//127.0.0.1/",
    "127.0.0.1",
    "",
    "http://127.0.0.1\t/",
    "ht\ttp://127.0.0.1/",
    "http://public.example\n.loopback.example/",
    "http://public.example/\r\nHost: x",
    "http://public.example/ HTTP/1.1",
    "http://public.example/\x00",
    " http://public.example/",
    "http://public.example/\n",
    "http://public.example:0/",
    "http://public.example:65536/",
    "http://public.example:80:90/",
    "http://public.example:/",
    "http://public.example:\uff18\uff10/",
    "http://public.example:+80/",
    "http://public.example/ü",
    "ftp://public.example/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:25/x",
    "unix://x",
    "http+unix://%2Frun%2Fx.sock/",
    "trust+trust+http://public.example/",
    "trust+http://127.0.0.1:5000/v3",
    "trust+https://localhost/",
    "HTTP://LOOPBACK.EXAMPLE/",
    "http://public.example/" + "a" * LONGEST_URL,
    f"http://{'a' * 64}.example/",
    f"http://{'a.' * 126}toolong/",
]

ACCEPTED_URLS = [
    "http://public.example",
    "http://public.example/",
    "https://public.example:8443/a/b?c=d&e=%2F#f",
    "HTTPS://Public.Example./",
    "http://user:pass@public.example/",
    "http://127.0.0.1@public.example/",
    "http://public.example?a={b}|c",
    'http://public.example/[x]"<>`^',
    "http://xn--bcher-kva.example/",
    "http://under_score.public-unknown.example/",
    "http://not.resolved.example/",
    "http://intranet/",
    "http://8.8.8.8/",
    "http://1.1.1.1:80/",
    "https://[2606:4700:4700::1111]/",
    "https://[2606:4700:4700:0:0:0:0:1111]:443/x",
    "http://[2A00:1450:4001::200e]/",
    "http://[::ffff:8.8.8.8]/",
    "http://[64:ff9b::808:808]/",
    "trust+http://public.example/v2",
    "trust+https://public.example/v2",
    "http://0x7f.example/",
    "http://1e100.example/",
    "http://127.0.0.1.example/",
]


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def test_there_are_many_spellings() -> None:
    assert len(REFUSED_ADDRESSES) + len(REFUSED_HOSTS) + len(REFUSED_URLS) > 160


@pytest.mark.parametrize("address", REFUSED_ADDRESSES)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused):
        target_policy().check(address)
    for url in (f"http://{bracketed(address)}/", f"https://user:pw@{bracketed(address)}:443/x?y#z"):
        with pytest.raises(InvalidInput, match=r"^subscriber: "):
            target_policy().check_url(url, field="subscriber")
    with pytest.raises(AddressRefused):
        target_policy().addresses_of(bracketed(address))
    with pytest.raises(AddressRefused):
        WebhookTargetPolicy([], resolver=lambda _: ["8.8.8.8", address]).addresses_of("public.example")


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_an_odd_spelling_is_refused(host: str) -> None:
    for url in (f"http://{host}/", f"http://{host}:8080/x", f"trust+https://a:b@{host}", f"http://{host}?x"):
        with pytest.raises(InvalidInput, match=r"^subscriber: "):
            target_policy().check_url(url, field="subscriber")
    with pytest.raises((AddressRefused, OSError)):
        target_policy().addresses_of(host)


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_trick_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        target_policy().check_url(url, field="options.url")
    assert caught.value.field == "options.url"


@pytest.mark.parametrize("url", ACCEPTED_URLS)
def test_public_hosts_pass(url: str) -> None:
    target_policy().check_url(url, field="subscriber")


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a00::1"])
def test_a_public_address_passes(address: str) -> None:
    target_policy().check(address)
    assert target_policy().addresses_of(bracketed(address)) == [address]


def test_the_refusal_does_not_tell_the_address_of_a_name() -> None:
    with pytest.raises(InvalidInput) as caught:
        target_policy().check_url("http://private.example/", field="subscriber")
    assert "192.168" not in str(caught.value)
    assert "webhook_allowed_networks" in str(caught.value)


@pytest.mark.parametrize(
    ("allowed", "address", "passes"),
    [
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.0/8", "::ffff:127.0.0.1", True),
        ("127.0.0.0/8", "64:ff9b::127.0.0.1", True),
        ("127.0.0.0/8", "::1", False),
        ("127.0.0.0/8", "::127.0.0.1", False),
        ("127.0.0.0/8", "2002:7f00:1::", False),
        ("127.0.0.0/8", "10.0.0.1", False),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "10.2.0.0", False),
        ("fd00::/8", "fd12::1", True),
        ("fd00::/8", "fe80::1", False),
        ("169.254.169.254/32", "169.254.169.254", True),
        ("0.0.0.0/0", "::1", False),
    ],
)
def test_the_operator_can_allow_networks(allowed: str, address: str, passes: bool) -> None:
    if passes:
        target_policy(allowed).check(address)
        target_policy(allowed).check_url(f"http://{bracketed(address)}:8080/", field="subscriber")
        return
    with pytest.raises(AddressRefused):
        target_policy(allowed).check(address)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "[::ffff:127.1]"])
def test_an_allowed_address_has_one_spelling_too(host: str) -> None:
    with pytest.raises(InvalidInput):
        target_policy("127.0.0.0/8", "0.0.0.0/0", "::/0").check_url(f"http://{host}/", field="subscriber")


def test_all_addresses_of_a_name_have_to_be_allowed() -> None:
    with pytest.raises(InvalidInput):
        target_policy("127.0.0.0/8").check_url("http://localhost/", field="subscriber")
    target_policy("127.0.0.0/8", "::1/128").check_url("http://localhost/", field="subscriber")
    assert target_policy("10.0.0.0/8").addresses_of("mixed.example") == ["93.184.215.14", "10.0.0.1"]


def test_a_name_whose_address_changes_later_is_refused_then() -> None:
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])
    rebound = WebhookTargetPolicy([], resolver=lambda _: next(answers))
    rebound.check_url("http://rebinding.example/", field="subscriber")
    with pytest.raises(AddressRefused):
        rebound.addresses_of("rebinding.example")


def test_a_name_without_addresses_is_no_address() -> None:
    with pytest.raises(OSError, match="has no address"):
        WebhookTargetPolicy([], resolver=lambda _: []).addresses_of("empty.example")


def test_a_name_server_that_hangs_delays_a_caller_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.notification.webhook_targets.LOOK_UP_SECONDS", 0.01)
    answered, asked = threading.Event(), []

    def hang(name: str) -> list[str]:
        asked.append(name)
        answered.wait(60)
        return ["127.0.0.1"]

    slow = WebhookTargetPolicy([], resolver=hang)
    for _ in range(20):
        slow.check_url("http://slow.example/", field="subscriber")
    # The threads that hang are few.
    assert len(asked) <= 8
    answered.set()
    while any(thread.name == "look-up" for thread in threading.enumerate()):
        threading.Event().wait(0.001)
    monkeypatch.setattr("zaqar.notification.webhook_targets.LOOK_UP_SECONDS", 60)
    with pytest.raises(InvalidInput):
        slow.check_url("http://slow.example/", field="subscriber")


def test_names_of_the_host_are_resolved_by_the_system() -> None:
    assert "127.0.0.1" in look_up("127.0.0.1")
    with pytest.raises(OSError, match="no name"):
        look_up("a" * 64 + ".invalid")


@given(url=st.text() | st.from_regex(r"(?i)(trust\+)?https?://[^/]*/.*") | st.text(alphabet="htp:/@[].%0127fx\\ \t?#"))
@example(url="http://[::1")
@example(url="http://[1.2.3.4]")
def test_any_text_passes_or_is_refused(url: str) -> None:
    refusal = refusal_of(lambda: target_policy().check_url(url, field="subscriber"))
    assert refusal is None or refusal.field == "subscriber"
