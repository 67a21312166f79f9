"""S3 by key and by sha256: the only boto3.

Errors (messages name bucket and key, what was expected and what was found)::

    StoreError
    ├── StoreUnavailable  5xx, throttling, 409, timeouts, a body cut short: try again later
    ├── NotFound          no such key or bucket
    ├── Denied            wrong keys, or a policy that forbids it
    ├── Cold              archived (Glacier) and not restored: request_restore, and read it when it is back
    ├── Altered           the content, ETag or length is not the expected one
    └── Taken             the key holds other content, and is left as it is
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as NotConnected

from infra.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHUNK_BYTES = 1 << 20
LARGEST_PUT_BYTES = 5 * (1 << 30)  # one PutObject takes no more; a conditional write is one PutObject
METADATA_BYTES = 2048
CONFLICT_ATTEMPTS = 6
AWS = "aws"
# Classes and archive tiers that give no bytes before a restore; GLACIER_IR is not among them, it answers at once.
COLD_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS"})

_CLIENTS = threading.Lock()
_DENIED = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "BucketAlreadyExists"}
_ALTERED = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
_LATER = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"}


class StoreError(Exception):
    """Something about the object store; the branches say what to do about it."""


class StoreUnavailable(StoreError):
    """The store did not answer, or not to the end; the same call may succeed later."""


class NotFound(StoreError):
    """No such key, or no such bucket."""


class Denied(StoreError):
    """The store refuses: wrong keys, or a policy."""


class Cold(StoreError):
    """The object lies in cold storage and was not restored from it: there is nothing to read yet."""


class Altered(StoreError):
    """What lies there (or arrived) is not what was expected."""


class Taken(StoreError):
    """The key holds other content than the one to be written; nothing was overwritten."""

    def __init__(self, bucket: str, key: str, expected: str, found: str) -> None:
        super().__init__(f"s3://{bucket}/{key} is taken: expected sha256 {expected}, found {found}; not overwritten")
        self.bucket, self.key, self.expected, self.found = bucket, key, expected, found

    def __reduce__(self) -> tuple[type[Taken], tuple[str, str, str, str]]:
        return Taken, (self.bucket, self.key, self.expected, self.found)


@dataclass(frozen=True)
class Listed:
    """What a listing says of one object. ``version_id`` is known from ``head`` only, and only in versioned buckets.

    ``storage_class``: as S3 names it, or the archive tier in which Intelligent-Tiering has put the object (``head``
    only). ``thawed``: an archived object of which a readable copy is there for some days.
    """

    key: str
    etag: str
    size: int
    last_modified: datetime
    storage_class: str
    version_id: str | None
    thawed: bool = False

    @property
    def cold(self) -> bool:
        """Whether reading it needs a restore from Glacier first (``Store.request_restore``), which takes hours."""
        return self.storage_class in COLD_CLASSES and not self.thawed


@dataclass(frozen=True)
class Fetched:
    """What was really read: sha256 and size of the bytes, with the ETag and version they came under."""

    sha256: str
    size: int
    etag: str
    version_id: str | None


PutOutcome = Literal["created", "identical"]


@dataclass(frozen=True)
class Store:
    """An S3 endpoint and how to get in. Cheap to make, to compare and to pickle (with its secret); thread-safe.

    ``endpoint_url`` None is AWS itself; keys None is the usual AWS credential chain. Nothing is opened before the
    first call. ``checksums`` off is for stores that reject SHA-256 headers: contents are then compared by reading.
    ``kms_key_id``: every Put asks for SSE-KMS with this key; None leaves it to the bucket. ``attempts``: of each call,
    and of each body that is cut short, which goes on where it ended.
    """

    endpoint_url: str | None
    region: str
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    checksums: bool = True
    attempts: int = 6
    timeout_seconds: float = 60.0
    kms_key_id: str | None = None

    def pages(self, bucket: str, prefix: str) -> Iterator[list[Listed]]:
        """The objects under ``prefix`` in key order, one list per page of up to 1000; folders' markers included."""
        token: str | None = None
        while True:
            more: dict[str, Any] = {} if token is None else {"ContinuationToken": token}
            if self._is_amazons():  # others know no such answer, and some refuse the question
                more["OptionalObjectAttributes"] = ["RestoreStatus"]
            with _translated(bucket, prefix):
                answer = self._client().list_objects_v2(Bucket=bucket, Prefix=prefix, **more)
            found = [
                Listed(
                    key=item["Key"],
                    etag=item["ETag"].strip('"'),
                    size=item["Size"],
                    last_modified=item["LastModified"],
                    storage_class=item.get("StorageClass", "STANDARD"),
                    version_id=None,
                    thawed="RestoreExpiryDate" in item.get("RestoreStatus", {}),
                )
                for item in answer.get("Contents", [])
            ]
            if found:
                yield found
            token = answer.get("NextContinuationToken")
            if not answer.get("IsTruncated") or token is None:
                return

    def head(self, bucket: str, key: str) -> Listed:
        """What the store says of one object, without reading it."""
        with _translated(bucket, key):
            answer = self._client().head_object(Bucket=bucket, Key=key)
        return Listed(
            key=key,
            etag=answer["ETag"].strip('"'),
            size=answer["ContentLength"],
            last_modified=answer["LastModified"],
            storage_class=answer.get("ArchiveStatus") or answer.get("StorageClass", "STANDARD"),
            version_id=_version(answer.get("VersionId")),
            thawed='ongoing-request="false"' in answer.get("Restore", ""),
        )

    def request_restore(self, bucket: str, key: str, days: int) -> None:
        """A readable copy of a cold object is on its way, to stay for ``days``; asking again does no harm.

        In the cheapest tier, as a night has time: 5 to 12 hours from Glacier, up to 48 from Deep Archive. Raises
        StoreError for an object that is not archived.
        """
        request: dict[str, Any] = {"Days": days, "GlacierJobParameters": {"Tier": "Bulk"}}
        with _translated(bucket, key):
            try:
                self._client().restore_object(Bucket=bucket, Key=key, RestoreRequest=request)  # type: ignore[arg-type]
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                if code == "InvalidObjectState":
                    found = "one that can be read as it is"
                    raise StoreError(f"s3://{bucket}/{key}: expected an archived object, found {found}") from error
                if code != "RestoreAlreadyInProgress":
                    raise

    def download(self, bucket: str, key: str, path: Path, *, etag: str | None = None) -> Fetched:
        """The object in the file ``path``, hashed on the way.

        With ``etag`` only that very content is taken, else Altered. The file appears when it is whole: a body cut
        short raises StoreUnavailable and leaves nothing behind.
        """
        part = path.with_name(f".{uuid4().hex}.part")
        try:
            with part.open("wb") as file:
                fetched = self._stream(bucket, key, file.write, etag)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return fetched

    def digest(self, bucket: str, key: str) -> Fetched:
        """The sha256 and size of what really lies under the key: the whole body is read, nothing is kept."""
        return self._stream(bucket, key, lambda chunk: None, None)

    def read(self, bucket: str, key: str) -> bytes:
        """The object's bytes; for small things."""
        body = io.BytesIO()
        self._stream(bucket, key, body.write, None)
        return body.getvalue()

    def put_new(
        self,
        bucket: str,
        key: str,
        source: Path | bytes,
        *,
        media_type: str,
        sha256: str,
        metadata: Mapping[str, str] | None = None,
        verify: bool = True,
    ) -> PutOutcome:
        """``created``, or ``identical`` where the key holds these very bytes already; never overwrites.

        The bytes are hashed before they are sent (Altered if they are not ``sha256``), written on the condition that
        the key is free, and with ``verify`` read back and compared. Other content under the key raises Taken; both
        comparisons read the whole body. ``metadata`` is ASCII, 2 KB at most; the sha256 is added to it.
        """
        said = {"sha256": sha256, **(metadata or {})}
        _check_metadata(bucket, key, said)
        _check_source(bucket, key, source, sha256)
        try:
            self._put(bucket, key, source, media_type, sha256, said, new=True)
        except _Occupied:
            found = self.digest(bucket, key).sha256
            if found != sha256:
                raise Taken(bucket, key, sha256, found) from None
            return "identical"
        if verify:
            found = self.digest(bucket, key).sha256
            if found != sha256:
                raise Altered(f"s3://{bucket}/{key} read back: expected sha256 {sha256}, found {found}")
        return "created"

    def ensure_bucket(self, bucket: str) -> None:
        """The bucket exists and is reachable afterwards; one that belongs to somebody else raises Denied."""
        try:
            with _translated(bucket, ""):
                self._client().head_bucket(Bucket=bucket)
            return
        except NotFound:
            pass
        try:
            with _translated(bucket, ""):
                if self.endpoint_url is None and self.region != "us-east-1":
                    self._client().create_bucket(
                        Bucket=bucket,
                        CreateBucketConfiguration={"LocationConstraint": self.region},  # type: ignore[typeddict-item]
                    )
                else:
                    self._client().create_bucket(Bucket=bucket)
        except (Denied, StoreUnavailable):
            # Two that create it at once, or a store that says so of one's own bucket: what counts is that it is there.
            with _translated(bucket, ""):
                self._client().head_bucket(Bucket=bucket)

    def buckets(self) -> list[str]:
        """The names of the buckets these keys may list; the cheapest question that needs right keys."""
        with _translated("", ""):
            return [item["Name"] for item in self._client().list_buckets().get("Buckets", []) if "Name" in item]

    def delete_prefix(self, bucket: str, prefix: str) -> int:
        """How many objects under ``prefix`` were deleted; an empty prefix (the whole bucket) is refused."""
        if not prefix.strip("/"):
            raise StoreError(f"s3://{bucket}/: expected a prefix to delete under, found {prefix!r}")
        deleted = 0
        for page in list(self.pages(bucket, prefix)):
            for item in page:
                # One by one: the bulk call needs headers on which S3 stores disagree.
                with _translated(bucket, item.key):
                    self._client().delete_object(Bucket=bucket, Key=item.key)
                deleted += 1
        return deleted

    def presigned_url(self, bucket: str, key: str, seconds: int) -> str:
        """A link that reads this object without keys for ``seconds``."""
        with _translated(bucket, key):
            return self._client().generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds
            )

    def _is_amazons(self) -> bool:
        return self.endpoint_url is None or (urlsplit(self.endpoint_url).hostname or "").endswith(".amazonaws.com")

    def _client(self) -> S3Client:
        with _CLIENTS:  # making a client is not thread-safe, using one is
            return _made(self, os.getpid())

    def _stream(self, bucket: str, key: str, write: Callable[[bytes], object], etag: str | None) -> Fetched:
        """What was read. A body that is cut short is taken up where it ended, as long as the content is the same."""
        digest, size, tried = hashlib.sha256(), 0, 0
        total: int | None = None
        found, version = etag, None
        while size != total:
            tried += 1
            with _translated(bucket, key):
                options = {} if found is None else {"IfMatch": f'"{found}"'}
                if size:
                    options["Range"] = f"bytes={size}-"
                answer = self._client().get_object(Bucket=bucket, Key=key, **options)  # type: ignore[arg-type]
            if total is None:
                total = answer["ContentLength"]
                found, version = answer["ETag"].strip('"'), answer.get("VersionId")
            try:
                with _translated(bucket, key), closing(answer["Body"]) as body:
                    if (begins := _begins_at(answer.get("ContentRange"))) != size:
                        raise StoreUnavailable(f"s3://{bucket}/{key}: expected byte {size} first, found byte {begins}")
                    while chunk := body.read(CHUNK_BYTES):
                        digest.update(chunk)
                        size += len(chunk)
                        write(chunk)
                if size != total:
                    raise StoreUnavailable(f"s3://{bucket}/{key}: expected {total} bytes, found {size}")
            except StoreUnavailable:
                if tried >= self.attempts:
                    raise
                time.sleep(random.random() * min(8.0, 0.25 * 2**tried))
        if etag is not None and found != etag:
            raise Altered(f"s3://{bucket}/{key}: expected ETag {etag}, found {found}")
        return Fetched(digest.hexdigest(), size, found or "", _version(version))

    def _put(
        self,
        bucket: str,
        key: str,
        source: Path | bytes,
        media_type: str,
        sha256: str,
        metadata: Mapping[str, str],
        *,
        new: bool,
    ) -> None:
        """One PutObject; with ``new`` _Occupied if the key is there, and a conflict with another writer is retried."""
        options: dict[str, Any] = {"IfNoneMatch": "*"} if new else {}
        if self.checksums:
            options["ChecksumSHA256"] = base64.b64encode(bytes.fromhex(sha256)).decode()
        if self.kms_key_id is not None:
            options |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.kms_key_id}
        for attempt in range(CONFLICT_ATTEMPTS):
            with _translated(bucket, key), _opened(source) as body:
                try:
                    self._client().put_object(
                        Bucket=bucket, Key=key, Body=body, ContentType=media_type, Metadata=metadata, **options
                    )
                    return
                except ClientError as error:
                    if new and _status(error) == 412:
                        raise _Occupied from error
                    if _status(error) != 409 or attempt == CONFLICT_ATTEMPTS - 1:
                        raise
            time.sleep(random.random() * 0.1 * 2**attempt)


