"""HTTP endpoints: parse, call one operation, shape the answer. All `def`: the ORM and boto3 block."""

from typing import Annotated

from fastapi import Path, Query

from modelreg import wire

IdPath = Annotated[str, Path(pattern="^[0-9a-f-]{36}$", description="The id this API gave.")]
BlobPath = Annotated[wire.Hex64, Path(description="BLAKE3 of a blob of this publication or grant.")]
TagPath = Annotated[wire.TagName, Path()]
ArtifactPath = Annotated[wire.ArtifactDigest, Path()]
LimitQuery = Annotated[int, Query(ge=1, le=1000)]
REPOSITORY = "/v1/repositories/{namespace}/{name}"
