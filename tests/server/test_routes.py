"""Every route says who may: the application is walked, not listed by hand."""

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from modelreg_server.dependencies import Public, Requires

OWN = {"/openapi.json"}  # FastAPI's; it says what the source says


def walk(routes):
    """Every route below, through mounts and included routers."""
    for route in routes:
        if isinstance(route, Mount):
            yield from walk(route.routes)
        elif getattr(route, "original_router", None) is not None:  # newer FastAPI keeps included routers whole
            yield from walk(route.original_router.routes)
        else:
            yield route


def declarations(dependant):
    """Every `Requires` and `Public` a route depends on, however deep."""
    found = [dependant.call] if isinstance(dependant.call, Requires | Public) else []
    for inner in dependant.dependencies:
        found += declarations(inner)
    return found


def undeclared(app):
    return [
        route
        for route in walk(app.routes)
        if route.path not in OWN and not (isinstance(route, APIRoute) and declarations(route.dependant))
    ]


def test_every_route_declares_who_may_call_it(registry):
    assert undeclared(registry.app) == []
    assert len(list(walk(registry.app.routes))) > 20


def test_no_route_is_there_twice(registry):
    names = [(method, route.path) for route in walk(registry.app.routes) for method in route.methods]
    assert len(names) == len(set(names))


def test_the_walk_finds_a_route_that_declares_nothing():
    app = FastAPI(docs_url=None, redoc_url=None)
    router = APIRouter(prefix="/below")

    @router.get("/forgotten")
    def forgotten():
        return {}

    @router.get("/declared", dependencies=[Depends(Requires(None))])
    def declared():
        return {}

    app.include_router(router)
    app.mount("/mounted", FastAPI(docs_url=None, redoc_url=None, openapi_url=None, routes=[Route("/plain", forgotten)]))

    found = {route.path for route in undeclared(app)}

    assert len(found) == 2
    assert any(path.endswith("/forgotten") for path in found)
    assert "/plain" in found


def test_only_health_logging_in_and_trust_data_are_public(registry):
    public = [
        route.path
        for route in walk(registry.app.routes)
        if isinstance(route, APIRoute) and any(isinstance(found, Public) for found in declarations(route.dependant))
    ]

    assert sorted(public) == [
        "/health",
        "/v1/login-options",
        "/v1/token-exchange",
        "/v1/trust/metadata/{name}",
        "/v1/trust/targets/{name}",
    ]


def test_every_route_is_guarded_so_that_it_answers_who_may_before_it_reads_a_body(registry):
    from modelreg_server.guarding import GuardedRoute

    bare = [
        route.path
        for route in walk(registry.app.routes)
        if route.path not in OWN and not isinstance(route, GuardedRoute)
    ]
    assert bare == []


def test_a_guarded_route_that_declares_nothing_cannot_be_defined():
    from modelreg_server.guarding import GuardedRoute

    router = APIRouter(route_class=GuardedRoute)

    def forgotten():
        return {}

    with pytest.raises(TypeError, match="declares neither"):
        router.get("/forgotten")(forgotten)


def test_no_route_is_a_coroutine_that_would_block_the_loop(registry):
    import inspect

    for route in walk(registry.app.routes):
        if isinstance(route, APIRoute):
            assert not inspect.iscoroutinefunction(route.endpoint), route.path


@pytest.fixture(scope="module")
def document(http_):
    answer = http_("GET", "/openapi.json")
    assert answer.status == 200
    return answer.json


def operations(document):
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_has_a_summary_a_description_and_a_tag(document):
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name


def test_every_operation_documents_its_errors_as_problem_details(document):
    for name, operation in operations(document):
        for status in ("401", "403", "404", "409", "413", "422", "503"):
            content = operation["responses"][status]["content"]
            assert list(content) == ["application/problem+json"], (name, status, list(content))
            assert content["application/problem+json"]["schema"]["title"] == "Problem", (name, status)


def test_every_route_is_in_the_document(registry, document):
    documented = {name for name, _ in operations(document)}
    served = {
        f"{method} {route.path_format}"
        for route in walk(registry.app.routes)
        if isinstance(route, APIRoute)
        for method in route.methods
    }

    assert documented == served
