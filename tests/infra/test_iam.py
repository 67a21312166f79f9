"""The policies by rule, and the embedded store holding its worker to them."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from infra import iam, stack
from infra import settings as places
from infra.settings import Settings, worker_keys
from infra.store import Denied, NotFound, Store, open_store

WRITES = (
    "s3:PutObject", "s3:PutObjectAcl", "s3:PutObjectTagging", "s3:PutObjectRetention", "s3:DeleteObject",
    "s3:DeleteObjectVersion", "s3:DeleteObjectTagging", "s3:AbortMultipartUpload", "s3:ReplicateObject",
    "s3:PutBucketPolicy", "s3:DeleteBucket", "s3:PutLifecycleConfiguration", "s3:BypassGovernanceRetention",
)  # fmt: skip


def allows(document: dict[str, Any], action: str, resource: str) -> bool:
    """What IAM answers: a Deny wins, and what no Allow names is refused."""

    def matches(statement: dict[str, Any]) -> bool:
        names = any(fnmatch.fnmatchcase(action.lower(), pattern.lower()) for pattern in statement["Action"])
        return names and any(fnmatch.fnmatchcase(resource, pattern) for pattern in statement["Resource"])

    effects = {statement["Effect"] for statement in document["Statement"] if matches(statement)}
    return effects == {"Allow"}


SETTINGS = [
    Settings(),
    Settings(masters_bucket="glass", masters_prefix="plates/", restored_bucket="mended", restored_prefix="r/"),
    Settings(masters_bucket="one", masters_prefix="masters/", restored_bucket="one"),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["default", "own names", "one bucket"])
@pytest.mark.parametrize("name", iam.NAMES)
def test_no_policy_lets_anybody_write_or_delete_a_master(name: str, settings: Settings) -> None:
    document = iam.policy(name, settings)
    master = f"arn:aws:s3:::{settings.masters_bucket}/{settings.masters_prefix}box 1/plate.tif"
    for action in WRITES:
        assert not allows(document, action, master), action
        assert not allows(document, action, f"arn:aws:s3:::{settings.masters_bucket}"), action
    assert allows(document, "s3:GetObject", master)
    for statement in document["Statement"]:
        if statement["Effect"] == "Allow":
            assert not any("*" in action or "?" in action for action in statement["Action"]), statement
            assert not {"*", "arn:aws:s3:::*"} & set(statement["Resource"]), statement
        else:
            assert statement["Resource"] == [f"arn:aws:s3:::{settings.masters_bucket}/{settings.masters_prefix}*"]


def test_the_rule_sees_a_policy_that_is_too_wide() -> None:
    wide = {"Statement": [{"Effect": "Allow", "Action": ["s3:Put*"], "Resource": ["arn:aws:s3:::*"]}]}
    assert allows(wide, "s3:PutObject", "arn:aws:s3:::masters/plate.tif")


@pytest.mark.parametrize("settings", SETTINGS, ids=["default", "own names", "one bucket"])
def test_the_worker_may_do_what_a_restoration_needs_and_no_more(settings: Settings) -> None:
    document = iam.policy("worker", settings)
    bucket = f"arn:aws:s3:::{settings.restored_bucket}"
    restored, work = f"{bucket}/{settings.restored_prefix}a.tif/1/c.tif", f"{bucket}/{settings.work_prefix}1/blob"
    for action in ("s3:GetObject", "s3:PutObject"):
        assert allows(document, action, restored)
        assert allows(document, action, work)
    assert allows(document, "s3:DeleteObject", work)
    assert not allows(document, "s3:DeleteObject", restored), "what was published stays"
    for name in (settings.masters_bucket, settings.restored_bucket):
        assert allows(document, "s3:ListBucket", f"arn:aws:s3:::{name}")
    assert not allows(document, "s3:GetObject", "arn:aws:s3:::other/a")


def test_the_reader_writes_nothing_anywhere() -> None:
    document = iam.policy("reader", Settings())
    assert allows(document, "s3:GetObject", "arn:aws:s3:::restored/restored/a.tif/1/cleaned.tif")
    for place in ("restored/restored/a", "restored/work/a", "masters/a"):
        assert not any(allows(document, action, f"arn:aws:s3:::{place}") for action in WRITES)
    assert not allows(document, "s3:GetObject", "arn:aws:s3:::restored/work/a")


def test_a_place_for_both_masters_and_restored_has_no_policy() -> None:
    with pytest.raises(ValueError, match="expected masters apart from"):
        iam.policy("worker", Settings(masters_bucket="one", restored_bucket="one"))


def test_the_worker_may_read_where_registered_models_come_from() -> None:
    model = {
        "id": "m", "purpose": "face", "source": "s3://weights/face/m.pth", "sha256": "0" * 64, "size_bytes": 1,
        "licence": "MIT", "data_terms": "free", "trained_on": "x",
    }  # fmt: skip
    settings = Settings(models=[places.RegisteredModel.model_validate(model)])
    assert allows(iam.policy("worker", settings), "s3:GetObject", "arn:aws:s3:::weights/face/m.pth")
    assert not allows(iam.policy("worker", settings), "s3:PutObject", "arn:aws:s3:::weights/face/m.pth")


@pytest.fixture
def key(services: Settings, s3: Store) -> Iterator[str]:
    """A master in the bucket that the embedded worker's policy names."""
    name = f"iam-{uuid4().hex}/plate.tif"
    s3._client().put_object(Bucket=services.masters_bucket, Key=name, Body=b"a master")
    yield name
    s3._client().delete_object(Bucket=services.masters_bucket, Key=name)


