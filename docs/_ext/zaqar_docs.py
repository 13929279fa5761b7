# SPDX-License-Identifier: Apache-2.0
"""Sphinx directives that make pages from the tables of the service, so that they cannot become out of date.

``.. api-operations::`` renders the OpenAPI document, ``.. api-schemas::`` the objects it refers to,
``.. policy-rules::`` the policy rules with their defaults and ``.. policy-endpoints::`` the rules of each endpoint.
``.. options-without-effect::`` lists the options that are accepted for the sake of existing files.
``.. stage-hooks::`` renders the hooks of stages, and ``.. published-calls::`` the methods of published plug-ins that
are called.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from zaqar import conf, policies
from zaqar.conf import opts
from zaqar.limits import Limits
from zaqar.policies import endpoints, targets
from zaqar.stages.base import Stage
from zaqar.stages.operations import REQUESTS
from zaqar.stages.published.adapters import ADAPTERS
from zaqar.transport.wsgi import openapi

Json = Mapping[str, Any]

EVERYWHERE = ("400", "406", "503")
"""Answers that the page explains once."""

GROUPS = (
    ("Service", lambda path: not path.startswith(("/v2/queues", "/v2/topics", "/v2/pools", "/v2/flavors"))),
    (
        "Queues",
        lambda path: (
            path.startswith("/v2/queues") and path.partition("{queue_name}/")[2][:3] not in ("mes", "cla", "sub")
        ),
    ),
    ("Messages", lambda path: path.startswith("/v2/queues") and "/messages" in path),
    ("Claims", lambda path: "/claims" in path),
    ("Subscriptions and deliveries", lambda path: path.startswith("/v2/queues") and "/subscriptions" in path),
    ("Topics", lambda path: path.startswith("/v2/topics")),
    ("Pools and flavors", lambda path: path.startswith(("/v2/pools", "/v2/flavors"))),
)


def document() -> dict[str, Any]:
    """The OpenAPI document of a service with default limits and ``admin_mode`` and pools."""
    return openapi.document(Limits.from_conf(conf.load(default_config_files=[])), admin_mode=True, pooling=True)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table without the columns that are empty in each row."""
    rows = list(rows)
    columns = [index for index in range(len(header)) if any(row[index] for row in rows)]
    yield ".. list-table::"
    yield "   :header-rows: 1"
    yield "   :align: left"
    yield ""
    for row in (header, *rows):
        for index, cell in enumerate(row[column] for column in columns):
            yield f"   {'* -' if index == 0 else '  -'} {cell}"
    yield ""


def literal(value: object) -> str:
    return f"``{value}``"


def as_rst(markdown: str) -> str:
    """The descriptions are Markdown, as OpenAPI has it; of that they use code spans only."""
    return markdown.replace("`", "``")


def kind_of(schema: Json) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f":ref:`{name} <schema-{name.lower()}>`"
    if "enum" in schema:
        return " or ".join(literal(choice) for choice in schema["enum"])
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    return kind if isinstance(kind, str) else " or ".join(kind)


def bounds_of(schema: Json) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    parts = []
    if low is not None and high is not None:
        parts.append(f"{low} to {high}")
    elif low is not None:
        parts.append(f"at least {low}")
    if "default" in schema:
        parts.append(f"default {literal(json.dumps(schema['default']))}")
    return ", ".join(parts)


