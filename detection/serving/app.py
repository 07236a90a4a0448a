"""A detector as an HTTP service (FastAPI, the extra ``serve``): images in, JSON or a drawn image out.

Uploads stay in memory, are decoded by Pillow alone, and are bounded in bytes, pixels and time; no address is fetched for a
client, and no name that a client gives is used.
"""

import asyncio
import base64
import binascii
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from PIL import Image

from detection.data.image import UnreadableImage
from detection.inference.detections import Detections
from detection.inference.predictor import Predictor
from detection.inference.sources import decode
from detection.inference.writers import as_objects
from detection.serving.batching import Batcher, Overloaded
from detection.serving.metrics import Metrics

_POLICY = "default-src 'none'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; connect-src 'self'"


@dataclass(frozen=True)
class ServeLimits:
    """What the service takes.

    Attributes:
        max_bytes: of a request.
        max_pixels: of an image.
        timeout: seconds that a request may take; it is answered 504 then.
        batch_size: images of one size that go through the network together.
        waiting: requests that wait; others are answered 503 with Retry-After.
    """

    max_bytes: int = 16 * 2**20
    max_pixels: int = 50_000_000
    timeout: float = 30.0
    batch_size: int = 4
    waiting: int = 16


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}


def make_app(predictor: Predictor, limits: ServeLimits | None = None) -> Any:
    """Return the FastAPI application of a predictor: POST /detect and /detect/json, GET /, /health, /metrics, /docs.

    Raises:
        ImportError: fastapi or python-multipart is not installed.
    """
    try:
        import fastapi
        import python_multipart  # noqa: F401  # fastapi says late that it is missing
        from fastapi.responses import PlainTextResponse, Response
    except ImportError as error:
        raise ImportError("serving requires FastAPI: pip install 'resdet[serve]'") from error
    service = Service(predictor, limits or ServeLimits())

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        service.batcher.close()

    app = fastapi.FastAPI(
        title="ResDet",
        description="Detect objects on an image. The form is at [/](/).",
        version="1",
        lifespan=lifespan,
    )
    app.state.service = service
    _add_checks(app, service, fastapi)
    _add_pages(app, service, fastapi, PlainTextResponse, Response)
    _add_detect(app, service, fastapi, Response)
    return app


class Service:
    """What the routes share: the predictor behind its queue, limits and counts."""

    def __init__(self, predictor: Predictor, limits: ServeLimits) -> None:
        self.predictor, self.limits, self.metrics = predictor, limits, Metrics()
        size = limits.batch_size
        self.batcher = Batcher(lambda images: predictor(list(images), batch_size=size), size, limits.waiting)

    async def detect(self, content: bytes) -> tuple[Any, Detections]:
        """Return the image in bytes and its detections.

        Raises:
            Refused: no image, a large one, too many requests, or too slow.
        """
        if not content:
            raise Refused(422, "the request has no image")
        try:
            image = await asyncio.to_thread(
                decode, content, self.limits.max_pixels, "the image", self.predictor.channels
            )
        except UnreadableImage as error:
            raise Refused(413 if "allowed" in str(error) else 422, str(error)) from None
        try:
            future = self.batcher.submit(image)
        except Overloaded as error:
            raise Refused(503, str(error), {"Retry-After": str(error.retry_after)}) from None
        try:
            found = await asyncio.wait_for(asyncio.wrap_future(future), self.limits.timeout)
        except TimeoutError:
            raise Refused(504, f"not done within {self.limits.timeout:g} s") from None
        return image, found


def answer(image: Any, found: Detections, seconds: float) -> dict[str, Any]:
    """Return the JSON of an image's detections."""
    height, width = image.shape[:2]
    return {"width": width, "height": height, "seconds": round(seconds, 4), "detections": as_objects(found)}