@pytest.fixture
def worker(s3: Store) -> Store:
    """The embedded store as its worker may use it."""
    assert s3.access_key_id is not None
    assert s3.secret_access_key is not None
    key_id, secret = worker_keys(s3.access_key_id, s3.secret_access_key)
    return replace(s3, access_key_id=key_id, secret_access_key=secret)


def test_the_embedded_store_refuses_its_worker_every_write_on_masters(
    services: Settings, s3: Store, worker: Store, key: str
) -> None:
    masters, client = services.masters_bucket, worker._client()
    assert worker.read(masters, key) == b"a master"
    assert worker.head(masters, key).size == 8
    assert key in [item.key for page in worker.pages(masters, key) for item in page]
    attempts = {
        "put over": lambda: client.put_object(Bucket=masters, Key=key, Body=b"x"),
        "put new": lambda: client.put_object(Bucket=masters, Key=f"{key}.new", Body=b"x"),
        "delete": lambda: client.delete_object(Bucket=masters, Key=key),
        "bulk delete": lambda: client.delete_objects(Bucket=masters, Delete={"Objects": [{"Key": key}]}),
        "copy": lambda: client.copy_object(Bucket=masters, Key=f"{key}.2", CopySource={"Bucket": masters, "Key": key}),
        "multipart": lambda: client.create_multipart_upload(Bucket=masters, Key=key),
        "tag": lambda: client.put_object_tagging(Bucket=masters, Key=key, Tagging={"TagSet": []}),
        "delete bucket": lambda: client.delete_bucket(Bucket=masters),
        "policy": lambda: client.put_bucket_policy(Bucket=masters, Policy="{}"),
    }
    for name, attempt in attempts.items():
        try:
            answer: Any = attempt()
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, name
        else:  # a bulk delete is answered 200, with an error for each key
            assert [item["Code"] for item in answer.get("Errors", [])] == ["AccessDenied"], name
    with pytest.raises(Denied):
        worker.delete_prefix(masters, key)
    with pytest.raises(NotFound):
        s3.head(masters, f"{key}.new")
    assert s3.read(masters, key) == b"a master"


def test_the_embedded_worker_publishes_but_cannot_take_back(services: Settings, s3: Store, worker: Store) -> None:
    bucket, folder = services.restored_bucket, f"iam-{uuid4().hex}/"
    sha256 = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"  # of 12345
    published = f"{services.restored_prefix}{folder}a"
    assert worker.put_new(bucket, published, b"12345", media_type="text/plain", sha256=sha256) == "created"
    with pytest.raises(Denied):
        worker.delete_prefix(bucket, f"{services.restored_prefix}{folder}")
    assert worker.put_new(bucket, f"{services.work_prefix}{folder}a", b"12345", media_type="x/y", sha256=sha256)
    assert worker.delete_prefix(bucket, f"{services.work_prefix}{folder}") == 1
    assert s3.delete_prefix(bucket, f"{services.restored_prefix}{folder}") == 1


def test_the_worker_finds_its_keys_in_the_stacks_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"s3_endpoint_url": "http://127.0.0.1:1", "s3_access_key_id": "AB", "s3_secret_access_key": "secret"}
    (tmp_path / places.STACK_FILE).write_text(json.dumps({"settings": own}))
    monkeypatch.setenv("GLASSPLATE_DATA_DIR", str(tmp_path))
    owner = places.load()
    monkeypatch.setenv("GLASSPLATE_S3_IDENTITY", "worker")
    found = places.load()
    assert found.s3_secret_access_key is not None
    assert (found.s3_access_key_id, found.s3_secret_access_key.get_secret_value()) == worker_keys("AB", "secret")
    assert owner.s3_access_key_id == "AB"
    monkeypatch.setenv("GLASSPLATE_S3_ENDPOINT_URL", "https://s3.example.org")
    monkeypatch.setenv("GLASSPLATE_S3_ACCESS_KEY_ID", "theirs")
    assert places.load().s3_access_key_id == "theirs", "somebody else's store has no worker of ours"


def test_the_command_prints_the_policy_for_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import cli

    monkeypatch.setenv("GLASSPLATE_MASTERS_BUCKET", "glass")
    run = CliRunner()
    printed = run.invoke(cli.app, ["policy", "worker"])
    assert printed.exit_code == 0
    assert json.loads(printed.output) == iam.policy("worker", Settings(masters_bucket="glass"))
    assert run.invoke(cli.app, ["policy", "owner"]).exit_code == 2
    monkeypatch.setenv("GLASSPLATE_RESTORED_BUCKET", "glass")
    assert run.invoke(cli.app, ["policy", "worker"]).exit_code == 1


def test_a_store_that_runs_with_the_policy_of_other_buckets_is_started_again(open_folder: Path) -> None:
    first = Settings(data_dir=open_folder / "moved")
    running = stack.start(first, print, {"s3"}, usual_ports=False)
    open_store(running.settings)._client().put_object(Bucket="masters", Key="a.tif", Body=b"a master")
    try:
        moved = first.model_copy(update={"masters_bucket": "glass"})
        again = stack.start(moved, print, {"s3"}, usual_ports=False).settings
        owner = open_store(again)
        keys = worker_keys(str(owner.access_key_id), str(owner.secret_access_key))
        worker = replace(owner, access_key_id=keys[0], secret_access_key=keys[1])
        assert list(worker.pages("glass", "")) == []
        with pytest.raises(Denied):
            worker._put("glass", "a.tif", b"x", "image/tiff", hashlib.sha256(b"x").hexdigest(), {}, new=True)
        assert owner.read("masters", "a.tif") == b"a master"
        with pytest.raises(Denied):
            worker.read("masters", "a.tif")
    finally:
        stack.down(first)
        running.stop()
