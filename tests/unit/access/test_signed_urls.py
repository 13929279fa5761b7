# SPDX-License-Identifier: Apache-2.0
"""Pre-signed access: the format of OpenStack Zaqar, and grants that allow the signed access and nothing else."""

from __future__ import annotations

import hashlib
import hmac
import logging
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zaqar import conf
from zaqar.access import signed_urls
from zaqar.access.signed_urls import Claim, SignedUrls, format_time, parse_time
from zaqar.errors import SignatureRefused, StartupError

KEY = "secret"
NOW = 1_700_000_000.0
END = format_time(NOW + 60)
MESSAGES = "/v2/queues/q/messages"
CLAIMS = "/v2/queues/q/claims"
SUBSCRIPTIONS = "/v2/queues/q/subscriptions"
CONFIRM = f"{SUBSCRIPTIONS}/{'0' * 24}/confirm"
TERMS = ("http://example.org/", "0")


def claimed(
    *paths: str,
    methods: str = "GET",
    expires: str = END,
    project: str = "shop",
    key: str = KEY,
    bound_to: tuple[str, ...] = (),
    **sent: str,
) -> Claim:
    """Make the claim of a client with a signature of ``key``. ``sent`` are the fields that it has changed."""
    signature = signed_urls.sign(
        key, project=project, paths=paths, methods=methods.split(","), expires=expires, bound_to=bound_to
    )
    return Claim(signature, ",".join(paths), methods, expires, project)._replace(**sent)


GOOD = claimed(MESSAGES, SUBSCRIPTIONS, methods="GET,POST")


def refusal(claim: Claim, urls: SignedUrls | None = None, **request: Any) -> str:
    """Return why the claim is refused, "" if it is accepted. It is checked twice, without and with the cache."""
    urls = urls or SignedUrls(KEY)
    asked = {"method": "GET", "path": MESSAGES, "now": NOW, **request}
    reasons, described = [], "The signature does not open this."
    for _ in range(2):
        try:
            assert urls.open(claim, **asked) is None
            reasons.append("")
        except SignatureRefused as refused:
            described = str(refused)
            reasons.append(refused.reason)
    assert reasons[0] == reasons[1]
    assert described == "The signature does not open this."
    return reasons[0]


# -- the format ------------------------------------------------------------------------------------------------------

PROJECT = "9b0c4b8a6e8b4d0f9b1d3f5a7c9e1b2d"
EXAMPLES = [
    (
        ["/v2/queues/alarms/messages"],
        ["POST"],
        "2030-01-01T00:00:00",
        "7e7d2e99b26c28d23b24aed128b46e23ce90356225c506a9c37b96429e8544ae",
    ),
    (
        ["/v2/queues/alarms/messages", "/v2/queues/alarms/claims"],
        ["GET", "DELETE", "POST"],
        "2030-01-01T02:00:00.123456+02:00",
        "14afd45eca88c2165c34e471aa5e1cfd4baf2ed52fd87165db5b0f27a5c52d4a",
    ),
]


@pytest.mark.parametrize(("paths", "methods", "expires", "signature"), EXAMPLES)
def test_the_signature_is_that_of_openstack_zaqar(
    paths: list[str], methods: list[str], expires: str, signature: str
) -> None:
    end = parse_time(expires)
    assert end is not None
    made = signed_urls.sign(
        "zaqar-example-key", project=PROJECT, paths=paths, methods=methods, expires=format_time(end)
    )
    assert made == signature
    # In any order, and with the time in any form.
    claim = Claim(signature, ",".join(paths), ",".join(methods), expires, PROJECT)
    for each in (claim, claim._replace(expires="2030-01-01"), claim._replace(paths=",".join(sorted(paths)))):
        urls = SignedUrls("zaqar-example-key")
        assert refusal(each, urls, path="/v2/queues/alarms/messages", method="POST") == ""


