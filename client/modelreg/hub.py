"""Reading a model from a hub (the Hugging Face protocol's read set): revision, tree, files. Nothing it says is believed.

GET /api/models/{name}/revision/{revision}     the commit, and the model card's data
GET /api/models/{name}/tree/{commit}           every file with its size and digest, by pages
GET /{name}/resolve/{commit}/{path}            the bytes, maybe by a redirect to another host
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urljoin

from modelreg.digests import is_hex_64
from modelreg.errors import Invalid, Unreachable
from modelreg.outside import Answer, Outside
from modelreg.outside_files import open_range
from modelreg.outside_urls import Rules, parse
from modelreg.provenance import MAX_DEPENDENCIES
from modelreg.sources import GIT_SHA1, SHA256, HubSource, RemoteFile, Resolved, wanted

ENDPOINT = "https://huggingface.co"
MAX_PAGES = 1000
_SHA1 = re.compile(r"[0-9a-f]{40}", re.ASCII)
_NEXT = re.compile(r'<([^<>\s]{1,4000})>\s*;\s*rel="?next"?', re.ASCII)
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+:()/_-]{0,99}", re.ASCII)


class Hub:
    """A model of a hub. See `sources.Upstream`."""

    def __init__(self, outside: Outside, endpoint: str, source: HubSource) -> None:
        self._outside = outside
        self._endpoint = endpoint.rstrip("/")
        self._source = source

    def resolve(self) -> Resolved:
        """The commit that the revision is now, and its files."""
        name, revision = self._source.name, self._source.revision
        answer = self._json(f"/api/models/{name}/revision/{quote(revision, safe='')}")[0]
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not _SHA1.fullmatch(commit):
            raise Unreachable(f"{self._endpoint} does not say which commit {name}@{revision} is; is it a hub?")
        if _SHA1.fullmatch(revision) and commit != revision:
            raise Unreachable(f"{self._endpoint} answers with commit {commit}, asked for was {revision}")
        files, left_out = wanted(self.tree(commit))
        return Resolved(
            source=str(self._source),
            revision=commit,
            files=files,
            key=f"{self._endpoint} {self._source} {commit}",
            name=name,
            licence=licence_of(answer.get("cardData")),
            left_out=left_out,
        )

    def tree(self, commit: str) -> list[RemoteFile]:
        """Every file of a commit.

        Raises:
            NotFound: the hub has no such commit (any more).
            Unreachable: not a tree as a hub lists it, or one without end.
        """
        found: list[RemoteFile] = []
        url: str | None = f"/api/models/{self._source.name}/tree/{commit}?recursive=true&expand=false"
        for _ in range(MAX_PAGES):
            if url is None:
                return found
            page, answer = self._json(url)
            if not isinstance(page, list) or len(found) + len(page) > 4 * MAX_DEPENDENCIES:
                raise Unreachable(f"{self._endpoint} lists no files, or too many of them")
            found += [file for item in page if (file := self._file(item, commit)) is not None]
            url = self._next(answer)
        raise Unreachable(f"{self._endpoint} lists files on more than {MAX_PAGES} pages")

    @contextmanager
    def open_range(self, file: RemoteFile, start: int, stop: int) -> Iterator[Iterator[bytes]]:
        """Bytes of a file at the commit."""
        with open_range(self._outside, file.uri, file, start, stop) as (answer, blocks):
            told = answer.header("X-Repo-Commit")
            if told is not None and f"/resolve/{told}/" not in file.uri:
                raise Unreachable(f"{self._endpoint} sent {ascii(file.path)[1:-1]} of commit {ascii(told)[1:50]}")
            yield blocks

    def _file(self, item: Any, commit: str) -> RemoteFile | None:
        if not isinstance(item, dict) or not isinstance(item.get("path"), str):
            raise Unreachable(f"{self._endpoint} lists something that is no file")
        path, size = item["path"], item.get("size")
        if item.get("type") == "directory":
            return None
        lfs = item.get("lfs")
        declared = {SHA256: lfs.get("oid")} if isinstance(lfs, dict) else {GIT_SHA1: item.get("oid")}
        if isinstance(lfs, dict):
            size = lfs.get("size", size)
        well_formed = is_hex_64(declared.get(SHA256)) or _SHA1.fullmatch(str(declared.get(GIT_SHA1)))
        if item.get("type") != "file" or not isinstance(size, int) or isinstance(size, bool) or not well_formed:
            raise Unreachable(
                f"{self._endpoint} lists {ascii(path)[1:80]} without its size and digest; it cannot be imported from here"
            )
        uri = f"{self._endpoint}/{self._source.name}/resolve/{commit}/{_quoted(path)}"
        return RemoteFile(path, size, uri, {name: str(value) for name, value in declared.items()})

    def _next(self, answer: Answer) -> str | None:
        found = _NEXT.search(answer.response.headers.get("Link", ""))
        if found is None:
            return None
        url: str = urljoin(answer.url.origin + answer.url.path, found[1])
        if parse(url, self._outside.rules).origin != answer.url.origin:
            raise Unreachable(f"{self._endpoint} continues its list of files on another host")
        return url

    def _json(self, path: str) -> tuple[Any, Answer]:
        url = path if "://" in path else self._endpoint + path
        answer, raw = self._outside.read(url, {"Accept": "application/json"})
        try:
            return json.loads(raw), answer
        except (ValueError, RecursionError):
            raise Unreachable(f"{answer.url.shown} does not answer in JSON; is it a hub?") from None


def _quoted(path: str) -> str:
    try:
        return quote(path)
    except UnicodeEncodeError:
        raise Unreachable("the hub lists a name that is no text") from None


def licence_of(untrusted_card: Any) -> str | None:
    """The licence that a model card's data names; None where it names none in a form that can be repeated."""
    if not isinstance(untrusted_card, Mapping):
        return None
    licence = untrusted_card.get("license")
    if licence == "other":
        licence = untrusted_card.get("license_name") or licence
    if isinstance(licence, list):
        licence = licence[0] if len(licence) == 1 else None
    return licence if isinstance(licence, str) and _LICENCE.fullmatch(licence) else None


def licence_in(raw_card: bytes) -> str | None:
    """The licence in the front matter of a README.md: plain `license: …` lines only, not all of YAML."""
    lines = raw_card[:65536].decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    members: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            return licence_of(members)
        name, colon, value = line.partition(":")
        if colon and name in {"license", "license_name"}:
            members[name] = value.strip().strip("'\"")
    return None


def endpoint_of(text: str | None, rules: Rules) -> str:
    """The hub to ask: the address that was given, without a slash at its end.

    Raises:
        Invalid, Forbidden: it is no address that may be asked.
    """
    if text is None:
        return ENDPOINT
    target = parse(text, rules)
    if "?" in target.path:
        raise Invalid("the endpoint is an address without a query", field="from_endpoint")
    return (target.origin + target.path).rstrip("/")
