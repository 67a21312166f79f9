"""Units against moto; what moto takes too lightly (keys, checksums, races) against the real embedded store."""

from __future__ import annotations

import hashlib
import pickle
import threading
import unicodedata
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from moto.server import ThreadedMotoServer

from faulty_s3 import Fault, Faulty, faulty
from infra import store as store_module
from infra.settings import Settings
from infra.store import (
    Altered,
    Blobs,
    Cold,
    Denied,
    NotFound,
    Store,
    StoreError,
    StoreUnavailable,
    Taken,
    open_store,
)

BODY = b"a plate of glass, 1903"


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def put(store: Store, bucket: str, key: str, body: bytes) -> str:
    return store.put_new(bucket, key, body, media_type="image/tiff", sha256=sha256_of(body))


@pytest.fixture(scope="module")
def double() -> Iterator[Store]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Store(f"http://{host}:{port}", "us-east-1", "any", "thing")
    server.stop()


@pytest.fixture
def shelf(double: Store, request: pytest.FixtureRequest) -> str:
    name = f"shelf-{sha256_of(request.node.name.encode())[:12]}"
    double.ensure_bucket(name)
    return name


class Answers(BaseHTTPRequestHandler):
    """Answers every request with the script of its server: status, promised length, body."""

    extra: ClassVar[dict[str, str]] = {}
    protocol_version = "HTTP/1.1"  # answers "Expect: 100-continue", for which a client would wait a second

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked += 1  # type: ignore[attr-defined]
        status, length, body = self.server.script  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"abc"')
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 08:00:00 GMT")
        for name, value in self.extra.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    do_PUT = do_POST = do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        return


Script = Callable[[int, int, bytes], Store]


@pytest.fixture
def scripted() -> Iterator[Script]:
    """A function (status, promised length, body) that returns a store on a server which answers just that."""
    servers = []

    def serve(status: int, length: int, body: bytes) -> Store:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        server.script, server.asked = (status, length, body), 0  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return Store(f"http://127.0.0.1:{server.server_port}", "us-east-1", "a", "b", attempts=1, timeout_seconds=5)

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_listing_comes_page_by_page_in_key_order(double: Store, shelf: str) -> None:
    keys = [f"box/{number:04}.tif" for number in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: double._client().put_object(Bucket=shelf, Key=key, Body=b"x"), keys))
    double._client().put_object(Bucket=shelf, Key="other.tif", Body=b"x")
    pages = list(double.pages(shelf, "box/"))
    assert [len(page) for page in pages] == [1000, 3]
    assert [item.key for page in pages for item in page] == keys
    first = pages[0][0]
    assert (first.size, first.etag, first.storage_class) == (1, hashlib.md5(b"x").hexdigest(), "STANDARD")


def test_an_empty_prefix_gives_no_page_and_a_missing_bucket_is_not_found(double: Store, shelf: str) -> None:
    assert list(double.pages(shelf, "nothing/")) == []
    with pytest.raises(NotFound, match="no-such-bucket"):
        next(double.pages("no-such-bucket", ""))


def test_a_download_hashes_what_it_wrote(double: Store, shelf: str, tmp_path: Path) -> None:
    body = bytes(range(256)) * 9000
    put(double, shelf, "a.tif", body)
    head = double.head(shelf, "a.tif")
    fetched = double.download(shelf, "a.tif", tmp_path / "a.tif", etag=head.etag)
    assert (tmp_path / "a.tif").read_bytes() == body
    assert (fetched.sha256, fetched.size, fetched.etag) == (sha256_of(body), len(body), head.etag)
    assert fetched.version_id is None
    assert double.digest(shelf, "a.tif") == fetched


