"""The published schemas of Hoop's own OpenLineage facets. For everybody: they say nothing of what is here."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hoop_core.lineage.facets import SCHEMAS_PATH, VERSION, schema


def schema_routes() -> list[Route]:
    return [Route(SCHEMAS_PATH + "/{version}/{name}", _schema, methods=["GET"])]


async def _schema(request: Request) -> Response:
    wanted = request.path_params
    found = schema(wanted["name"]) if wanted["version"] == VERSION else None
    if found is None:
        return JSONResponse({"error": {"message": "There is no such schema."}}, status_code=404)
    return JSONResponse(found, media_type="application/schema+json")