def fields_of(schema: Json, path: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Name, type, bounds and meaning of each member. Members of nested objects are named by their path."""
    required = schema.get("required", ())
    for name, member in schema.get("properties", {}).items():
        full = f"{path}{name}"
        text = as_rst(member.get("description", ""))
        if name in required:
            text = f"Required. {text}".strip()
        yield literal(full), kind_of(member), bounds_of(member), text
        nested, inner = (member["items"], f"{full}[].") if "items" in member else (member, f"{full}.")
        yield from fields_of(nested, inner)


def body_of(schema: Json, *, required: bool) -> Iterator[str]:
    optional = "" if required else ", may be left out"
    if "$ref" in schema:
        yield f"Body: {kind_of(schema)}{optional}."
        yield ""
        return
    of_list = "items" in schema
    yield f"Body: {'a list of objects' if of_list else 'an object'}{optional}."
    yield ""
    yield from table(("field", "type", "bounds", "meaning"), fields_of(schema["items"] if of_list else schema))


def operation_of(path: str, method: str, operation: Json) -> Iterator[str]:
    title = f"{method.upper()} {path}"
    yield f".. _operation-{operation['operationId'].lower()}:"
    yield ""
    yield title
    yield "^" * len(title)
    yield ""
    yield as_rst(operation["summary"])
    yield ""
    query = [parameter for parameter in operation["parameters"] if parameter.get("in") == "query"]
    if query:
        yield from table(
            ("query parameter", "type", "bounds", "meaning"),
            (
                (literal(p["name"]), kind_of(p["schema"]), bounds_of(p["schema"]), as_rst(p["description"]))
                for p in query
            ),
        )
    if "requestBody" in operation:
        ((media_type, content),) = operation["requestBody"]["content"].items()
        if media_type != openapi.JSON:
            yield f"Content-Type: {literal(media_type)}, else 415."
            yield ""
        yield from body_of(content["schema"], required=operation["requestBody"]["required"])
    yield from table(("status", "meaning"), answers_of(operation["responses"]))


def answers_of(responses: Json) -> Iterator[tuple[str, str]]:
    for status, answer in responses.items():
        if status in EVERYWHERE:
            continue
        text = as_rst(answer["description"])
        for content in answer.get("content", {}).values():
            schema = content["schema"]
            if "$ref" in schema and not schema["$ref"].endswith("/Error"):
                text += f" Body: {kind_of(schema)}."
            elif "properties" in schema:
                member, members = next(iter(schema["properties"].items()))
                text += f" Body: an object with {literal(member)}, a {kind_of(members)}."
        yield status, text


def operations() -> Iterator[str]:
    paths = document()["paths"]
    for title, belongs in GROUPS:
        yield title
        yield "-" * len(title)
        yield ""
        for path, methods in paths.items():
            if belongs(path):
                for method, operation in methods.items():
                    yield from operation_of(path, method, operation)


def schemas() -> Iterator[str]:
    for name, schema in document()["components"]["schemas"].items():
        yield f".. _schema-{name.lower()}:"
        yield ""
        yield name
        yield "-" * len(name)
        yield ""
        if "description" in schema:
            yield as_rst(schema["description"])
            yield ""
        yield from table(("field", "type", "bounds", "meaning"), fields_of(schema))


def rule_default(rule: Any) -> str:
    return literal(rule.check_str) if rule.check_str else "any caller"


def policy_rules() -> Iterator[str]:
    def cells(rule: Any) -> tuple[str, str, str, str]:
        own = sorted(targets.target_names(rule.name) - targets.ALWAYS)
        return literal(rule.name), rule_default(rule), ", ".join(map(literal, own)) or "-", rule.description

    header = ("rule", "default", "its target, besides project and user", "what it is about")
    yield from table(header, map(cells, policies.list_rules()))


PAGES = {("GET", "/confirm"): "The page behind the link in a mail.", ("POST", "/confirm"): "What its buttons do."}
"""Endpoints for people with a browser, which the OpenAPI document does not have."""


def policy_endpoints() -> Iterator[str]:
    rules = endpoints.rules_of_endpoints()
    served = {
        (method.upper(), path): operation["summary"]
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }

    def cells(endpoint: tuple[str, str], summary: str) -> tuple[str, str, str, str]:
        asked = rules.get(endpoint, [])
        # KeyError if an endpoint checks no rule and the table does not give the reason.
        names = " and ".join(literal(rule.name) for rule in asked) if asked else f"none: {endpoints.OPEN[endpoint]}"
        return literal(" ".join(endpoint)), as_rst(summary), names, rule_default(asked[0]) if asked else "everybody"

    rows = (cells(endpoint, summary) for endpoint, summary in (served | PAGES).items())
    yield from table(("endpoint", "what it does", "rule", "default"), rows)


def stage_hooks() -> Iterator[str]:
    def cells(request: Any) -> tuple[str, str, str, str]:
        hook = getattr(Stage, f"before_{request.operation}")
        fields = [field.name for field in dataclasses.fields(request) if field.name != "queue_name"]
        # Of the annotation "ListMessages | Done[Sequence[Message]]" the part that the result is.
        result = inspect.signature(hook).return_annotation.partition("Done[")[2].removesuffix("]")
        return (
            literal(request.operation),
            inspect.getdoc(hook) or "",
            ", ".join(map(literal, fields)) or "-",
            "-" if result == "None" else literal(result),
        )

    for resource in dict.fromkeys(request.resource for request in REQUESTS):
        title = "Queues and topics" if resource == "queues" else resource.title()
        yield title
        yield "^" * len(title)
        yield ""
        yield from table(
            ("hooks: ``before_``, ``after_`` and", "when", "the request has", "result"),
            (cells(request) for request in REQUESTS if request.resource == resource),
        )


def published_calls() -> Iterator[str]:
    def rows() -> Iterator[tuple[str, str, str]]:
        for resource, adapter in ADAPTERS.items():
            for hook, methods in adapter.methods.items():
                yield resource, " or ".join(map(literal, methods)), literal(hook)

    yield from table(("resource", "method", "called where ours is"), rows())


WITHOUT_EFFECT = ("Accepted, but without effect", "Without effect")
"""Beginnings of the help text of an option that an existing file may set."""


def options_without_effect() -> Iterator[str]:
    for group, options in opts.list_own_opts():
        for option in options:
            if option.help.startswith(WITHOUT_EFFECT):
                yield f"* ``[{group}] {option.name}``"
    yield ""


class Written(SphinxDirective):
    """A directive without arguments whose content comes from ``lines``."""

    lines: Any

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(type(self).lines()), allow_section_headings=True)


class ApiOperations(Written):
    lines = staticmethod(operations)


class ApiSchemas(Written):
    lines = staticmethod(schemas)


class StageHooks(Written):
    lines = staticmethod(stage_hooks)


class PublishedCalls(Written):
    lines = staticmethod(published_calls)


class OptionsWithoutEffect(Written):
    lines = staticmethod(options_without_effect)


class PolicyRules(Written):
    lines = staticmethod(policy_rules)


class PolicyEndpoints(Written):
    lines = staticmethod(policy_endpoints)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("api-operations", ApiOperations)
    app.add_directive("api-schemas", ApiSchemas)
    app.add_directive("options-without-effect", OptionsWithoutEffect)
    app.add_directive("policy-rules", PolicyRules)
    app.add_directive("policy-endpoints", PolicyEndpoints)
    app.add_directive("stage-hooks", StageHooks)
    app.add_directive("published-calls", PublishedCalls)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
