"""Forecasting: a GRU looks at the last thirty years of sunspots and says how many there will be a year later.

Runs on the monthly numbers of sunspots from 1749 to 1983 where the environment variable NNKIT_DATA names a folder that holds
time_series/time_series.npz, else on a series with a cycle of about eleven years that is made on the spot, and says so. The network learns from the
first part of the series, the next part decides when to stop, and the last part is forecast once. Prints the mean absolute error beside those of
honest baselines, forecasts that cost nothing: the number stays as it is (persistence), the mean of the last year, the mean of the years that were
learnt, and a linear regression on the same window. Saves forecasting.png: forecast against truth.
"""

import argparse
import os
from pathlib import Path

import matplotlib
import numpy as np

import nnkit
from nnkit import GRU, Adam, Dense, EarlyStopping, Input, Sequential
from nnkit.datasets import time_series_windows

matplotlib.use("Agg")  # write files; no window, so that the script runs on any machine
import matplotlib.pyplot as plt

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--out", type=Path, default=Path(), help="folder for the plot (default: the current one)")
options.add_argument("--quick", action="store_true", help="two epochs, to see that everything runs")
options = options.parse_args()

WINDOW, AHEAD = 360, 12                # months that the network sees, and how many months later the one stands that it is asked for


def made(months: int) -> np.ndarray:
    """Numbers (months,) that rise and fall in cycles of 9 to 13 years and of different heights, with noise that grows with the number."""
    rng = np.random.default_rng(0)
    cycles = [rng.uniform(50, 160) * np.sin(np.linspace(0, np.pi, int(length), endpoint=False)) ** 2
              for length in rng.uniform(9 * 12, 13 * 12, months // (9 * 12) + 1)]
    level = np.concatenate(cycles)[:months]
    return np.maximum(level + (4 + 0.15 * level) * rng.standard_normal(months), 0)


folder = os.environ.get("NNKIT_DATA")
if folder:
    with np.load(Path(folder) / "time_series" / "time_series.npz") as stored:
        series = stored["sunspots_monthly"]
    print(f"Sunspots: {len(series):,} months from 1749")
else:
    series = made(2820)
    print(f"NNKIT_DATA is not set: {len(series):,} months made on the spot in place of sunspots")

# Cut by time, then make windows of each part; a part begins a window early, so that its first month is forecast, too. The noise of a month grows
# with its number, so the network sees square roots, and it says by how much the root will change, for which it need not learn to copy.
ends = [len(series) * 60 // 100, len(series) * 75 // 100, len(series)]
roots = np.sqrt(series)
centre, scale = roots[:ends[0]].mean(), roots[:ends[0]].std()
parts = []
for begin, end in zip([WINDOW + AHEAD - 1, *ends[:-1]], ends, strict=True):
    x, y = time_series_windows((roots[begin - WINDOW - AHEAD + 1:end] - centre) / scale, WINDOW, horizon=AHEAD)
    parts.append((x, y - x[:, -12:, 0].mean(axis=1)))
(x_train, y_train), (x_val, y_val), (x_test, y_test) = parts
print(f"{len(x_train):,} months to learn from, {len(x_val)} to decide when to stop, {len(x_test)} to forecast")


def numbers(change: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sunspots from what the network says of windows x."""
    return np.maximum((change.ravel() + x[:, -12:, 0].mean(axis=1)) * scale + centre, 0) ** 2


spec = Sequential([
    Input((WINDOW, 1)),
    GRU(32),
    Dense(1),
])
model = nnkit.compile(spec, optimizer=Adam(2e-3, global_clipnorm=1), loss="mae", seed=0)
model.summary()
patience = EarlyStopping(patience=8, restore_best_weights=True)
history = model.fit(x_train, y_train, batch_size=32, epochs=2 if options.quick else 60, validation_data=(x_val, y_val), callbacks=[patience])

truth = series[ends[1]:]
months = np.arange(ends[1], ends[2])
regression = np.linalg.lstsq(np.column_stack([x_train[..., 0], np.ones(len(x_train))]), y_train, rcond=None)[0]
forecasts = {
    "GRU": numbers(model.predict(x_test), x_test),
    "linear regression": numbers(np.column_stack([x_test[..., 0], np.ones(len(x_test))]) @ regression, x_test),
    "persistence": series[months - AHEAD],
    "mean of the last year": np.array([series[month - AHEAD - 11:month - AHEAD + 1].mean() for month in months]),
    "mean of all before": np.full(len(months), series[:ends[0]].mean()),
}
errors = {name: np.abs(forecast - truth).mean() for name, forecast in forecasts.items()}
print(f"Mean absolute error {AHEAD} months ahead, months {ends[1]} to {ends[2] - 1}:")
for name, error in errors.items():
    print(f"  {name:22} {error:6.2f}")

figure, (above, below) = plt.subplots(2, 1, figsize=(11, 7), sharex=True, layout="constrained")
years = 1749 + months / 12 if folder else months / 12
above.plot(years, truth, color="black", linewidth=0.8, label="truth")
above.plot(years, forecasts["GRU"], color="tab:red", label=f"GRU, {AHEAD} months before: mean absolute error {errors['GRU']:.1f}")
above.set(ylabel="sunspots a month")
above.legend()
below.plot(years, truth, color="black", linewidth=0.8, label="truth")
below.plot(years, forecasts["persistence"], color="tab:blue", linewidth=0.8, label=f"persistence: {errors['persistence']:.1f}")
below.plot(years, forecasts["mean of the last year"], color="tab:green", label=f"mean of the last year: {errors['mean of the last year']:.1f}")
below.set(xlabel="year", ylabel="sunspots a month")
below.legend()
figure.savefig(options.out / "forecasting.png", dpi=120)
print(f"Plot: {options.out / 'forecasting.png'}")
