"""The OpenAPI description says what happens: references resolve, errors are declared, answers fit their schemas."""

import json

import pytest
from serving import Server

from qwill.serve.app import MODULES


def references(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


@pytest.fixture(scope="module")
def description(server: Server) -> dict:
    return server.client.get("/openapi.json").json()


def test_every_reference_resolves(description: dict) -> None:
    names = {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}
    assert references(description) <= names


def test_errors_are_declared_and_never_the_frameworks(description: dict) -> None:
    assert "HTTPValidationError" not in json.dumps(description)
    for path, operations in description["paths"].items():
        for operation in operations.values():
            if path.startswith("/v1/"):
                assert {"4XX", "5XX"} <= set(operation["responses"])


ASKED = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "logprobs": True}),
    ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 3, "logprobs": 2, "echo": True}),
    ("/v1/responses", {"input": "x", "max_output_tokens": 3}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x"}]}),
    ("/v1/embeddings", {"input": "x"}),
    ("/tokenize", {"prompt": "x", "return_token_strs": True}),
    ("/detokenize", {"tokens": [1, 2]}),
    ("/v1/chat/completions", {"messages": []}),
    ("/v1/messages", {"messages": []}),
    ("/v1/models", None),
    ("/v1/models/tiny", None),
    ("/tokenizer_info", None),
    ("/qwill/stats", None),
    ("/health", None),
    ("/version", None),
]


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_answers_fit_their_schemas(server: Server, description: dict, path: str, body: dict | None) -> None:
    template = "/v1/models/{model}" if path == "/v1/models/tiny" else path
    if body is None:
        answer, operation = server.client.get(path), description["paths"][template]["get"]
    else:
        answer, operation = server.post(path, {"model": "tiny", **body}), description["paths"][template]["post"]
    # FastAPI derives the schema that is declared from these models.
    routes = [route for module in MODULES for route in module.router.routes]
    (route,) = (route for route in routes if route.path_format == template and body_method(body) in route.methods)
    declared = route.responses.get(answer.status_code) or route.responses["4XX"]
    declared["model"].model_validate(answer.json())
    status = str(answer.status_code)
    known = operation["responses"].get(status) or operation["responses"][status[0] + "XX"]
    name = declared["model"].__name__
    assert known["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{name}"}


def body_method(body: dict | None) -> str:
    return "GET" if body is None else "POST"
