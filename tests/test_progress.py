"""The progress line. The clock is a stand-in, so that nothing here depends on how fast this machine is."""

import io
import math
import re
import subprocess
import sys
import types

import pytest

from nnkit.training import progress as module
from nnkit.training.progress import QUIET, Progress, one_pass, resolve_verbose


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


class Clock:
    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def streams(monkeypatch):
    """Replace standard error and output: (error is a terminal, output is a terminal) -> the two streams."""
    def replace(error, output):
        streams = Stream(error), Stream(output)
        monkeypatch.setattr(sys, "stderr", streams[0])
        monkeypatch.setattr(sys, "stdout", streams[1])
        return streams
    return replace


@pytest.fixture
def bar(monkeypatch):
    """A stand-in for tqdm that lists what it was made to show."""
    made = []

    class Bar:
        def __init__(self, **options):
            self.options, self.total, self.n, self.closed = options, options["total"], 0, False
            self.shown = []
            self.title, self.postfix = options["desc"], ""
            made.append(self)

        def set_description_str(self, text, refresh):
            assert not refresh
            self.title = text

        def set_postfix_str(self, text, refresh):
            assert not refresh
            self.postfix = text

        def update(self, n):
            self.n += n
            self.refresh()

        def refresh(self):
            self.shown.append((self.title, self.n, self.postfix))

        def close(self):
            self.closed = True

    monkeypatch.setattr(module, "_bar_class", lambda: Bar)
    return made


def test_verbose(streams):
    for error, output, verbose in [(False, False, 0), (True, False, 1), (False, True, 1)]:
        streams(error, output)
        assert resolve_verbose("auto") == verbose
    assert [resolve_verbose(verbose) for verbose in (0, 1, 2, False, True)] == [0, 1, 2, 0, 1]


