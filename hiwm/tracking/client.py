"""MLflow's client, of a server or of a database on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from hiwm.locks import locked

DATABASE = "mlflow.db"
REQUEST_SECONDS = "10"


def connect(root: Path, remote: str | None) -> Any:
    """MLflow's client of the server, or of the database of all results. Requests end soon, because they are repeated here."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # the address may hold a password
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", REQUEST_SECONDS)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    import logging

    from mlflow import MlflowClient

    # MLflow logs the creation of its tables, which is of no interest to the user
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    if remote:
        return MlflowClient(remote)
    path = root / DATABASE
    if not path.exists():
        with locked(path):
            if not path.exists():  # another command may have made it
                # under a temporary name, because a half-made database can be neither used nor repaired
                for left in root.glob(f"{path.stem}*.tmp"):
                    left.unlink()
                temporary = path.with_name(f"{path.stem}-{uuid4().hex}.tmp")  # MLflow keeps what it opened under a name
                MlflowClient(f"sqlite:///{temporary}").search_experiments()
                temporary.replace(path)
    return MlflowClient(f"sqlite:///{path}")


def dataset_input(record: Mapping[str, Any]) -> Any:
    """A dataset as MLflow takes it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source, profile = json.dumps({"uri": record["source"]}), json.dumps({"num_rows": record["rows"]})
    dataset = Dataset(record["name"], record["digest"], "local", source, profile=profile)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
