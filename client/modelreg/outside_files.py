"""Files behind a URL, by the range; and the source that is one such file."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from modelreg import connections
from modelreg.connections import Transient
from modelreg.errors import Invalid, ManifestInvalid, Unreachable
from modelreg.outside import Answer, Outside, require_ok
from modelreg.sources import ETAG, RemoteFile, Resolved, UrlSource, wanted

_BLOCK_BYTES = 256 * 1024
_MAX_ETAG_CHARS = 200


class FileUrl:
    """One file behind a URL. See `sources.Upstream`."""

    def __init__(self, outside: Outside, source: UrlSource) -> None:
        self._outside = outside
        self._source = source

    def resolve(self) -> Resolved:
        """The file's size, and whether it can be fetched in ranges that are known to belong together."""

        def ask() -> Resolved:
            with self._outside.open(self._source.url, {"Range": "bytes=0-0", "Accept-Encoding": "identity"}) as answer:
                return self._read(answer)

        return connections.with_retries(ask)

    @contextmanager
    def open_range(self, file: RemoteFile, start: int, stop: int) -> Iterator[Iterator[bytes]]:
        """Bytes of the file, as long as its validator is the one of `resolve`."""
        with open_range(self._outside, file.uri, file, start, stop) as (_answer, blocks):
            yield blocks

    def _read(self, answer: Answer) -> Resolved:
        headers = answer.response.headers
        content_range = headers.get("Content-Range", "")
        if answer.status == 416 and content_range == "bytes */0":
            text = "0"
        else:
            require_ok(answer)
            text = (
                content_range.removeprefix("bytes 0-0/") if answer.status == 206 else headers.get("Content-Length", "")
            )
        if not (text.isascii() and text.isdigit() and len(text) < 17):
            raise Unreachable(f"{answer.url.shown} does not say how long it is, so nobody could tell when it is whole")
        etag = headers.get("ETag")
        # A weak validator, or none, would let two states of the file be put together from ranges.
        strong = etag is not None and etag.startswith('"') and len(etag) <= _MAX_ETAG_CHARS and etag.isprintable()
        name = unquote(self._source.url.rpartition("/")[2])
        if not name:
            raise Invalid("the source names no file; only one file at a time is imported over https", field="source")
        file = RemoteFile(
            name,
            int(text),
            self._source.url,
            {ETAG: etag} if strong and etag is not None else {},
            etag if strong else None,
            ranged=strong and answer.status == 206,
        )
        try:
            files, _ = wanted([file])
        except ManifestInvalid as error:
            raise Invalid(f"the source's file cannot be part of an artifact: {error.detail}", field="source") from None
        return Resolved(self._source.url, None, files, f"{self._source.url} {etag} {text}")


@contextmanager
def open_range(
    outside: Outside, url: str, file: RemoteFile, start: int, stop: int
) -> Iterator[tuple[Answer, Iterator[bytes]]]:
    """Bytes `start` to `stop` of a file behind a URL; the whole file where it is not `ranged`.

    Raises:
        Transient: the answer is not that range, or another state of the file.
        As `Outside.open` and `require_ok`.
    """
    headers = {"Accept-Encoding": "identity"}
    if file.ranged:
        headers["Range"] = f"bytes={start}-{stop - 1}"
    if file.ranged and file.etag is not None:
        headers["If-Match"] = file.etag
    with outside.open(url, headers) as answer:
        if answer.status == 412 or (file.etag is not None and answer.header("ETag") != file.etag):
            raise Unreachable(f"{answer.url.shown} changed while it was fetched; import again")
        require_ok(answer)
        # Some mirrors know no ranges; the whole file is one as well.
        whole = answer.status == 200 and (start, stop) == (0, file.size)
        expected = None if whole else f"bytes {start}-{stop - 1}/{file.size}"
        if answer.response.headers.get("Content-Range") != expected:
            raise Transient(f"{answer.url.shown} did not answer with the range that was asked for")
        seconds = connections.READ_SECONDS + (stop - start) / connections.SLOWEST_BYTES_A_SECOND
        with connections.within(answer.response, seconds):
            yield answer, answer.response.stream(_BLOCK_BYTES)