def test_the_signed_text() -> None:
    text = rf"{CLAIMS},{MESSAGES}\nGET,POST\nshop\n{END}"
    assert r"\n" in text
    assert "\n" not in text
    signature = hmac.new(KEY.encode(), text.encode(), hashlib.sha256).hexdigest()
    assert claimed(MESSAGES, CLAIMS, methods="POST,GET").signature == signature


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2023-11-14T22:13:20", NOW),
        ("2023-11-14 22:13:20", NOW),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T22:13:20.9", NOW),
        ("2023-11-14T22:13:20.999999999", NOW),
        ("2023-11-14T22:13:20.123456+00:00", NOW),
        ("2023-11-14T23:13:20+01", NOW),
        ("2023-11-14T23:13:20+0100", NOW),
        ("2023-11-14T21:43:20-00:30", NOW),
        ("2023-11-14T22:13", NOW - 20),
        ("2023-11-14", NOW - 22 * 3600 - 13 * 60 - 20),
        ("9999-12-31T23:59:59", 253_402_300_799.0),
    ],
)
def test_valid_times(text: str, time: float) -> None:
    assert parse_time(text) == time
    assert parse_time(format_time(time)) == time


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "5", "20231114T221320", "2023-W46-2", "2023-11-14T", "2023-11-14T22", "2023-13-01T00:00:00"),
        *("2023-11-14T24:00:00", "2023-11-14T22:13:60", "2023-11-14T22:13:20,5", "2023-11-14T22:13:20 Z"),
        *(" 2023-11-14", "2023-11-14\n", "2023-11-14T22:13:20+25:00", "+2023-11-14", "\uff12\uff10\uff12\uff13-11-14"),
        *("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "2023-11-14Z"),
    ],
)
def test_invalid_times(text: str) -> None:
    assert parse_time(text) is None
    assert refusal(GOOD._replace(expires=text))


# -- what a grant opens ----------------------------------------------------------------------------------------------

MEMBER = "50b68a50d6f5b8c8a7c62b01"


@pytest.mark.parametrize(
    ("claim", "method", "path"),
    [
        (GOOD, "GET", MESSAGES),
        (GOOD, "POST", MESSAGES),
        (GOOD, "HEAD", MESSAGES),
        (GOOD, "POST", SUBSCRIPTIONS),
        (GOOD, "GET", f"{MESSAGES}/{MEMBER}"),
        (GOOD, "GET", f"{SUBSCRIPTIONS}/{MEMBER}"),
        (claimed(CLAIMS, methods="PATCH"), "PATCH", f"{CLAIMS}/{MEMBER}"),
        (claimed(SUBSCRIPTIONS, methods="PUT"), "PUT", CONFIRM),
        (claimed("/v2/topics/t/messages"), "GET", "/v2/topics/t/messages"),
        (claimed(MESSAGES, methods="BREW,GET"), "GET", MESSAGES),
    ],
)
def test_a_grant_allows_its_paths_and_methods(claim: Claim, method: str, path: str) -> None:
    assert refusal(claim, method=method, path=path) == ""


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "DELETE"},
        {"method": "get"},
        {"method": "GET,POST"},
        {"method": "OPTIONS"},
        {"now": NOW + 60},
        {"path": "/v2/queues/q"},
        {"path": "/v2/queues/q/"},
        {"path": "/v2/queues/q/share"},
        {"path": f"{MESSAGES}/"},
        {"path": f"{MESSAGES}/a/b"},
        {"path": f"{MESSAGES}/.."},
        {"path": f"{MESSAGES}/."},
        {"path": f"{MESSAGES}/a;b"},
        {"path": f"{MESSAGES}/a%2Fb"},
        {"path": f"{MESSAGES}/{'a' * 129}"},
        {"path": f"{MESSAGES};"},
        {"path": f"{MESSAGES}x"},
        {"path": f"/{MESSAGES}"},
        {"path": f"{MESSAGES}\n"},
        {"path": f"{SUBSCRIPTIONS}/{MEMBER}/confirm"},
        {"path": f"{SUBSCRIPTIONS}/{MEMBER}/rotate_secret"},
        {"path": f"{SUBSCRIPTIONS}/{MEMBER}/deliveries"},
        {"path": CLAIMS},
        {"path": "/v2/queues/q2/messages"},
        {"path": "/v2/queues//messages"},
        {"path": "/v2/topics/q/messages"},
        {"path": "/V2/queues/q/messages"},
        {"path": "/x/v2/queues/q/messages"},
        {"path": "/v2/queues/q/x/../messages"},
        {"path": ""},
        {"path": "*"},
    ],
)
def test_a_grant_allows_no_other_paths_and_methods(request_: dict[str, Any]) -> None:
    assert refusal(GOOD, **request_)


