"""What a query looks like in JSON, wherever it comes from.

ResolveRequest.model_validate_json(text).query()
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from registry.api.schemas import WHOLE, Body, Sha256, Text
from registry.resolve import service

SMALLEST_ALPHA = 1e-30


Logit = Annotated[int, Field(ge=-1_000_000, le=1_000_000), WHOLE]
Logits = Annotated[list[Logit], Field(min_length=8, max_length=2000)]
TargetLabel = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=300,
        pattern=r"^([^\x00-\x1f\x7f]{1,200}/)?[a-z0-9][a-z0-9._-]*(@[1-9][0-9]{0,8})?$",
    ),
]


class ImageReadings(Body):
    """What the network reads off one image: integer logits, clipped and in units of its quantum.

    A reading for each pose tried. Which one is judged first is decided by their confidence, as the verifier
    does; the others are paid for with a share of alpha.
    """

    path: Text = "image"
    sha256: Sha256 | None = Field(None, description="Of the image file, for the finding alone.")
    readings: Annotated[list[Logits], Field(min_length=1, max_length=service.READINGS_MOST)]


class ResolveRequest(Body):
    """Images to be judged as one set."""

    model: Annotated[TargetLabel, Field(description="NAME[@VERSION], or OWNER/NAME[@VERSION] by a grant.")]
    network: Annotated[Sha256, Field(description="SHA-256 of network.onnx, or the package's digest.")]
    images: Annotated[list[ImageReadings], Field(min_length=1, max_length=service.IMAGES_MOST)]
    alpha: Annotated[float, Field(ge=SMALLEST_ALPHA, le=service.LARGEST_ALPHA)] = service.LARGEST_ALPHA
    groups: Annotated[
        int, Field(ge=1, le=1_000_000, description="Sets that alpha is shared among."), WHOLE
    ] = 1

    def query(self) -> service.Query:
        """As the service takes it."""
        images = [service.Image(image.path, image.sha256, image.readings) for image in self.images]
        return service.Query(self.model, self.network, images, self.alpha, self.groups)