class Blobs:
    """Content under ``prefix`` + sha256, and small JSON documents beside it: a place of one's own, emptied later."""

    def __init__(self, store: Store, bucket: str, prefix: str) -> None:
        if not prefix.strip("/") or not prefix.endswith("/"):
            raise StoreError(f"s3://{bucket}/: expected a prefix of one's own ending in /, found {prefix!r}")
        self.store, self.bucket, self.prefix = store, bucket, prefix

    def put(self, source: Path | bytes, media_type: str) -> str:
        """The sha256 under which these bytes now lie. A second put writes them again, which mends a spoiled blob."""
        sha256 = _sha256_of(source)
        key = self.prefix + sha256
        self.store._put(self.bucket, key, source, media_type, sha256, {"sha256": sha256}, new=False)
        return sha256

    def fetch(self, sha256: str, path: Path) -> None:
        """The blob in the file ``path``; Altered, and no file, if its bytes are not those of the name."""
        part = path.with_name(f".{uuid4().hex}.blob")
        try:
            found = self.store.download(self.bucket, self.prefix + sha256, part).sha256
            self._check(sha256, found)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def read(self, sha256: str) -> bytes:
        """The blob's bytes; Altered if they are not those of the name."""
        body = self.store.read(self.bucket, self.prefix + sha256)
        self._check(sha256, hashlib.sha256(body).hexdigest())
        return body

    def put_json(self, name: str, document: object) -> None:
        """Keeps a small document under ``name``, over an earlier one of that name."""
        body = json.dumps(document, ensure_ascii=False, sort_keys=True).encode()
        sha256 = hashlib.sha256(body).hexdigest()
        key = f"{self.prefix}{name}.json"
        self.store._put(self.bucket, key, body, "application/json", sha256, {"sha256": sha256}, new=False)

    def get_json(self, name: str) -> Any | None:
        """The document last put under ``name``, or None; Altered if it is no JSON."""
        key = f"{self.prefix}{name}.json"
        try:
            body = self.store.read(self.bucket, key)
        except NotFound:
            return None
        try:
            return json.loads(body)
        except ValueError as error:
            raise Altered(f"s3://{self.bucket}/{key}: expected JSON, found {body[:40]!r}") from error

    def delete_all(self) -> int:
        """How many objects were deleted: everything under the prefix, blobs and documents."""
        return self.store.delete_prefix(self.bucket, self.prefix)

    def _check(self, sha256: str, found: str) -> None:
        if found != sha256:
            raise Altered(f"s3://{self.bucket}/{self.prefix}{sha256}: expected sha256 {sha256}, found {found}")


