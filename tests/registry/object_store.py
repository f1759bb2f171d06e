"""An S3 server of the tests' own: moto's, which speaks the real protocol over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import boto3
from moto.server import ThreadedMotoServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class ObjectStore:
    """A running server."""

    endpoint: str
    server: ThreadedMotoServer

    @contextmanager
    def outage(self) -> Iterator[None]:
        """The server is down in the block, and after it is where it was with all that it held."""
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()

    def bucket(self) -> str:
        """The URL of a new bucket's folder."""
        name = f"hallmark-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}/registry"

    def client(self) -> boto3.client:
        """Amazon's own client, to see what is really there."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A server on a free port, stopped at the end of the block."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    server._port = port  # where it starts again
    try:
        yield ObjectStore(f"http://{host}:{port}", server)
    finally:
        server.stop()
