"""scikit-learn's side: MLPClassifier; `partial_fit` is one epoch."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from worker import Job, serve


def prepare(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    x, y = arrays["x"], arrays["y"].astype(int)
    model = MLPClassifier((64, 32), batch_size=32, random_state=0)

    def epochs(n: int) -> None:
        for _ in range(n):
            model.partial_fit(x, y, classes=(0, 1))

    def loss() -> float:
        return log_loss(y, model.predict_proba(x))

    if work != "predict":
        return Job({"epoch": epochs}, loss)

    def calls(n: int) -> None:
        for _ in range(n):
            model.predict_proba(x[:1])

    return Job({"train": epochs, "call": calls}, loss)


if __name__ == "__main__":
    serve(prepare)
