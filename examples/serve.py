"""Serves a detector over HTTP: an image file in, a decision out.

python examples/serve.py detector --port=8000
curl --data-binary @photo.png localhost:8000/decide
"""

import argparse
import io

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse

from ood_suite.data.decoding import opened, picture
from ood_suite.files import MENDABLE
from ood_suite.serving.pixel_detector import PixelDetector

LARGEST = 20 * 2**20  # bytes of a body


def application(detector):
    """The FastAPI application of a PixelDetector, which several threads may call."""
    app = FastAPI(title="Is this like what the detector was calibrated on?")

    def decide(body):
        with opened(io.BytesIO(body)) as file:
            found = detector(picture(file, detector.image_shape, detector.transform))
        return {
            "class": detector.classes[found.label], "score": float(found.score),
            "p_value": float(found.p_value), "is_ood": bool(found.is_ood),
        }  # fmt: skip

    @app.post("/decide")
    async def decision(request: Request):
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST:
                raise HTTPException(413, f"At most {LARGEST} bytes.")
        try:
            return await run_in_threadpool(decide, body)
        except Exception as error:  # decoders raise what comes to hand
            raise HTTPException(400, f"The body must be an image file: {error!r:.200}") from error

    @app.get("/card", response_class=PlainTextResponse)
    def card():
        return detector.card

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("detector", help="folder that ood_suite.calibrate wrote")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all, as in a container")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    try:
        served = application(PixelDetector.load(arguments.detector))
    except MENDABLE as error:
        parser.error(str(error))
    uvicorn.run(served, host=arguments.host, port=arguments.port)
