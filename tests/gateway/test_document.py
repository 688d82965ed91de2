"""The OpenAPI document: that it names every route, model, error and stream."""

from pathlib import Path

from gateways import open_gateway


def test_the_document_names_models_errors_and_streams(chatty: Path) -> None:
    # Nobody is asked for it.
    with open_gateway([chatty], "127.0.0.1:9") as gateway:
        document = gateway.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/models",
        "/v1/models/{model}",
        "/v1/chat/completions",
        "/v1/completions",
        "/tokenize",
        "/detokenize",
        "/health",
    }
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]
            for status in ("4XX", "5XX"):
                content = operation["responses"][status]["content"]
                assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorReply"}
    schemas = document["components"]["schemas"]
    assert schemas["ChatRequest"]["properties"]["model"]["enum"] == ["chatty"]
    answers = document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert set(answers) == {"application/json", "text/event-stream"}
