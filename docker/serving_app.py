"""The serving image's HTTP server: MLflow's own around /model, with two of its answers mended."""

import os

from fastapi import Request
from fastapi.responses import JSONResponse
from mlflow.pyfunc import load_model
from mlflow.pyfunc.scoring_server import init

model = load_model(os.environ.get("SERVED_MODEL", "/model"))
if model.loader_module == "served_model":  # models logged by version 0.1 check nothing themselves
    # The model's check tells in a sentence what MLflow's tells in ten lines with an excerpt of the images.
    model.metadata.signature.inputs = None
app = init(model)


@app.exception_handler(RecursionError)
async def refuse_nesting(request: Request, error: RecursionError) -> JSONResponse:
    """Answer 400: MLflow's parser gives up on JSON nested some hundred times, and its server says 500."""
    body = {"error_code": "BAD_REQUEST", "message": "The JSON is nested too deeply: send an array of images"}
    return JSONResponse(body, 400)