def open_store(settings: Settings) -> Store:
    """The store that the settings name; StoreError if they name none and no embedded stack is up."""
    if settings.s3_endpoint_url is None:
        raise StoreError(
            f"expected an S3 endpoint, found none: set GLASSPLATE_S3_ENDPOINT_URL, or start the embedded stack "
            f"(`glassplate up`); looked in {settings.data_dir}"
        )
    secret = settings.s3_secret_access_key
    return Store(
        endpoint_url=None if settings.s3_endpoint_url == AWS else settings.s3_endpoint_url,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=None if secret is None else secret.get_secret_value(),
        checksums=settings.s3_checksums,
        kms_key_id=settings.s3_kms_key_id,
    )


class _Occupied(Exception):
    """The conditional write found the key there."""


@lru_cache(maxsize=32)
def _made(store: Store, pid: int) -> S3Client:
    """The client of this store in this process: a forked child must not share its parent's connections."""
    checks: Literal["when_supported", "when_required"] = "when_supported" if store.checksums else "when_required"
    return boto3.session.Session().client(
        "s3",
        endpoint_url=store.endpoint_url,
        region_name=store.region,
        aws_access_key_id=store.access_key_id,
        aws_secret_access_key=store.secret_access_key,
        config=Config(
            signature_version="s3v4",
            connect_timeout=min(10.0, store.timeout_seconds),
            read_timeout=store.timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": store.attempts},
            max_pool_connections=32,
            proxies={} if urlsplit(store.endpoint_url or "").hostname in ("127.0.0.1", "localhost") else None,
            s3={"addressing_style": "auto" if store.endpoint_url is None else "path"},
            request_checksum_calculation=checks,
            response_checksum_validation=checks,
        ),
    )


