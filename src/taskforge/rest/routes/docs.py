"""/openapi.json, /openapi.yaml and /docs, which needs nothing from elsewhere."""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Any

import msgspec
from litestar import Request, get

from taskforge.errors import NotFound
from taskforge.rest.openapi import document
from taskforge.rest.replies import Reply, encode

ASSETS = {
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "swagger-ui.css": b"text/css; charset=utf-8",
    "docs.js": b"text/javascript; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TaskForge API</title>
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<link rel="icon" type="image/png" href="/docs/assets/favicon-32x32.png">
</head>
<body>
<main id="swagger-ui"></main>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/docs.js"></script>
</body>
</html>
"""


@get("/openapi.json")
async def openapi_json() -> Reply:
    return Reply(200, _as_json())


@get("/openapi.yaml")
async def openapi_yaml() -> Reply:
    return Reply(200, _as_yaml(), media=b"application/yaml")


@get("/docs")
async def docs() -> Reply:
    return Reply(
        200, PAGE, media=b"text/html; charset=utf-8", headers=((b"content-security-policy", POLICY),)
    )


@get("/docs/assets/{name:str}")
async def docs_asset(request: Request[Any, Any, Any]) -> Reply:
    name = request.path_params["name"]
    if name not in ASSETS:
        raise NotFound("route.not_found", "there is nothing at this address; see /docs")
    return Reply(200, _asset(name), media=ASSETS[name], headers=((b"cache-control", b"max-age=86400"),))


@functools.cache
def _asset(name: str) -> bytes:
    return (files("taskforge.rest") / "static" / name).read_bytes()


@functools.cache
def _as_json() -> bytes:
    return encode(document())


@functools.cache
def _as_yaml() -> bytes:
    return msgspec.yaml.encode(document())


HANDLERS = (
    openapi_json,
    openapi_yaml,
    docs,
    docs_asset,
)
