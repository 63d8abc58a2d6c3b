import os
import socket
import stat

import pytest

from modelreg import trees
from modelreg.errors import Invalid, NotFound


def fill(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def test_every_file_is_listed_and_empty_folders_are_not(tmp_path):
    fill(tmp_path, "b.bin", "a/b/c.bin", "a-b.txt", ".hidden/x", "a/z")
    (tmp_path / "empty" / "emptier").mkdir(parents=True)

    assert trees.list_files(tmp_path) == [".hidden/x", "a-b.txt", "a/b/c.bin", "a/z", "b.bin"]


def test_names_are_left_out_at_the_top_only(tmp_path):
    fill(tmp_path, ".git/config", "sub/.git/config", "model.sig", "sub/model.sig", "x", ".gitignore", "sub/.gitignore")

    assert trees.list_files(tmp_path, trees.LEFT_OUT) == ["sub/.git/config", "sub/.gitignore", "sub/model.sig", "x"]


def test_nothing_is_left_out_that_was_not_named(tmp_path):
    fill(tmp_path, ".git/hooks/evil.py", "x")

    assert trees.list_files(tmp_path) == [".git/hooks/evil.py", "x"]


def test_a_folder_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        trees.list_files(tmp_path / "absent")


def test_a_file_is_no_folder(tmp_path):
    fill(tmp_path, "x")

    with pytest.raises(Invalid, match="is not a folder"):
        trees.list_files(tmp_path / "x")


def _symlink_to_file(at):
    at.symlink_to("x")


def _symlink_to_folder(at):
    at.symlink_to("/etc")


def _dangling_symlink(at):
    at.symlink_to("nowhere")


def _socket(at):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(at))


def _device(at):
    os.mknod(at, stat.S_IFCHR | 0o600, os.makedev(1, 3))


SPECIAL = {
    "symbolic link": [_symlink_to_file, _symlink_to_folder, _dangling_symlink],
    "pipe": [os.mkfifo],
    "socket": [_socket],
    "device": [_device],
}


@pytest.mark.parametrize("where", ["special", "folder/special"])
@pytest.mark.parametrize(("kind", "make"), [(kind, make) for kind, makes in SPECIAL.items() for make in makes])
def test_what_is_no_regular_file_is_refused_and_named(tmp_path, monkeypatch, kind, make, where):
    monkeypatch.chdir(tmp_path)  # a socket's path has 108 bytes at most
    fill(tmp_path, "x", "folder/x")
    try:
        make(tmp_path / where)
    except PermissionError as error:
        pytest.skip(f"this machine may not make a {kind}: {error}")

    with pytest.raises(Invalid, match=f"special' is a {kind}"):
        trees.list_files(tmp_path)
    with trees.open_folder(tmp_path) as fd, pytest.raises((OSError, Invalid)), trees.open_below(fd, where):
        pass


def test_a_symlink_at_a_left_out_name_is_not_looked_at(tmp_path):
    fill(tmp_path, "x")
    (tmp_path / ".git").symlink_to("/etc")

    assert trees.list_files(tmp_path, trees.LEFT_OUT) == ["x"]


def test_a_root_named_through_a_symlink_is_read(tmp_path):
    # Once: silently empty, because os.fwalk does not enter a link even where it is the root.
    fill(tmp_path, "real/x")
    (tmp_path / "current").symlink_to("real")

    assert trees.list_files(tmp_path / "current") == ["x"]


def test_a_folder_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path, monkeypatch):
    # Once: skipped, so that a file in it was neither signed nor reported as extra. Root reads everything: fake the refusal.
    fill(tmp_path, "x", "locked/evil.py")
    really_open = os.open

    def refusing_open(path, *arguments, **named):
        if path == "locked":
            raise PermissionError(13, "Permission denied", path)
        return really_open(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refusing_open)

    with pytest.raises(PermissionError):
        trees.list_files(tmp_path)


def test_folders_too_deep_for_a_manifest_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(trees.MAX_DEPTH + 1):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(tmp_path)

    with pytest.raises(Invalid, match="512 deep"):
        trees.list_files(tmp_path)


def test_a_name_that_is_not_utf_8_can_be_reported(tmp_path):
    os.symlink("x", os.fsencode(tmp_path) + b"/evil\xff\n\x1b[2J")

    with pytest.raises(Invalid) as caught:
        trees.list_files(tmp_path)

    assert caught.value.detail.isprintable()
    caught.value.facts["value"].encode("ascii")


def test_what_no_one_has_heard_of_has_a_name_too():
    assert trees._kind(0) == "special file"


def test_a_file_is_opened_below_its_folder(tmp_path):
    fill(tmp_path, "a/b/c.bin")

    with trees.open_folder(tmp_path) as folder_fd, trees.open_below(folder_fd, "a/b/c.bin") as fd:
        assert os.read(fd, 100) == b"a/b/c.bin"


def test_a_symlinked_parent_folder_is_not_followed(tmp_path):
    fill(tmp_path, "outside/secret", "model/x")
    (tmp_path / "model" / "sub").symlink_to("../outside")

    with (
        trees.open_folder(tmp_path / "model") as fd,
        pytest.raises(OSError, match="Not a directory|symbolic"),
        trees.open_below(fd, "sub/secret"),
    ):
        pass


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "..", ".", "", "/etc/passwd", "a//b", "./a", "a/"])
def test_no_path_leads_out_of_the_folder(tmp_path, path):
    fill(tmp_path, "secret", "model/a/b")

    with (
        trees.open_folder(tmp_path / "model") as fd,
        pytest.raises(Invalid, match="does not stay inside"),
        trees.open_below(fd, path),
    ):
        pass


def test_no_descriptor_is_left_open(tmp_path):
    fill(tmp_path, "a/b/c/d", "a/x")
    os.mkfifo(tmp_path / "a" / "pipe")
    before = len(os.listdir("/proc/self/fd"))

    with trees.open_folder(tmp_path) as fd:
        for path in ("a/b/c/d", "a/b/absent", "a/absent/x", "a/pipe", "a"):
            try:
                with trees.open_below(fd, path):
                    pass
            except (OSError, Invalid):
                pass

    assert len(os.listdir("/proc/self/fd")) == before
