"""What nnkit asks of NVIDIA's driver, by the real bindings and a driver library without a GPU: see libcuda.py. Each session is a process."""

import inspect
import pathlib
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("numba_cuda", reason="needs nnkit[cuda-test]")
pytest.importorskip("nvidia.cu13", reason="needs nnkit[cuda-test]")
import driver_sessions

SESSIONS = [name for name, value in vars(driver_sessions).items()
            if inspect.isfunction(value) and [*inspect.signature(value).parameters] == ["driver"]]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("session", SESSIONS)
def test_session(session):
    script = pathlib.Path(__file__).with_name("libcuda.py")
    done = subprocess.run([sys.executable, str(script), session], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
