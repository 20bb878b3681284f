"""Runs and models in MLflow."""

import os

# Read when MLflow is imported: it would send usage to its makers, and a thread of it changes the environment
# while requests read it (KeyError '_MLFLOW_TELEMETRY_SESSION_ID').
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