def test_a_grant_for_head_does_not_allow_get() -> None:
    claim = claimed(MESSAGES, methods="HEAD")
    assert refusal(claim, method="HEAD") == ""
    assert refusal(claim, method="GET")


def test_only_put_allows_to_confirm() -> None:
    everything = claimed(SUBSCRIPTIONS, methods="GET,POST,PATCH,PUT,DELETE")
    for method in ("GET", "POST", "PATCH", "DELETE"):
        assert refusal(everything, method=method, path=CONFIRM)
    assert refusal(claimed(MESSAGES, methods="PUT"), method="PUT", path=f"{MESSAGES}/{'0' * 24}/confirm")


@pytest.mark.parametrize("path", ["/v2/pools", "/v2/queues", "/v2/queues/q", "/v2/queues/q/share", "/", "/v2/health"])
def test_a_grant_allows_no_other_resource(path: str) -> None:
    """Even with a valid signature, because the policy was checked for the signed paths only."""
    assert refusal(claimed(path), path=path)
    assert refusal(claimed(path, MESSAGES), path=path)


@pytest.mark.parametrize(
    "sent",
    [
        {"signature": ""},
        {"signature": "0" * 64},
        {"signature": GOOD.signature.upper()},
        {"signature": GOOD.signature[:-1]},
        {"signature": GOOD.signature + " "},
        {"signature": f"{GOOD.signature},{GOOD.signature}"},
        {"signature": "é" * 64},
        {"paths": ""},
        {"paths": MESSAGES},
        {"paths": f"{GOOD.paths},{CLAIMS}"},
        {"paths": f"{GOOD.paths},"},
        {"paths": GOOD.paths.replace(",", ", ")},
        {"paths": ".*"},
        {"paths": "/v2/queues/.*/messages"},
        {"methods": ""},
        {"methods": "GET"},
        {"methods": "GET,POST,DELETE"},
        {"methods": "get,post"},
        {"methods": "GET,POST,POST"},
        {"expires": ""},
        {"expires": format_time(NOW + 61)},
        {"expires": f"{END},{END}"},
        {"project": ""},
        {"project": "shop2"},
        {"project": "Shop"},
        {"project": "shop,shop"},
    ],
)
def test_a_changed_grant_allows_nothing(sent: dict[str, str]) -> None:
    assert refusal(GOOD) == ""
    assert refusal(GOOD._replace(**sent))


@pytest.mark.parametrize("project", ["a\\nb", "a,b", "a\nb", "a" * 257, " a", "a\x7f", "é"])
def test_projects_that_would_make_the_text_ambiguous(project: str) -> None:
    assert refusal(claimed(MESSAGES, project=project))


def test_the_end_of_a_field_cannot_be_moved() -> None:
    """The signed text has no lengths, so the end of a field could be moved to the beginning of the next one."""
    signature = claimed(MESSAGES, methods="GET", project="shop").signature
    one, two = Claim(signature, rf"{MESSAGES}\nGET", "shop", END, "x"), r"GET\nshop"
    assert refusal(one)
    assert refusal(Claim(signature, MESSAGES, two, END, END))
    assert refusal(Claim(signature, MESSAGES, "GET", END, rf"shop\n{END}"))


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "Secret"])
def test_without_the_key_every_grant_is_refused(key: str | None) -> None:
    urls = SignedUrls(key, ["", "other"])
    assert refusal(GOOD, urls)
    # Not even a signature of an empty key.
    assert refusal(claimed(MESSAGES, key=""), urls)


def test_a_previous_key_verifies_and_does_not_sign() -> None:
    urls = SignedUrls("new", ["older", KEY])
    assert refusal(GOOD, urls) == ""
    assert (
        urls.sign(project="shop", paths=[MESSAGES], methods=["GET"], expires=END)
        == claimed(MESSAGES, key="new").signature
    )
    assert refusal(claimed(MESSAGES, key="new"), urls) == ""
    assert refusal(GOOD, SignedUrls("new", ["older"]))
    only_verifies = SignedUrls(None, [KEY])
    assert not only_verifies.can_sign
    assert refusal(GOOD, only_verifies) == ""