@contextmanager
def _translated(bucket: str, key: str) -> Iterator[None]:
    """Turns what boto3 raises into the errors of this file."""
    place = f"s3://{bucket}/{key}"
    try:
        yield
    except ClientError as error:
        raise _named(place, error) from error
    except FlexibleChecksumError as error:
        raise Altered(f"{place}: the body does not match the store's own checksum: {error}") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise Denied(f"{place}: expected S3 keys, found none: {error}") from error
    except (NotConnected, HTTPClientError, IncompleteReadError, ResponseStreamingError) as error:
        raise StoreUnavailable(f"{place}: {error}") from error
    except BotoCoreError as error:
        raise StoreError(f"{place}: {error}") from error


def _named(place: str, error: ClientError) -> StoreError:
    status, code = _status(error), error.response.get("Error", {}).get("Code", "")
    message = f"{place}: {error.operation_name} answered {status} {code}"
    if code == "InvalidObjectState":  # a 403, like those of policies
        return Cold(f"{place}: expected an object that can be read, found one in cold storage that was not restored")
    if code in _DENIED or status in (401, 403):
        return Denied(message)
    if code in _ALTERED or status == 412:
        return Altered(f"{message}: the content is not the expected one")
    if code in _LATER or status in (408, 409, 429) or status >= 500:
        return StoreUnavailable(message)
    if status == 404:
        return NotFound(message)
    return StoreError(f"{message}: {error.response.get('Error', {}).get('Message', '')}")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _begins_at(content_range: str | None) -> int:
    """The first byte that an answer holds; 0 where it is the whole object."""
    found = re.match(r"bytes (\d+)-", content_range or "")
    return int(found[1]) if found else 0


def _version(value: str | None) -> str | None:
    return None if value in (None, "", "null") else value


@contextmanager
def _opened(source: Path | bytes) -> Iterator[io.BytesIO | io.BufferedReader]:
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as body:
        yield body


def _sha256_of(source: Path | bytes) -> str:
    with _opened(source) as body:
        return hashlib.file_digest(body, "sha256").hexdigest()


def _check_source(bucket: str, key: str, source: Path | bytes, sha256: str) -> None:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > LARGEST_PUT_BYTES:
        raise StoreError(f"s3://{bucket}/{key}: expected at most {LARGEST_PUT_BYTES} bytes, found {size}")
    found = _sha256_of(source)
    if found != sha256:
        raise Altered(f"s3://{bucket}/{key}, before sending: expected sha256 {sha256}, found {found}")


def _check_metadata(bucket: str, key: str, metadata: Mapping[str, str]) -> None:
    text = "".join(f"{name}{value}" for name, value in metadata.items())
    if not text.isascii() or not text.isprintable() or len(text) > METADATA_BYTES:
        raise StoreError(
            f"s3://{bucket}/{key}: expected metadata of printable ASCII up to {METADATA_BYTES} bytes, "
            f"found {len(text)} characters: {dict(metadata)!r}"
        )