def test_a_download_of_a_changed_object_is_altered_and_leaves_no_file(s3: Store, bucket: str, tmp_path: Path) -> None:
    put(s3, bucket, "a.tif", BODY)
    etag = s3.head(bucket, "a.tif").etag
    s3._client().put_object(Bucket=bucket, Key="a.tif", Body=b"another")
    with pytest.raises(Altered, match=r"a\.tif"):
        s3.download(bucket, "a.tif", tmp_path / "a.tif", etag=etag)
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_told_where_the_bucket_keeps_versions(double: Store, shelf: str, tmp_path: Path) -> None:
    double._client().put_bucket_versioning(Bucket=shelf, VersioningConfiguration={"Status": "Enabled"})
    put(double, shelf, "a.tif", BODY)
    version = double.head(shelf, "a.tif").version_id
    assert version
    assert double.download(shelf, "a.tif", tmp_path / "a").version_id == version


def test_a_missing_key_is_not_found_with_its_name(s3: Store, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"s3://{bucket}/none.tif"):
        s3.head(bucket, "none.tif")
    with pytest.raises(NotFound, match=f"s3://{bucket}/none.tif"):
        s3.download(bucket, "none.tif", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_body_cut_short_is_unavailable_and_leaves_no_file(scripted: Script, tmp_path: Path) -> None:
    store = scripted(200, 5_000_000, b"x" * 3_000_000)
    target = tmp_path / "cut.tif"
    target.write_bytes(b"an older file")
    with pytest.raises(StoreUnavailable, match=r"s3://masters/cut\.tif"):
        store.download("masters", "cut.tif", target)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.tif"]
    assert target.read_bytes() == b"an older file"
    with pytest.raises(StoreUnavailable):
        store.read("masters", "cut.tif")


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (500, "InternalError", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
        (429, "TooManyRequests", StoreUnavailable),
        (400, "RequestTimeout", StoreUnavailable),
        (409, "OperationAborted", StoreUnavailable),
        (403, "AccessDenied", Denied),
        (400, "ExpiredToken", Denied),
        (404, "NoSuchKey", NotFound),
        (400, "XAmzContentChecksumMismatch", Altered),
        (400, "EntityTooLarge", StoreError),
    ],
)
def test_an_answer_becomes_the_error_that_says_what_to_do(
    scripted: Script, status: int, code: str, error: type[StoreError]
) -> None:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>so it is</Message></Error>".encode()
    with pytest.raises(error, match=r"s3://masters/a\.tif.*" + code) as caught:
        scripted(status, len(body), body).read("masters", "a.tif")
    assert type(caught.value) is error