def test_every_key_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time does not reveal which key has made a signature."""
    compared = []
    compare = hmac.compare_digest

    def counting(one: bytes, two: bytes) -> bool:
        compared.append(one)
        return compare(one, two)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for keys in (["a", "b", KEY], [KEY, "a", "b"], ["a", "b", "c"]):
        compared.clear()
        refused = refusal(GOOD, SignedUrls(keys[0], keys[1:]))
        # A valid signature is cached. An invalid one is computed for each of the two requests.
        assert len(compared) == (6 if refused else 3)


def test_the_end_of_a_cached_grant_is_checked_each_time() -> None:
    urls = SignedUrls(KEY)
    assert refusal(GOOD, urls, now=NOW) == ""
    assert refusal(GOOD, urls, now=NOW + 59.999) == ""
    assert refusal(GOOD, urls, now=NOW + 60) == "it has expired"


def test_the_cache_of_grants_is_bounded() -> None:
    urls = SignedUrls(KEY)
    for number in range(3000):
        claim = claimed(f"/v2/queues/q{number}/messages")
        assert urls.open(claim, method="GET", path=f"/v2/queues/q{number}/messages", now=NOW) is None
    assert urls._verified.size <= 2 * 1024 * 1024
    assert 100 < len(urls._verified) < 3000
    refusal(claimed(MESSAGES, key="other"), urls)
    assert claimed(MESSAGES, key="other") not in urls._verified


def test_repr_does_not_show_the_signature() -> None:
    urls = SignedUrls(KEY)
    refusal(GOOD, urls)
    assert GOOD.signature not in repr(GOOD)
    assert GOOD.signature not in repr(list(urls._verified)) + repr(urls._verified.get(GOOD))
    assert KEY not in repr(urls)


def test_keys_from_the_configuration(caplog: pytest.LogCaptureFixture) -> None:
    configuration = conf.load(default_config_files=[])
    configuration.set_override("secret_key", "k" * 32, "signed_url")
    configuration.set_override("previous_secret_keys", ["p" * 32], "signed_url")
    with caplog.at_level(logging.WARNING):
        urls = SignedUrls.from_conf(configuration)
        assert caplog.messages == []
        assert refusal(claimed(MESSAGES, key="p" * 32), urls) == ""
        configuration.set_override("previous_secret_keys", ["p" * 31], "signed_url")
        SignedUrls.from_conf(configuration)
        configuration.set_override("secret_key", "k" * 31, "signed_url")
        SignedUrls.from_conf(configuration)
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "[signed_url] previous_secret_keys",
        "[signed_url] secret_key",
        "[signed_url] previous_secret_keys",
    ]
    assert "kkk" not in caplog.text
    assert "ppp" not in caplog.text


@pytest.mark.parametrize(("text", "keys"), [('"a,b", c', ["a,b", "c"]), ("a", ["a"]), ("", [])])
def test_keys_in_a_file(tmp_path: Any, text: str, keys: list[str]) -> None:
    file = tmp_path / "zaqar.conf"
    file.write_text(f"[signed_url]\nprevious_secret_keys = {text}\n")
    assert conf.load(default_config_files=[str(file)]).signed_url.previous_secret_keys == keys


@pytest.mark.parametrize("text", ["a,,b", 'a, ""'])
def test_an_empty_key_stops_the_start(tmp_path: Any, text: str) -> None:
    file = tmp_path / "zaqar.conf"
    file.write_text(f"[signed_url]\nprevious_secret_keys = {text}\n")
    with pytest.raises(StartupError, match=r"\[signed_url\] previous_secret_keys: a key is empty"):
        SignedUrls.from_conf(conf.load(default_config_files=[str(file)]))


# -- confirmations ---------------------------------------------------------------------------------------------------


def confirms(claim: Claim, *terms: str, urls: SignedUrls | None = None, method: str = "PUT") -> bool:
    valid = (urls or SignedUrls(KEY)).open(claim, method=method, path=CONFIRM, now=NOW)
    assert valid is not None, "it must be compared with the subscription"
    return valid(terms)


def test_a_confirmation_is_bound_to_its_subscriber() -> None:
    claim = claimed(CONFIRM, methods="PUT", bound_to=TERMS)
    assert confirms(claim, *TERMS)
    assert confirms(claim, *TERMS, urls=SignedUrls("new", [KEY]))
    assert not confirms(claim, *TERMS, urls=SignedUrls("new"))
    for terms in [("http://example.org/", "1"), ("http://example.com/", "0"), ("http://example.org/0", ""), ()]:
        assert not confirms(claim, *terms)


def test_a_confirmation_is_no_share_and_a_share_no_confirmation() -> None:
    bound = claimed(SUBSCRIPTIONS, methods="PUT", bound_to=TERMS)
    assert refusal(bound, method="PUT", path=CONFIRM) == "no key has made the signature"
    assert not confirms(claimed(CONFIRM, methods="PUT"), *TERMS)
    # Not even a confirmation with more paths, or one that is cached for other access.
    both = claimed(CONFIRM, MESSAGES, methods="PUT")
    urls = SignedUrls(KEY)
    assert refusal(both, urls, method="PUT", path=MESSAGES) == ""
    assert refusal(both, urls, method="PUT", path=CONFIRM)


@pytest.mark.parametrize(
    "request_", [{"method": "GET"}, {"method": "POST"}, {"now": NOW + 60}, {"path": MESSAGES}, {"path": SUBSCRIPTIONS}]
)
def test_a_confirmation_allows_nothing_else(request_: dict[str, Any]) -> None:
    asked = {"method": "PUT", "path": CONFIRM, **request_}
    for methods in ("PUT", "GET,POST,PUT"):
        assert refusal(claimed(CONFIRM, methods=methods, bound_to=TERMS), **asked)


# -- property: a signature opens nothing but what is in it -----------------------------------------------------------

names = st.sampled_from(["q", "q2", "q.", "qq", "messages", "claims", ".*", "[q]", "q/messages"])
collections = st.sampled_from(["messages", "claims", "subscriptions", "stats", "share", ".*"])
paths = st.builds("/v2/{}/{}/{}".format, st.sampled_from(["queues", "topics"]), names, collections)
methods_ = st.lists(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", ".*"]), min_size=1, unique=True)
grants = st.tuples(
    st.sampled_from(["shop", "shop2", "s"]),
    st.lists(paths, min_size=1, max_size=3, unique=True),
    methods_,
    st.sampled_from([END, format_time(NOW - 1), format_time(NOW + 3600)]),
)
asked_paths = st.one_of(
    paths,
    st.builds(
        "{}/{}".format, paths, st.sampled_from(["x", MEMBER, "..", "a/b", "", f"{'0' * 24}/confirm", "messages"])
    ),
    st.builds("{}{}".format, paths, st.sampled_from(["x", "/", "//", ";x", "?", "%2F", "\n"])),
)

Signed = tuple[str, list[str], list[str], str]


@given(
    signed=grants,
    sent=st.one_of(st.none(), grants),
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]),
    path=asked_paths,
)
@example(signed=("shop", [MESSAGES], ["GET"], END), sent=None, method="GET", path=MESSAGES)
def test_a_signature_allows_only_the_signed_access(signed: Signed, sent: Signed | None, method: str, path: str) -> None:
    project, signed_paths, methods, expires = signed
    claim = claimed(*signed_paths, methods=",".join(methods), expires=expires, project=project)
    other = sent or signed
    shown = Claim(claim.signature, ",".join(other[1]), ",".join(other[2]), other[3], other[0])
    opened = refusal(shown, method=method, path=path) == ""
    if opened:
        # The request is accepted only if it has the signed fields, is in time, and uses a signed path and method.
        assert (other[0], sorted(other[1]), sorted(other[2]), other[3]) == (
            project,
            sorted(signed_paths),
            sorted(methods),
            expires,
        )
        assert expires > format_time(NOW)
        assert method in methods or (method == "HEAD" and "GET" in methods)
        owner = next(each for each in signed_paths if path == each or path.startswith(each + "/"))
        rest = path.removeprefix(owner)
        assert rest == "" or rest.count("/") == 1 or (rest.endswith("/confirm") and method == "PUT")
        assert ".." not in path
    elif sent is None and path in signed_paths and method in methods and expires > format_time(NOW):
        # Some generated requests must be accepted: those with a signature in the form of a share.
        assert signed_urls._COLLECTION.fullmatch(path) is None


words = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\\,"), min_size=1), min_size=1)


@given(words, words, grants)
def test_different_grants_have_different_texts(one: list[str], two: list[str], grant: Signed) -> None:
    def text(paths: list[str], methods: list[str]) -> bytes:
        return signed_urls._text(grant[0], paths, methods, grant[3])

    assert (text(one, two) == text(two, one)) == (sorted(one) == sorted(two))
    assert (text(one, grant[2]) == text(two, grant[2])) == (sorted(one) == sorted(two))
