"""An error on the wire and back: RFC 9457 problem details whose `type` is `urn:modelreg:problem:<code>`."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from modelreg.errors import ModelregError, all_errors

MEDIA_TYPE_PROBLEM = "application/problem+json"
PROBLEM_PREFIX = "urn:modelreg:problem:"
MAX_DETAIL_CHARS = 2000  # of what a server says of a problem: it ends up on a terminal


class Problem(BaseModel):
    """RFC 9457 problem details. Facts are further members; unknown ones are kept."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    instance: str = ""


def problem_of(error: ModelregError, instance: str) -> dict[str, Any]:
    """The problem body of an error; `instance` names the request."""
    return {
        **error.facts,
        "type": PROBLEM_PREFIX + error.code,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": instance,
    }


def error_of(problem: Problem) -> ModelregError:
    """The error a problem body stands for: the same class where this client knows the code, else the base class."""
    code = problem.type.removeprefix(PROBLEM_PREFIX)
    kind = next((kind for kind in all_errors() if kind.code == code), ModelregError)
    detail = problem.detail or problem.title or f"the registry answered {problem.status}"
    return kind(detail[:MAX_DETAIL_CHARS], **(problem.model_extra or {}))
