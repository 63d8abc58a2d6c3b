"""Every failure leaves as RFC 9457 problem details, from the error tree or from the frameworks below us."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from modelreg.errors import Invalid, ModelregError, NotFound, RecordUnavailable, TooLarge, Unauthenticated
from modelreg.problem_details import MEDIA_TYPE_PROBLEM, Problem, problem_of

_log = logging.getLogger(__name__)

# What every route may answer, for the OpenAPI document.
RESPONSES: dict[int | str, dict[str, object]] = {
    # Not `model`: FastAPI would document the body as application/json besides.
    status: {"description": description, "content": {MEDIA_TYPE_PROBLEM: {"schema": Problem.model_json_schema()}}}
    for status, description in {
        401: "No credential, or one that does not hold.",
        403: "The principal may not do this.",
        404: "Absent, or hidden from this principal.",
        409: "The present state forbids it.",
        413: "A limit is exceeded.",
        422: "Malformed, or not trustworthy.",
        503: "The record or the store is unavailable; nothing was done.",
    }.items()
}


class _MethodNotAllowed(Invalid):
    code = "method-not-allowed"
    title = "Method not allowed"
    status = 405


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(ModelregError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(SQLAlchemyError, _on_database)


def respond(request_id: str, error: ModelregError, **more: object) -> JSONResponse:
    """The response for an error; also used by the middleware, outside FastAPI's reach."""
    headers = {"WWW-Authenticate": 'Bearer realm="modelreg"'} if isinstance(error, Unauthenticated) else {}
    body = {**more, **problem_of(error, f"urn:modelreg:request:{request_id}")}
    return JSONResponse(body, error.status, headers, MEDIA_TYPE_PROBLEM)


def _request_id(request: Request) -> str:
    return str(request.scope.get("modelreg_request_id", ""))


def _on_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ModelregError)
    return respond(_request_id(request), error)


def _on_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # The input is not echoed: it may be long, and it may be a secret.
    found = [
        {"pointer": "/" + "/".join(str(part) for part in item["loc"])[:200], "detail": str(item["msg"])[:200]}
        for item in error.errors()[:20]
    ]
    first = found[0] if found else {"pointer": "/", "detail": "malformed"}
    problem = Invalid(f"the request is malformed at {first['pointer']}: {first['detail']}")
    return respond(_request_id(request), problem, errors=found)


def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ModelregError):
        # FastAPI hides what went wrong while it read the body, such as our limit.
        return respond(_request_id(request), error.__cause__)
    match error.status_code:
        case 404:
            problem: ModelregError = NotFound("there is nothing at this path; see /openapi.json for what there is")
        case 405:
            problem = _MethodNotAllowed("this path does not know this method; see /openapi.json")
        case 413:
            problem = TooLarge("the request is too large")
        case _:
            problem = Invalid(str(error.detail)[:200])
    return respond(_request_id(request), problem)


def _on_database(request: Request, error: Exception) -> JSONResponse:
    """No record, no service: whatever the database's trouble is, nothing was acknowledged."""
    _log.error("database failure", exc_info=error)
    waits = isinstance(error, PoolTimeout) or (isinstance(error, DBAPIError) and error.connection_invalidated)
    hint = "too many requests at once" if waits else "the database refused"
    return respond(_request_id(request), RecordUnavailable(f"the record cannot be written ({hint}); try again later"))
