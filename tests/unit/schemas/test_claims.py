# SPDX-License-Identifier: Apache-2.0
"""TTL and grace of a claim: the parser and the JSON schema accept the same documents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.schemas.refusals import refusal_of
from tests.unit.workers import make_limits
from zaqar.errors import InvalidInput
from zaqar.schemas.claims import Terms, parse_terms, terms_schema
from zaqar.schemas.fields import Validator

LIMITS = make_limits(max_claim_ttl=1000, max_claim_grace=500)

numbers = st.sampled_from([-1, 0, 59, 60, 61, 499, 500, 501, 999, 1000, 1001, 2**63 - 1, -(2**63)])
odd = st.sampled_from([60.0, 60.5, 1e300, True, False, None, "60", "", [], [60], {}])
good = st.sampled_from([60, 61, 499, 500])
field = good | numbers | odd
terms = st.fixed_dictionaries({}, optional={"ttl": field, "grace": field, "TTL": odd, "limit": numbers})


@given(document=terms | terms | odd)
@example(document={"ttl": 60.0})
@example(document={"ttl": True})
@example(document={"grace": None})
def test_the_parser_accepts_the_documents_that_the_schema_accepts(document: Any) -> None:
    by_schema = refusal_of(lambda: Validator(terms_schema(LIMITS)).check(document))
    raw = json.dumps(document).encode()
    by_hand = refusal_of(lambda: parse_terms(raw, limits=LIMITS))
    assert (by_hand is None) == (by_schema is None), by_hand or by_schema
    if by_hand is not None:
        assert by_hand.field in ("body", "ttl", "grace")
        return
    assert parse_terms(raw, limits=LIMITS) == Terms(document.get("ttl"), document.get("grace"))


@pytest.mark.parametrize(
    ("raw", "parsed"),
    [
        (b"{}", Terms(None, None)),
        (b'{"ttl":60}', Terms(60, None)),
        (b'{"grace":60,"ttl":1000}', Terms(1000, 60)),
        (b' {"grace" : 500 , "more":[1]} ', Terms(None, 500)),
    ],
)
def test_terms(raw: bytes, parsed: Terms) -> None:
    assert parse_terms(raw, limits=LIMITS) == parsed


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "body: not valid JSON"),
        (b"[]", "body: must be an object with 'ttl' and 'grace'"),
        (b"null", "body: must be an object with 'ttl' and 'grace'"),
        (b'{"ttl":59}', "ttl: must be from 60 to 1000 seconds, not 59"),
        (b'{"ttl":1001}', "ttl: must be from 60 to 1000 seconds, not 1001"),
        (b'{"grace":59}', "grace: must be from 60 to 500 seconds, not 59"),
        (b'{"ttl":60,"grace":501}', "grace: must be from 60 to 500 seconds, not 501"),
        (b'{"ttl":true}', "ttl: must be an integer from 60 to 1000"),
        (b'{"ttl":6e1}', "ttl: must be an integer from 60 to 1000"),
        (b'{"ttl":60,"ttl":61}', "body: the key 'ttl' is given twice"),
        (b'{"x":1e999}', "body: a number is too large"),
    ],
)
def test_bad_terms(raw: bytes, complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_terms(raw, limits=LIMITS)
    assert str(caught.value).startswith(complaint)