def test_a_conflict_is_tried_again_and_then_unavailable(scripted: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(store_module.time, "sleep", pauses.append)
    body = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
    with pytest.raises(StoreUnavailable, match="ConditionalRequestConflict"):
        put(scripted(409, len(body), body), "restored", "a.tif", BODY)
    assert len(pauses) == store_module.CONFLICT_ATTEMPTS - 1


def test_a_store_that_is_away_is_unavailable() -> None:
    away = Store("http://127.0.0.1:9", "us-east-1", "a", "b", attempts=1)
    with pytest.raises(StoreUnavailable, match=r"s3://masters/a\.tif"):
        away.head("masters", "a.tif")


def test_a_loopback_store_is_asked_past_the_proxy(s3: Store, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    fresh = replace(s3, attempts=1, timeout_seconds=7)
    assert list(fresh.pages(bucket, "")) == []


def test_wrong_keys_are_denied(s3: Store, bucket: str) -> None:
    put(s3, bucket, "a.tif", BODY)
    for stranger in (replace(s3, secret_access_key="wrong"), replace(s3, access_key_id="nobody")):
        with pytest.raises(Denied, match=bucket):
            stranger.read(bucket, "a.tif")
        with pytest.raises(Denied):
            put(stranger, bucket, "b.tif", BODY)
        with pytest.raises(Denied):
            stranger.buckets()
    assert bucket in s3.buckets()


def test_a_new_key_is_created_once_and_then_identical(s3: Store, bucket: str, tmp_path: Path) -> None:
    path = tmp_path / "cleaned.tif"
    path.write_bytes(BODY * 1000)
    sha256 = sha256_of(BODY * 1000)
    first = s3.put_new(bucket, "r/c.tif", path, media_type="image/tiff", sha256=sha256, metadata={"scan": "a.tif"})
    second = s3.put_new(bucket, "r/c.tif", path, media_type="image/tiff", sha256=sha256)
    assert (first, second) == ("created", "identical")
    head = s3._client().head_object(Bucket=bucket, Key="r/c.tif")
    assert head["Metadata"] == {"sha256": sha256, "scan": "a.tif"}
    assert head["ContentType"] == "image/tiff"


def test_other_content_under_the_key_is_taken_and_stays(s3: Store, bucket: str) -> None:
    put(s3, bucket, "a.tif", BODY)
    with pytest.raises(Taken) as caught:
        put(s3, bucket, "a.tif", b"something else")
    taken = pickle.loads(pickle.dumps(caught.value))
    assert (taken.key, taken.expected, taken.found) == ("a.tif", sha256_of(b"something else"), sha256_of(BODY))
    assert s3.read(bucket, "a.tif") == BODY


def test_what_lies_there_is_judged_by_its_bytes_not_by_its_metadata(s3: Store, bucket: str) -> None:
    s3._client().put_object(Bucket=bucket, Key="a.tif", Body=b"forged", Metadata={"sha256": sha256_of(BODY)})
    with pytest.raises(Taken):
        put(s3, bucket, "a.tif", BODY)


def test_of_many_that_write_one_key_at_once_one_wins(s3: Store, bucket: str) -> None:
    bodies = [f"version {number}".encode() * 500 for number in range(24)]
    ready = threading.Barrier(len(bodies))

    def write(body: bytes) -> str:
        ready.wait()
        try:
            return put(s3, bucket, "race.tif", body)
        except Taken:
            return "taken"

    with ThreadPoolExecutor(len(bodies)) as pool:
        outcomes = list(pool.map(write, bodies))
    assert sorted(set(outcomes)) == ["created", "taken"]
    assert outcomes.count("created") == 1
    assert s3.read(bucket, "race.tif") == bodies[outcomes.index("created")]


def test_of_many_that_write_the_same_bytes_none_fails(s3: Store, bucket: str) -> None:
    with ThreadPoolExecutor(12) as pool:
        outcomes = list(pool.map(lambda number: put(s3, bucket, "same.tif", BODY), range(12)))
    assert outcomes.count("created") == 1
    assert outcomes.count("identical") == 11


def test_bytes_that_are_not_what_they_are_said_to_be_are_never_sent(s3: Store, bucket: str) -> None:
    with pytest.raises(Altered, match=f"expected sha256 {sha256_of(b'other')}, found {sha256_of(BODY)}"):
        s3.put_new(bucket, "a.tif", BODY, media_type="image/tiff", sha256=sha256_of(b"other"))
    assert list(s3.pages(bucket, "")) == []


def test_the_store_rejects_bytes_altered_on_the_way(s3: Store, bucket: str) -> None:
    with pytest.raises(Altered):
        s3._put(bucket, "a.tif", BODY, "image/tiff", sha256_of(b"other"), {}, new=True)
    assert list(s3.pages(bucket, "")) == []


def test_a_spoiled_write_is_found_by_reading_back(s3: Store, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    careless = replace(s3, checksums=False)
    monkeypatch.setattr(store_module, "_check_source", lambda *arguments: None)
    with pytest.raises(Altered, match="read back"):
        careless.put_new(bucket, "a.tif", b"spoiled", media_type="image/tiff", sha256=sha256_of(BODY))


def test_without_checksums_everything_works_by_reading(s3: Store, bucket: str) -> None:
    plain = replace(s3, checksums=False)
    assert [put(plain, bucket, "a.tif", BODY) for _ in range(2)] == ["created", "identical"]
    with pytest.raises(Taken):
        put(plain, bucket, "a.tif", b"other")


def test_metadata_that_no_store_takes_is_refused_before_sending(double: Store, shelf: str) -> None:
    for metadata in ({"title": "Zürich"}, {"title": "x" * 2048}):
        with pytest.raises(StoreError, match="ASCII"):
            double.put_new(shelf, "a", BODY, media_type="image/tiff", sha256=sha256_of(BODY), metadata=metadata)


@pytest.mark.parametrize(
    "key",
    ["box 1/plate 7.tif", "Zürich/Großmutter - 1903.tif", "a+b&c=d%20e?.tif", "日本/写真 #2.tif", "'quoted'/(1).tif"],
)
def test_keys_with_spaces_and_foreign_letters_come_back_as_they_are(
    s3: Store, bucket: str, tmp_path: Path, key: str
) -> None:
    assert put(s3, bucket, key, BODY) == "created"
    assert [item.key for page in s3.pages(bucket, "") for item in page] == [key]
    assert s3.head(bucket, key).size == len(BODY)
    assert s3.download(bucket, key, tmp_path / "x").sha256 == sha256_of(BODY)
    with urllib.request.urlopen(s3.presigned_url(bucket, key, 60)) as answer:
        assert answer.read() == BODY
    assert s3.delete_prefix(bucket, key) == 1


def test_a_large_object_has_one_etag_in_listing_head_and_body(s3: Store, bucket: str, tmp_path: Path) -> None:
    body = bytes(range(251)) * 100_000
    (tmp_path / "in").write_bytes(body)
    s3.put_new(bucket, "big.tif", tmp_path / "in", media_type="image/tiff", sha256=sha256_of(body))
    listed = next(s3.pages(bucket, ""))[0]
    assert listed.etag == s3.head(bucket, "big.tif").etag
    fetched = s3.download(bucket, "big.tif", tmp_path / "out", etag=listed.etag)
    assert (fetched.etag, fetched.size, fetched.sha256) == (listed.etag, len(body), sha256_of(body))


def test_blobs_come_back_by_their_sha256(s3: Store, bucket: str, tmp_path: Path) -> None:
    blobs = Blobs(s3, bucket, "work/0123/")
    (tmp_path / "in").write_bytes(BODY)
    sha256 = blobs.put(tmp_path / "in", "image/tiff")
    assert sha256 == blobs.put(BODY, "image/tiff") == sha256_of(BODY)
    assert blobs.read(sha256) == BODY
    blobs.fetch(sha256, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY


def test_a_spoiled_blob_is_altered_until_it_is_put_again(s3: Store, bucket: str, tmp_path: Path) -> None:
    blobs = Blobs(s3, bucket, "work/0123/")
    sha256 = blobs.put(BODY, "image/tiff")
    s3._client().put_object(Bucket=bucket, Key=f"work/0123/{sha256}", Body=b"rot")
    with pytest.raises(Altered, match=f"expected sha256 {sha256}, found {sha256_of(b'rot')}"):
        blobs.read(sha256)
    with pytest.raises(Altered):
        blobs.fetch(sha256, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    blobs.put(BODY, "image/tiff")
    assert blobs.read(sha256) == BODY


def test_small_documents_lie_beside_the_blobs_and_may_change(s3: Store, bucket: str) -> None:
    blobs = Blobs(s3, bucket, "work/0123/")
    assert blobs.get_json("detect") is None
    blobs.put_json("detect", {"outcome": "done"})
    blobs.put_json("detect", {"outcome": "failed", "where": "Zürich"})
    assert blobs.get_json("detect") == {"outcome": "failed", "where": "Zürich"}
    s3._client().put_object(Bucket=bucket, Key="work/0123/detect.json", Body=b"{")
    with pytest.raises(Altered, match="expected JSON"):
        blobs.get_json("detect")


def test_emptying_one_place_leaves_its_neighbours(s3: Store, bucket: str) -> None:
    mine, other = Blobs(s3, bucket, "work/0123/"), Blobs(s3, bucket, "work/01234/")
    mine.put(BODY, "image/tiff")
    mine.put_json("detect", {})
    kept = other.put(BODY, "image/tiff")
    assert mine.delete_all() == 2
    assert mine.delete_all() == 0
    assert other.read(kept) == BODY


def test_a_whole_bucket_is_never_emptied(double: Store, shelf: str) -> None:
    for prefix in ("", "/"):
        with pytest.raises(StoreError, match="prefix"):
            double.delete_prefix(shelf, prefix)
    for prefix in ("", "/", "work"):
        with pytest.raises(StoreError, match="prefix"):
            Blobs(double, shelf, prefix)


def test_a_bucket_is_made_once(s3: Store, bucket: str) -> None:
    put(s3, bucket, "a", BODY)
    s3.ensure_bucket(bucket)
    assert s3.read(bucket, "a") == BODY


def test_a_store_travels_to_other_processes_and_keeps_its_secret_to_itself(s3: Store) -> None:
    travelled = pickle.loads(pickle.dumps(s3))
    assert travelled == s3
    assert travelled._client() is s3._client()
    assert s3.secret_access_key is not None
    assert s3.secret_access_key not in repr(s3)


def test_a_store_opens_from_settings(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="GLASSPLATE_S3_ENDPOINT_URL"):
        open_store(Settings(data_dir=tmp_path))
    aws = open_store(Settings(data_dir=tmp_path, s3_endpoint_url="aws", s3_region="eu-central-1", s3_checksums=False))
    assert aws == Store(None, "eu-central-1", None, None, checksums=False)
    assert aws._client().meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"
    other = open_store(
        Settings(s3_endpoint_url="https://s3.example.org", s3_access_key_id="a", s3_secret_access_key="b")
    )
    assert (other.endpoint_url, other.secret_access_key) == ("https://s3.example.org", "b")


def archived(double: Store, shelf: str, key: str, storage_class: str) -> None:
    double._client().put_object(Bucket=shelf, Key=key, Body=BODY, StorageClass=storage_class)  # type: ignore[arg-type]


def test_what_lies_in_glacier_is_cold_until_a_copy_was_restored(double: Store, shelf: str) -> None:
    for storage_class in ("GLACIER", "DEEP_ARCHIVE", "GLACIER_IR", "STANDARD_IA"):
        archived(double, shelf, f"{storage_class}.tif", storage_class)
    listed = {item.key: item for page in double.pages(shelf, "") for item in page}
    heads = {key: double.head(shelf, key) for key in listed}
    cold = {"DEEP_ARCHIVE.tif": True, "GLACIER.tif": True, "GLACIER_IR.tif": False, "STANDARD_IA.tif": False}
    assert {key: item.cold for key, item in listed.items()} == cold
    assert {key: item.cold for key, item in heads.items()} == cold
    with pytest.raises(Cold, match=r"GLACIER\.tif: expected an object that can be read, found one in cold storage"):
        double.read(shelf, "GLACIER.tif")
    double.request_restore(shelf, "GLACIER.tif", days=3)
    double.request_restore(shelf, "GLACIER.tif", days=3)
    assert not double.head(shelf, "GLACIER.tif").cold
    assert double.read(shelf, "GLACIER.tif") == BODY
    with pytest.raises(StoreError, match="expected an archived object"):
        double.request_restore(shelf, "STANDARD_IA.tif", days=3)
    with pytest.raises(NotFound):
        double.request_restore(shelf, "none.tif", days=3)


def test_a_restore_under_way_leaves_the_object_cold_and_may_be_asked_for_again(
    scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"<Error><Code>RestoreAlreadyInProgress</Code></Error>"
    scripted(409, len(body), body).request_restore("masters", "a.tif", days=1)
    monkeypatch.setattr(Answers, "extra", {"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="true"'})
    assert scripted(200, 0, b"").head("masters", "a.tif").cold
    ended = 'ongoing-request="false", expiry-date="Fri, 27 Nov 2026 00:00:00 GMT"'
    monkeypatch.setattr(Answers, "extra", {"x-amz-storage-class": "GLACIER", "x-amz-restore": ended})
    assert not scripted(200, 0, b"").head("masters", "a.tif").cold
    monkeypatch.setattr(Answers, "extra", {"x-amz-archive-status": "DEEP_ARCHIVE_ACCESS"})
    assert scripted(200, 0, b"").head("masters", "a.tif").cold, "an archive tier of Intelligent-Tiering"


def test_a_listing_tells_which_cold_objects_can_be_read_again(scripted: Script) -> None:
    status = "<RestoreStatus><IsRestoreInProgress>{}</IsRestoreInProgress>{}</RestoreStatus>"
    until = "<RestoreExpiryDate>2026-11-27T00:00:00Z</RestoreExpiryDate>"
    rows = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-11-22T08:00:00Z</LastModified><ETag>e</ETag><Size>1</Size>"
        f"<StorageClass>DEEP_ARCHIVE</StorageClass>{text}</Contents>"
        for key, text in (("a", ""), ("b", status.format("true", "")), ("c", status.format("false", until)))
    )
    body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()
    store = scripted(200, len(body), body)
    (page,) = store.pages("masters", "")
    assert [(item.key, item.cold) for item in page] == [("a", True), ("b", True), ("c", False)]
    asks = {None: True, "https://s3.eu-central-1.amazonaws.com": True, "https://x.r2.example.com": False}
    assert {url: replace(store, endpoint_url=url)._is_amazons() for url in asks} == asks


def test_every_put_asks_for_the_kms_key_and_reading_needs_nothing(double: Store, shelf: str) -> None:
    sealed = replace(double, kms_key_id="alias/archive")
    put(sealed, shelf, "a.tif", BODY)
    blob = Blobs(sealed, shelf, "work/1/").put(BODY, "image/tiff")
    Blobs(sealed, shelf, "work/1/").put_json("d", {"a": 1})
    put(double, shelf, "plain.tif", BODY)
    for key in ("a.tif", f"work/1/{blob}", "work/1/d.json"):
        head = double._client().head_object(Bucket=shelf, Key=key)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/archive"), key
    assert "SSEKMSKeyId" not in double._client().head_object(Bucket=shelf, Key="plain.tif")
    assert double.read(shelf, "a.tif") == BODY
    settings = Settings(s3_endpoint_url="http://127.0.0.1:9", s3_kms_key_id="alias/archive")
    assert open_store(settings).kms_key_id == "alias/archive"


def behind(s3: Store, plan: Faulty, attempts: int = 5) -> Store:
    return replace(s3, endpoint_url=plan.url, attempts=attempts, timeout_seconds=5)


@pytest.mark.parametrize("fault", ["refuse", "refuse after", "hang up"])
def test_a_call_that_is_refused_or_dropped_is_made_again(s3: Store, bucket: str, fault: Fault) -> None:
    with faulty(str(s3.endpoint_url), Faulty(first=[fault, fault])) as plan:
        outcome = put(behind(s3, plan), bucket, "a.tif", BODY)
        # Done but answered 503: the second try finds its own bytes there.
        assert outcome == ("identical" if fault == "refuse after" else "created")
        assert plan.did[fault] == 2
    assert s3.read(bucket, "a.tif") == BODY


def test_a_store_that_goes_on_refusing_is_unavailable(s3: Store, bucket: str) -> None:
    with faulty(str(s3.endpoint_url), Faulty(shares={"refuse": 1.0})) as plan:
        with pytest.raises(StoreUnavailable, match=f"s3://{bucket}/a.tif.*503 SlowDown"):
            behind(s3, plan, attempts=2).read(bucket, "a.tif")
        assert plan.did["refuse"] == 2


def test_a_body_that_is_cut_short_is_taken_up_where_it_ended(s3: Store, bucket: str, tmp_path: Path) -> None:
    body = bytes(range(251)) * 20_000
    put(s3, bucket, "big.tif", body)
    with faulty(str(s3.endpoint_url), Faulty(first=["cut", "cut", None])) as plan:
        fetched = behind(s3, plan).download(
            bucket, "big.tif", tmp_path / "big.tif", etag=s3.head(bucket, "big.tif").etag
        )
        assert (plan.did["cut"], plan.did["calls"]) == (2, 3)
    assert (fetched.sha256, fetched.size) == (sha256_of(body), len(body))
    assert (tmp_path / "big.tif").read_bytes() == body


def test_a_body_that_always_ends_early_is_unavailable(s3: Store, bucket: str, tmp_path: Path) -> None:
    put(s3, bucket, "big.tif", bytes(100_000))
    with faulty(str(s3.endpoint_url), Faulty(shares={"cut": 1.0})) as plan:
        with pytest.raises(StoreUnavailable, match=r"big\.tif"):
            behind(s3, plan, attempts=3).download(bucket, "big.tif", tmp_path / "big.tif")
        assert plan.did["cut"] == 3
    assert list(tmp_path.iterdir()) == []


def test_what_is_replaced_while_it_is_read_is_never_mixed(s3: Store, bucket: str, tmp_path: Path) -> None:
    put(s3, bucket, "big.tif", bytes(100_000))

    class Replacing(Faulty):
        def next_fault(self) -> Fault | None:
            fault = super().next_fault()
            if fault is None:  # the second call
                s3._client().put_object(Bucket=bucket, Key="big.tif", Body=b"\1" * 100_000)
            return fault

    with faulty(str(s3.endpoint_url), Replacing(first=["cut"])) as plan, pytest.raises(Altered):
        behind(s3, plan).download(bucket, "big.tif", tmp_path / "big.tif")
    assert list(tmp_path.iterdir()) == []


def test_an_endpoint_that_is_slow_is_waited_for_and_one_that_sleeps_is_not(s3: Store, bucket: str) -> None:
    put(s3, bucket, "a.tif", BODY)
    with faulty(str(s3.endpoint_url), Faulty(shares={"late": 1.0}, late_seconds=0.5)) as plan:
        assert behind(s3, plan).read(bucket, "a.tif") == BODY
    with faulty(str(s3.endpoint_url), Faulty(shares={"late": 1.0}, late_seconds=6)) as plan:
        hasty = replace(s3, endpoint_url=plan.url, attempts=2, timeout_seconds=1)
        with pytest.raises(StoreUnavailable, match=r"(?i)timed out|timeout"):
            hasty.read(bucket, "a.tif")
        assert plan.did["calls"] == 2


def odd_keys() -> list[str]:
    """Keys that S3 allows and people have: each an object of its own."""
    composed = unicodedata.normalize("NFC", "Zürich/Großmutter é.tif")
    return [
        "box 1/a  b.tif", composed, unicodedata.normalize("NFD", composed), "a/../b.tif", "../b.tif", "a/./b.tif",
        "/b.tif", "//b.tif", "a//b.tif", "b.tif", "x" * 1020 + ".tif", "y/" * 510 + ".tif", "写" * 341 + "t",
        "a+b%2F c&d?.tif", "%2E%2E/b.tif", "back\\slash.tif", "😀/ .tif", " lead and trail ", "quote'\"<&>.tif",
    ]  # fmt: skip


def test_keys_that_look_like_paths_are_taken_letter_by_letter(double: Store, shelf: str, tmp_path: Path) -> None:
    keys = odd_keys()
    assert max(len(key.encode()) for key in keys) == 1024
    for key in keys:
        assert put(double, shelf, key, key.encode()) == "created"
    assert sorted(item.key for page in double.pages(shelf, "") for item in page) == sorted(keys)
    for key in keys:
        assert double.read(shelf, key) == key.encode(), key
        assert double.download(shelf, key, tmp_path / "x").sha256 == sha256_of(key.encode())
