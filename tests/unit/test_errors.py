# SPDX-License-Identifier: Apache-2.0
"""The tree of errors: the drawing in the module fits the classes."""

from __future__ import annotations

import re

import pytest

from zaqar import errors
from zaqar.errors import (
    ClientError,
    InvalidInput,
    QueueSignal,
    StaleQueue,
    StoreUnavailable,
    UnsupportedMedia,
    ZaqarError,
)


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*(subclasses(child) for child in cls.__subclasses__() if child.__module__ == "zaqar.errors"))


def classes_in_the_drawing() -> dict[str, tuple[int, str | None]]:
    """Name -> (level, status) of each line of the drawing at the top of the module."""
    tree = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ((?:[ |`-]{4})*)([A-Z]\w+)(?: +(\d{3}))?", line):
            tree[found[2]] = (len(found[1]) // 4, found[3])
    return tree


def test_the_drawing_is_complete() -> None:
    tree = classes_in_the_drawing()
    assert set(tree) == {cls.__name__ for cls in subclasses(ZaqarError)}
    for name, (level, status) in tree.items():
        cls = getattr(errors, name)
        assert cls.__mro__.index(ZaqarError) == level, name
        assert status is None or int(status) == cls.status, name


@pytest.mark.parametrize("cls", sorted(subclasses(ZaqarError), key=lambda cls: cls.__name__))
def test_status_and_title(cls: type[ZaqarError]) -> None:
    assert cls.title
    assert cls.title[0].isupper()
    assert not cls.title.endswith(".")
    if issubclass(cls, ClientError):
        assert 400 <= cls.status < 500
    elif issubclass(cls, StoreUnavailable):
        assert cls.status == 503
    else:
        assert cls.status == 500


def test_the_fields_and_texts_of_errors() -> None:
    invalid = InvalidInput("messages[0].ttl", "must be more")
    assert (invalid.field, invalid.reason, str(invalid)) == (
        "messages[0].ttl",
        "must be more",
        "messages[0].ttl: must be more",
    )
    media = UnsupportedMedia("no", accept_patch="application/x")
    assert (str(media), media.accept_patch) == ("no", "application/x")
    assert (StoreUnavailable().retry_after, StoreUnavailable(retry_after=7).retry_after) == (1, 7)
    assert isinstance(StaleQueue("u"), QueueSignal)
    assert StaleQueue("u").uid == "u"
    # A transport answers client errors by their class: a signal of a store must never be one.
    assert not issubclass(QueueSignal, ClientError)
