# SPDX-License-Identifier: Apache-2.0
"""The table of promises names test modules that exist, and no promise is without a test."""

from __future__ import annotations

import pytest

from tests.promises import PROMISES, functions_now

NOW = functions_now()


@pytest.mark.parametrize("promise", PROMISES)
def test_each_promise_has_tests(promise: str) -> None:
    assert PROMISES[promise]
    for module in PROMISES[promise]:
        assert NOW.get(module), f"{module} has no tests"


def test_each_module_of_conformance_that_is_about_a_store_shows_a_promise() -> None:
    named = {module for modules in PROMISES.values() for module in modules}
    about_the_management_store = {
        "test_catalog",
        "test_nodes",
        "test_queue_records",
        "test_subscriptions",
        "test_trusts",
    }
    about_resources = {"test_name_lookup", "test_sweep", "test_threads"}
    others = {f"conformance/{name}.py" for name in about_the_management_store | about_resources}
    assert {module for module in NOW if module.count("/") == 1 and module.startswith("conformance/")} == others | {
        module for module in named if module.count("/") == 1 and module.startswith("conformance/")
    }