def _add_checks(app: Any, service: Service, fastapi: Any) -> None:
    @app.middleware("http")
    async def check(request: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Refuse large requests before they are read, count all of them, and say what a page may load."""
        started = time.perf_counter()
        length = request.headers.get("content-length")
        if request.method == "POST" and not (length and length.isdecimal()):
            response = _error(fastapi, Refused(411, "wanted a Content-Length"))
        elif request.method == "POST" and int(length) > service.limits.max_bytes:
            response = _error(fastapi, Refused(413, f"more than the {service.limits.max_bytes} bytes allowed"))
        else:
            response = await call_next(request)
        if request.url.path.startswith("/detect"):
            found = int(response.headers.get("x-detections", "0"))
            service.metrics.add(response.status_code, time.perf_counter() - started, found)
        response.headers["X-Content-Type-Options"] = "nosniff"
        if request.url.path not in ("/docs", "/redoc"):  # FastAPI's, which load scripts of their own
            response.headers["Content-Security-Policy"] = _POLICY
        return response

    @app.exception_handler(Refused)
    async def refused(request: Any, error: Refused) -> Any:
        return _error(fastapi, error)


def _error(fastapi: Any, error: Refused) -> Any:
    return fastapi.responses.JSONResponse({"detail": error.detail}, error.status, error.headers)


def _add_pages(app: Any, service: Service, fastapi: Any, text: Any, response: Any) -> None:
    kinds = {"form.html": "text/html; charset=utf-8", "form.css": "text/css", "form.js": "text/javascript"}
    content = {name: files("detection.serving").joinpath(name).read_bytes() for name in kinds}

    def page(name: str) -> Any:
        return lambda: response(content[name], media_type=kinds[name])

    app.get("/", include_in_schema=False)(page("form.html"))
    app.get("/form.css", include_in_schema=False)(page("form.css"))
    app.get("/form.js", include_in_schema=False)(page("form.js"))

    @app.get("/health", summary="Whether the detector answers, and its classes")
    def health() -> dict[str, Any]:
        alive = service.batcher.thread.is_alive()
        if not alive:
            raise Refused(500, "the detector's thread has ended")
        return {"status": "ok", "classes": list(service.predictor.classes), "waiting": service.batcher.queue.qsize()}

    @app.get("/metrics", summary="Counts and latencies, as Prometheus reads them")
    def metrics() -> Any:
        batcher = service.batcher
        return text(
            service.metrics.text(batcher.queue.qsize(), batcher.batches), media_type="text/plain; version=0.0.4"
        )


def _add_detect(app: Any, service: Service, fastapi: Any, response: Any) -> None:
    upload, form = fastapi.File(description="an image file"), fastapi.Query(0.0, ge=0, le=1)

    async def finish(content: bytes, score: float, drawn: bool) -> Any:
        started = time.perf_counter()
        image, found = await service.detect(content)
        found = found[found.scores >= score]
        headers = {"X-Detections": str(len(found))}
        if drawn:
            return response(await asyncio.to_thread(_jpeg, image, found), media_type="image/jpeg", headers=headers)
        seconds = time.perf_counter() - started
        return fastapi.responses.JSONResponse(answer(image, found, seconds), headers=headers)

    @app.post("/detect", summary="Detect on an uploaded image (multipart form)")
    async def detect(image: fastapi.UploadFile = upload, score: float = form, drawn: bool = False) -> Any:
        """Return JSON, or the image with its boxes as JPEG with `drawn=true`; only detections of at least `score`."""
        return await finish(await image.read(), score, drawn)

    @app.post("/detect/json", summary="Detect on a base64 image (JSON)")
    async def detect_json(image: str = fastapi.Body(embed=True), score: float = form, drawn: bool = False) -> Any:
        """Take `{"image": "…"}`: the bytes of an image file in base64. Addresses are not fetched."""
        try:
            content = base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError):
            raise Refused(422, "image is not base64 (addresses are not fetched)") from None
        return await finish(content, score, drawn)


def _jpeg(image: Any, found: Detections) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(found.draw(image)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
