"""``bootc-fast image``: what it prints, and what it refuses."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from erofs_builder import File, build, directory, regular, sample

from bootc_fast import _core
from bootc_fast.cli import main
from bootc_fast.composefs.images import find_objects, verify_image

CONTENT = b"kept as an object " * 10


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    (tmp_path / "plain.erofs").write_bytes(build(sample(), epoch=(1000, 5), long_prefixes=((1, b"long."),)).data)
    return tmp_path / "plain.erofs"


@pytest.fixture
def composefs(tmp_path: Path) -> Path:
    """An image in a repository, by our own writer."""
    source, repository = tmp_path / "source", tmp_path / "repository"
    (source / "etc").mkdir(parents=True)
    (source / "etc" / "large").write_bytes(CONTENT)
    (source / "etc" / "small").write_bytes(b"small\n")
    (source / "etc" / os.fsdecode(b"n\xff\x1b[31m")).symlink_to("small")
    os.utime(source / "etc" / "small", (86400, 86400))
    repository.mkdir()
    fds = [os.open(repository, os.O_RDONLY), os.open(source, os.O_RDONLY)]
    try:
        writer = _core.RepositoryWriter(fds[0])
        digest = writer.write_image(writer.ingest_directory(fds[1], squash_owner=(0, 0)))
    finally:
        for fd in fds:
            os.close(fd)
    return repository / "images" / digest


def object_of(image: Path) -> Path:
    with image.open("rb") as file:
        entry = _core.Image.open(file.fileno()).lookup(b"etc/large")
    assert entry is not None
    assert entry.digest is not None
    return image.parent.parent / "objects" / entry.digest[:2] / entry.digest[2:]


def test_ls_shows_one_directory_for_people(composefs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "ls", str(composefs), "/etc"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" /", 1)[1] for line in lines] == ["etc/large", "etc/n\\xff\\x1b[31m -> small", "etc/small"]
    assert lines[0].startswith("-rw-r--r--    1         0:0          180 ")
    assert "1970-01-02 00:00:00" in lines[2]
    assert main(["image", "ls", str(composefs), "etc/small"]) == 0
    assert capsys.readouterr().out.endswith(" /etc/small\n")


def test_ls_as_json_has_all_attributes(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "ls", "-R", "--json", str(plain)]) == 0
    listed = {json.dumps(entry["path"]): entry for entry in json.loads(capsys.readouterr().out)}
    assert len(listed) == 80
    assert listed['"/plain"'] == {
        "path": "/plain", "type": "file", "mode": "0644", "uid": 70000, "gid": 80000, "nlink": 1, "rdev": 0,
        "size_bytes": 8189, "mtime_ns": 0, "xattrs": [], "target": None, "object": None,
    }  # fmt: skip
    assert [entry["type"] for name, entry in listed.items() if name in {'"/block"', '"/char"', '"/fifo"'}] == [
        "block",
        "char",
        "fifo",
    ]
    assert listed['"/dir/many"']["mtime_ns"] == -4_999_999_999
    not_text = base64.b64encode(b"/\xff\xfe").decode()
    assert listed[json.dumps({"base64": not_text})]["size_bytes"] == len("not UTF-8")
    assert {"name": "user.k", "value_base64": "dg=="} in listed['"/xattrs"']["xattrs"]


def test_cat_prints_contents_wherever_they_are(
    composefs: Path, plain: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["image", "cat", str(composefs), "etc/large", "/etc/small"]) == 0
    assert capfdbinary.readouterr().out == CONTENT + b"small\n"
    assert main(["image", "cat", str(plain), "chunks"]) == 0
    data = bytearray(bytes(range(256)) * 81)
    data[4096:8192] = data[12288:16384] = bytes(4096)
    assert capfdbinary.readouterr().out == data


def test_cat_refuses_what_has_no_content(composefs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "cat", str(composefs), "etc"]) == 2
    assert "is not a regular file" in capfd.readouterr().err
    assert main(["image", "cat", str(composefs), "etc/nothing"]) == 6
    assert "etc/nothing: No such file in the image" in capfd.readouterr().err


def test_cat_needs_the_objects_and_believes_no_damaged_one(
    composefs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone"
    alone.write_bytes(composefs.read_bytes())
    assert find_objects(alone) is None
    assert main(["image", "cat", str(alone), "etc/large"]) == 2
    assert "--objects" in capfd.readouterr().err
    objects = composefs.parent.parent / "objects"
    assert main(["image", "cat", str(alone), "etc/large", "--objects", str(objects)]) == 0
    assert capfd.readouterr().out == CONTENT.decode()
    damaged = object_of(composefs)
    damaged.chmod(0o644)
    damaged.write_bytes(CONTENT[:-1] + b"!")
    assert main(["image", "cat", str(composefs), "etc/large"]) == 11
    captured = capfd.readouterr()
    assert "is not what its name says" in captured.err
    assert captured.out == ""
    damaged.unlink()
    assert main(["image", "cat", str(composefs), "etc/large"]) == 10
    assert "is missing" in capfd.readouterr().err


def test_dump_prints_every_file_and_refuses_images_that_are_not_composefs(
    composefs: Path, plain: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["image", "dump", str(composefs), str(composefs)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:5] == lines[5:]
    assert lines[0].startswith("/ 0 40755 3 0 0 0 ")
    digest = object_of(composefs).parent.name + object_of(composefs).name
    assert lines[2].startswith("/etc/large 180 100644 1 0 0 0 ")
    assert lines[2].endswith(f" {digest[:2]}/{digest[2:]} - {digest}")
    assert lines[3].startswith("/etc/n\\xff\\x1b[31m 5 120777 1 0 0 0 ")
    assert lines[4] == "/etc/small 6 100644 1 0 0 0 86400.0 - small\\n -"
    assert main(["image", "dump", str(plain)]) == 6
    assert "without a composefs header" in capfd.readouterr().err


def test_dump_into_a_closed_pipe_ends_quietly(composefs: Path) -> None:
    command = [sys.executable, "-m", "bootc_fast", "image", "dump", *[str(composefs)] * 400]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_verify_compares_the_image_with_its_name(composefs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "verify", str(composefs)]) == 0
    out = capsys.readouterr().out
    assert "composefs V1, 5 entries, 1 objects of 180 bytes (not looked at), digest as expected" in out
    file = composefs.resolve()
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert main(["image", "verify", str(composefs)]) == 11
    assert f"not {composefs.name[:16]}…" in capsys.readouterr().err


def test_verify_looks_at_the_objects_when_asked(composefs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = composefs.parent.parent / "objects"
    assert main(["image", "verify", "--json", "--objects", str(objects), str(composefs)]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts == {
        "path": str(composefs), "digest": composefs.name, "is_expected": True, "is_sealed": False,
        "composefs_version": 1, "block_bytes": 4096, "entries": 5, "objects": 1, "object_bytes": 180,
        "objects_verified": True,
    }  # fmt: skip
    object_of(composefs).unlink()
    assert main(["image", "verify", "--objects", str(objects), str(composefs)]) == 10
    assert "is missing" in capsys.readouterr().err


def test_verify_takes_a_digest_to_expect(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = verify_image(plain, expected=None, objects=None).digest
    assert main(["image", "verify", "--digest", digest, str(plain)]) == 0
    assert main(["image", "verify", "--digest", "0" * 64, str(plain)]) == 11
    with pytest.raises(SystemExit) as stopped:
        main(["image", "verify", "--digest", "../etc", str(plain)])
    assert stopped.value.code == 2
    assert "64 or 128 lower-case" in capsys.readouterr().err


def test_an_object_of_another_size_than_the_image_says_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "object").write_bytes(CONTENT)
    with (tmp_path / "object").open("rb") as file:
        digest = _core.digest_fd(file.fileno(), algorithm="sha256")
    (tmp_path / "objects" / digest[:2]).mkdir(parents=True)
    (tmp_path / "object").rename(tmp_path / "objects" / digest[:2] / digest[2:])
    large = File(
        stat.S_IFREG | 0o644, data=bytes(5000), layout="chunk map", chunk_bits=1, holes=frozenset({0}),
        xattrs={b"trusted.overlay.metacopy": bytes((0, 36, 0, 1)) + bytes.fromhex(digest)},
        shared={b"trusted.overlay.redirect": f"/{digest[:2]}/{digest[2:]}".encode()},
    )  # fmt: skip
    (tmp_path / "image").write_bytes(build(directory({b"f": large}), composefs_version=1).data)
    options = ["--objects", str(tmp_path / "objects"), str(tmp_path / "image")]
    assert main(["image", "verify", *options]) == 10
    assert f"has {len(CONTENT)} bytes, the image says 5000" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["ls"], ["dump"], ["verify"]])
def test_what_is_no_image_is_an_error(command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_bytes(b"no image\n" * 1000)
    assert main(["image", *command, str(tmp_path / "text")]) == 6
    assert "error: the EROFS magic is 0x" in capfd.readouterr().err
    assert main(["image", *command, str(tmp_path / "absent")]) == 6
    assert "No such file or directory" in capfd.readouterr().err


def test_names_of_inner_files_do_not_collide_with_the_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "image").write_bytes(build(directory({b"a": regular(b"1")})).data)
    assert main(["image", "ls", str(tmp_path / "image"), "//"]) == 0
    assert capsys.readouterr().out.endswith(" /a\n")
