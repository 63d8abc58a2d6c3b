"""The four registries every end-to-end test runs on, and a model to push."""

import json
import uuid

import numpy
import pytest
from safetensors.numpy import save_file

from support.registry import running_registry, s3_settings

COMBINATIONS = [("sqlite", "directory"), ("sqlite", "s3"), ("postgresql", "directory"), ("postgresql", "s3")]


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def registry(request, tmp_path):
    """A real registry on this database and this store."""
    database, store = request.param
    settings = {}
    if database == "postgresql":
        server = request.getfixturevalue("postgres")
        settings["database_url"] = server.make_database(f"e2e_{uuid.uuid4().hex}")
    if store == "s3":
        settings |= s3_settings(request.getfixturevalue("s3_server"))
    with running_registry(tmp_path / "registry", **settings) as running:
        yield running


@pytest.fixture
def model_folder(tmp_path):
    """A real safetensors file of two and a half parts, with small files, an empty one and a nested folder."""
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    noise = numpy.random.default_rng(7)
    tensors = {f"layer.{n}.weight": noise.standard_normal((1024, 1024), dtype=numpy.float32) for n in range(10)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 1024}))
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "empty.txt").write_bytes(b"")
    return folder