def test_verbose_without_streams(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    assert resolve_verbose("auto") == 0


def test_verbose_in_a_notebook(streams, monkeypatch):
    streams(False, False)
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert resolve_verbose("auto") == 1
    shell.config = {}                                              # IPython in a pipe
    assert resolve_verbose("auto") == 0


@pytest.mark.parametrize("verbose", [3, -1, "loud", None, 1.0])
def test_wrong_verbose_is_refused(verbose):
    with pytest.raises(ValueError, match="^" + re.escape(f"verbose must be 'auto', 0, 1 or 2, received {verbose!r}") + "$"):
        Progress(1, 1, verbose)


def drive(progress, clock, epochs, samples, batch, seconds, first=0):
    for epoch in range(first, epochs):
        progress.begin_epoch(epoch)
        for done in range(batch, samples + 1, batch):
            clock.now += seconds
            progress.advance(done, {"loss": 1 / done})
        progress.end_epoch({"loss": 0.5, "val_loss": 0.25 + epoch})
    progress.close()


def test_quiet_writes_nothing(streams, clock, bar):
    error, output = streams(True, True)
    drive(Progress(2, 4, 0), clock, 2, 4, 1, 1.0)
    assert error.getvalue() == output.getvalue() == ""
    assert bar == []


def test_one_pass_says_what_it_is(streams, clock, bar):
    assert one_pass("predict", 8, 0) is QUIET
    with one_pass("predict", 8, 1) as progress:
        drive(progress, clock, 1, 8, 4, 1.0)
    assert (bar[0].shown[-1][:2], bar[0].closed) == (("predict", 8), True)
    _, output = streams(False, False)
    with one_pass("evaluate", None, 2) as progress:      # batches: nobody knows how many
        clock.now += 2
        progress.advance(8, {})
        progress.end_epoch({"loss": 0.5})
    assert output.getvalue() == "evaluate: loss 0.5000 (2 s, 4 samples/s)\n"


def test_at_most_five_updates_a_second(clock, bar):
    """1,000 epochs of 4 pieces of 1/1024 s (exact in binary) take 3.9 s: 19 updates, and one at the end."""
    drive(Progress(1000, 4, 1), clock, 1000, 4, 1, 1 / 1024)
    (one,) = bar                                                   # one line for the whole training
    assert len(one.shown) == 20
    assert one.shown[-1] == ("epoch 1000/1000", 4000, "loss 0.5000, val_loss 999.2500")
    assert (one.total, one.n, one.closed) == (4000, 4000, True)


def test_line_tells_epoch_samples_and_metrics(clock, bar):
    drive(Progress(3, 8, 1), clock, 3, 8, 4, 1.0, first=1)
    (one,) = bar
    assert one.total == 16                                         # epochs 1 and 2 of 0, 1, 2
    assert [shown for shown in one.shown if shown[1] == 4] == [("epoch 2/3", 4, "loss 0.2500")]
    assert ("epoch 3/3", 12, "loss 0.2500, val_loss 1.2500") in one.shown      # the last validation stays in view
    assert one.options["unit"] == " samples"


def test_unknown_number_of_samples_is_learned(clock, bar):
    progress = Progress(2, None, 1)
    progress.begin_epoch(0)
    clock.now += 1
    progress.advance(6, {})
    assert bar[0].total is None
    progress.end_epoch({})
    progress.begin_epoch(1)
    clock.now += 1
    progress.advance(3, {})
    assert (bar[0].total, bar[0].n) == (12, 9)


def test_stopped_early(clock, bar):
    progress = Progress(10, 8, 1)
    progress.begin_epoch(0)
    progress.advance(4, {"loss": math.nan})
    progress.close()
    progress.close()
    assert (bar[0].n, bar[0].total, bar[0].closed) == (4, 80, True)
    assert bar[0].shown == [("epoch 1/10", 4, "loss nan")]


def test_close_without_any_epoch():
    Progress(1, 1, 1).close()


def test_verbose_two_is_one_line_per_epoch(streams, clock):
    error, output = streams(True, True)
    drive(Progress(2, 8, 2), clock, 2, 8, 4, 1 / 1024)
    assert output.getvalue() == (
        "epoch 1/2: loss 0.5000, val_loss 0.2500 (0.00195 s, 4,096 samples/s)\n"
        "epoch 2/2: loss 0.5000, val_loss 1.2500 (0.00195 s, 4,096 samples/s)\n")
    assert error.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_without_tqdm_or_terminal(streams, clock, monkeypatch, terminal):
    """1,000 epochs of 1/256 s: a line at most every 0.2 s (52 epochs, 0.203 s), the first and the last epoch among them."""
    if terminal:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    _, output = streams(terminal, terminal)
    drive(Progress(1000, 4, 1), clock, 1000, 4, 1, 1 / 1024)
    lines = output.getvalue().splitlines()
    assert [int(re.match(r"epoch (\d+)/1000: loss 0\.5000, ", line)[1]) for line in lines] == [*range(1, 1000, 52), 1000]


@pytest.mark.parametrize(("error", "output", "shown"), [(True, True, 0), (True, False, 0), (False, True, 1)])
def test_real_line_goes_to_the_terminal(streams, clock, error, output, shown):
    pytest.importorskip("tqdm")
    both = streams(error, output)
    drive(Progress(2, 4000, "auto"), clock, 2, 4000, 1000, 1.0)
    text = both[shown].getvalue()
    last = re.split(r"[\r\n]", text.rstrip())[-1]
    assert last.startswith("epoch 2/2: 100%")
    assert re.search(r"samples/s, 00:00 left, loss 0\.5000, val_loss 1\.2500$", last)
    assert text.endswith("\n")
    assert both[1 - shown].getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_of_its_own_above_the_progress_line(streams, clock, terminal):
    """tqdm takes its line away, and draws it again below."""
    pytest.importorskip("tqdm")
    error, output = streams(terminal, terminal)
    with Progress(2, 4, 1) as progress:
        progress.begin_epoch(0)
        module.say("the rate goes from 1 to 0.1")
        if terminal:
            assert re.split(r"[\r\n]", error.getvalue())[-1].startswith("epoch 1/2: ")
    assert output.getvalue() == "the rate goes from 1 to 0.1\n"


@pytest.mark.parametrize(("value", "text"), [
    (0.0, "0.0000"), (0.12345, "0.1235"), (-0.5, "-0.5000"), (1e-3, "0.0010"), (9.9e-4, "9.900e-04"), (99999.0, "99999.0000"), (1e5, "1.000e+05"),
    (math.nan, "nan"), (math.inf, "inf"),
])
def test_numbers(value, text):
    assert module._number(value) == text


def test_nothing_heavy_is_imported():
    """In a fresh process: importing the training modules, and a quiet progress, bring in neither tqdm nor matplotlib nor pandas nor Numba."""
    code = (
        "import sys\n"
        "import nnkit.training.callbacks, nnkit.training.feed, nnkit.training.history\n"
        "from nnkit.training.progress import Progress\n"
        "progress = Progress(1, 1, 'auto'); progress.begin_epoch(0); progress.end_epoch({}); progress.close()\n"
        "print([name for name in ('matplotlib', 'numba', 'pandas', 'scipy', 'tqdm') if name in sys.modules])\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
