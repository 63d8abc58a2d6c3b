"""What a user types as a source, and what a source may say that it holds."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelreg.errors import Invalid, ManifestInvalid, ModelregError, NotFound, Unreachable
from modelreg.hub import licence_in, licence_of
from modelreg.sources import BucketSource, FolderSource, HubSource, RemoteFile, UrlSource, parse_source, wanted


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf://acme-ai/tiny", HubSource("acme-ai/tiny", "main")),
        ("hf://Acme/Tiny-1.1_b@v1.0", HubSource("Acme/Tiny-1.1_b", "v1.0")),
        ("hf://a/b@refs/pr/7", HubSource("a/b", "refs/pr/7")),
        ("hf://a/b@" + "0" * 40, HubSource("a/b", "0" * 40)),
        ("https://host.example/a/b.gguf", UrlSource("https://host.example/a/b.gguf")),
        ("file:///srv/a%20b", FolderSource(Path("/srv/a b"))),
        ("s3://bucket/a/b/", BucketSource("bucket", "a/b/")),
        ("s3://bucket", BucketSource("bucket", "")),
    ],
)
def test_a_source_is_read(text, source):
    assert parse_source(text) == source
    # What is recorded leads to the same place, without the revision, which is recorded beside it.
    assert type(parse_source(str(source))) is type(source)


@pytest.mark.parametrize(
    "text",
    [
        "", "acme/tiny", "hf:acme/tiny", "hf://", "hf://tiny", "hf://a/b/c", "hf://a/..", "hf://../b", "hf://a/b@", "hf://a/b@-x",
        "hf://a/b@x y", "hf://a/b@x/../y", "hf://a/b?x=1", "hf://a/b#x", "hf://a@b/c", "hf:///b", "hf://a/b\n", "https://h/x?y",
        "file://host/x", "file:///a/../b", "file:relative", "file:///a?b", "s3://", "s3://A/b", "s3://a_b/c", "oci://h/r:t",
        "ftp://h/x", "x" * 2000, "hf://é/b", "HF://a/b",
    ],
)  # fmt: skip
def test_what_is_no_source_is_refused(text):
    with pytest.raises(Invalid, match="the source"):
        parse_source(text)


@example("[")
@given(st.text(max_size=60))
def test_any_text_is_a_source_or_refused_in_a_sentence(text):
    for tried in (text, f"hf://{text}", f"file://{text}", f"s3://{text}", f"https://{text}"):
        try:
            parse_source(tried)
        except ModelregError as error:
            assert error.detail


def files(*paths, size=1):
    return [RemoteFile(path, size, f"https://h.example/{path}") for path in paths]


def test_what_is_never_part_of_an_artifact_is_left_out_and_the_signature_is_fetched():
    ours, left_out = wanted(files("a.bin", ".gitattributes", ".git/config", "model.sig", "sub/.gitattributes"))

    assert [file.path for file in ours] == ["a.bin", "model.sig", "sub/.gitattributes"]
    assert left_out == (".git", ".gitattributes")


@pytest.mark.parametrize("paths", [(), (".gitattributes",), ("model.sig",)])
def test_a_source_without_a_file_of_a_model_is_refused(paths):
    with pytest.raises(NotFound):
        wanted(files(*paths))


@pytest.mark.parametrize("paths", [("../x",), ("/x",), ("a", "A"), ("a", "a/b"), ("a\\b",), ("x", "x")])
def test_names_that_no_artifact_may_hold_are_refused(paths):
    with pytest.raises(ManifestInvalid):
        wanted(files(*paths))


def test_too_many_files_and_impossible_sizes_are_refused():
    with pytest.raises(Unreachable, match="20001 files"):
        wanted(files(*map(str, range(20_001))))
    with pytest.raises(ManifestInvalid):
        wanted(files("a", size=-1))
    with pytest.raises(ManifestInvalid):
        wanted(files("a", size=2**60))


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ({"license": "mit"}, "mit"), ({"license": ["apache-2.0"]}, "apache-2.0"), ({"license": ["a", "b"]}, None),
        ({"license": "other", "license_name": "llama3.1"}, "llama3.1"), ({"license": "other"}, "other"), ({}, None), (None, None),
        ({"license": {"a": 1}}, None), ({"license": "x" * 200}, None), ({"license": "a\nb"}, None), ([], None), ("mit", None),
    ],
)  # fmt: skip
def test_the_licence_of_a_model_card(card, licence):
    assert licence_of(card) == licence


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\nlicense: not-this", "mit"), ('---\nlicense: "mit"\n---', "mit"),
        ("---\nlanguage: en\nlicense: other\nlicense_name: acme\n---", "acme"), ("---\nlicense: mit\n", None),
        ("license: mit", None), ("", None), ("---\n---\n", None), ("---\n  license: mit\n---", None), ("---\nlicense:\n---", None),
    ],
)  # fmt: skip
def test_the_licence_in_front_matter(text, licence):
    assert licence_in(text.encode()) == licence


@given(st.binary(max_size=300))
def test_any_bytes_are_a_model_card(raw):
    licence_in(b"---\nlicense: " + raw)
