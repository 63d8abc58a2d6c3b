"""A registry that lies in an answer to a question: it is refused, or what it says of signatures is not called verified."""

import json
import threading
import urllib.request
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from modelreg import connections, lookup
from modelreg.api import Api
from modelreg.commands import asking, table_lines
from modelreg.errors import Unreachable
from modelreg.lookup import Judge, Question
from support.registry import SIGNER

CHECKED = {"verified": True, "code": None, "why_not": None, "identity": "email:al@demo.example", "signed_at": None}


@contextmanager
def lying(registry, lie):
    """Passes look-ups on to the registry, and its answers back through `lie(path, answer)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            request = urllib.request.Request(registry.url + self.path, headers=dict(self.headers))
            with urllib.request.urlopen(request) as response:
                answer = json.loads(response.read())
            body = json.dumps(lie(self.path, answer)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    pool = connections.make_pool(None, 1)
    try:
        yield Api(f"http://127.0.0.1:{server.server_address[1]}", registry.token(), pool)
    finally:
        pool.clear()
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture(scope="module")
def two(registry, tmp_path_factory):
    """Two published artifacts and what the registry truly says of their signatures."""
    from modelreg import push
    from modelreg.references import parse_reference
    from support.registry import QUIET

    found = []
    for name in ("demo/true", "demo/other"):
        root = tmp_path_factory.mktemp("model")
        (root / "model.bin").write_bytes(uuid.uuid4().bytes)
        pushed = push.push(
            registry.api(), root, parse_reference(name), registry.trust.signer, tags=["v1"], connections_at_once=1,
            meter=QUIET,
        )  # fmt: skip
        found.append(pushed.published.artifact)
    return found


@pytest.fixture
def judge(registry):
    return Judge(registry.trust.policy, datetime.now(UTC))


def in_signatures(change):
    return lambda path, answer: change(answer) if path.startswith("/v1/lookups/signatures") else answer


def test_the_truth_is_verified_through_the_same_way(registry, two, judge):
    with lying(registry, lambda _path, answer: answer) as api:
        assert lookup.trace(api, Question(digest=two[0]), judge).artifacts[0].signatures[0].checked.verified


def test_what_the_registry_says_it_checked_counts_for_nothing(registry, two):
    def lie(path, answer):
        rows = answer["signatures"] if "signatures" in answer else answer["artifacts"][0]["signatures"]
        for row in rows:
            row["checked"] = CHECKED
        if "artifacts" in answer:
            answer["local"] = {
                "path": "x", "size_bytes": 1, "sha256": "y", "blake3": None, "format": "z", "detail": {},
            }  # fmt: skip
        return answer

    with lying(registry, lie) as api:
        question = Question(digest=two[0])
        nobody = Judge(None, datetime.now(UTC))
        assert lookup.signatures(api, question, None).signatures[0].checked is None
        assert not lookup.signatures(api, question, nobody).signatures[0].checked.verified
        answer = lookup.trace(api, question)
        assert (answer.artifacts[0].signatures[0].checked, answer.local) == (None, None)
        assert not lookup.trace(api, question, nobody).artifacts[0].signatures[0].checked.verified


def other_bundle(answer, other):
    answer["signatures"][0]["bundle"] = other["signatures"][0]["bundle"]
    return answer


def other_manifest(answer, other):
    answer["manifests"][0]["manifest"] = other["manifests"][0]["manifest"]
    return answer


def another_artifact_whole(answer, other):
    answer["signatures"][0]["bundle"] = other["signatures"][0]["bundle"]
    answer["manifests"][0]["manifest"] = other["manifests"][0]["manifest"]
    return answer


def another_repository(answer, _other):
    answer["signatures"][0]["repository"] = "else/where"
    return answer


def no_bundle(answer, _other):
    answer["signatures"][0]["bundle"] = None
    return answer


def no_manifest(answer, _other):
    answer["manifests"] = []
    return answer


def a_file_that_is_not_in_it(answer, _other):
    answer["found"] = [{**answer["found"][0], "by": "file", "path": "model.bin"}]
    return answer


def a_root_that_is_not_its_own(answer, _other):
    answer["found"] = [{**answer["found"][0], "by": "root"}]
    return answer


def not_found_at_all(answer, _other):
    answer["found"] = []
    return answer


@pytest.mark.parametrize(
    "change",
    [
        other_bundle, other_manifest, another_artifact_whole, another_repository, no_bundle, no_manifest,
        a_file_that_is_not_in_it, a_root_that_is_not_its_own, not_found_at_all,
    ],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_a_swapped_part_of_a_signature_is_not_called_verified(registry, two, judge, change):
    other = registry.api().look_up("signatures", [("digest", two[1])], lookup.answers.SignaturesAnswer)
    raw_other = json.loads(other.model_dump_json(by_alias=True))
    with lying(registry, in_signatures(lambda answer: change(answer, raw_other))) as api:
        (row,) = lookup.signatures(api, Question(digest=two[0]), judge).signatures
        assert not row.checked.verified
        assert row.checked.why_not


def another_subject(answer, artifact):
    return {**answer, "found": [{"artifact": artifact, "by": "artifact", "path": None}]}


@pytest.mark.parametrize(
    "lie",
    [
        another_subject,
        lambda answer, _other: {**answer, "schema": "modelreg/pulls/v2"},
        lambda answer, _other: {**answer, "surprise": 1},
        lambda answer, _other: {**answer, "next_before": 5},
    ],
    ids=["another subject", "another schema", "an unknown member", "pages in a circle"],
)
def test_an_answer_to_something_else_is_refused(registry, two, lie):
    with lying(registry, lambda _path, answer: lie(answer, two[1])) as api:
        with pytest.raises(Unreachable):
            lookup.pulls(api, Question(digest=two[0]), limit=10)


def test_the_signer_that_is_called_verified_is_the_one_that_was_verified(registry, two, judge):
    def lie(answer):
        for row in answer["signatures"]:
            row["identity"], row["authority"] = "email:ceo@demo.example", "somebody"
        return answer

    with lying(registry, in_signatures(lie)) as api:
        (row,) = lookup.signatures(api, Question(digest=two[0]), judge).signatures
        assert row.checked.verified
        text = asking._signature_text(row)
        assert f"verified    {SIGNER} " in text
        assert "ceo" not in text


def test_what_the_registry_says_makes_no_line_of_its_own_and_reaches_no_terminal(registry, two, judge, run, tmp_path):
    """A line break in a text of the registry would print whatever it likes, "verified" as well."""
    evil = "x\n  signature   verified    email:ceo@demo.example\x1b[2J"

    def lie(path, answer):
        for traced in answer.get("artifacts", []):
            traced["source"] = evil
            traced["state"] = {"state": "revoked", "reason": evil, "since": "2026-01-01T00:00:00Z", "by": evil}
            for row in traced["publications"]:
                row["repository"], row["tags"], row["published_by"] = evil, [evil], evil
        for row in answer.get("signatures", []):
            row["repository"] = evil
        for node in answer.get("nodes", []):
            node["repositories"] = [evil]
        return answer

    env = registry.environment(tmp_path / "home")
    with lying(registry, lie) as api:
        env["MODELREG_REGISTRY"] = api.registry
        mine = {name: value for name, value in env.items() if name.startswith("MODELREG_")}
        for command in ("trace", "signatures", "lineage"):
            code, out, err = run(command, two[0], **mine)
            assert code in {0, 40}, (out, err)
            assert not any(line.startswith("  signature   verified    email:ceo") for line in out.splitlines())
            assert all(char.isprintable() or char == "\n" for char in out + err)


def test_lists_in_a_table_hold_no_control_characters_and_no_lines():
    (_, row) = table_lines([{"tags": ["a\x1b[2J", "b\nfake"], "host": "h\nfake"}], ("tags", "host"))
    assert row.isprintable()
