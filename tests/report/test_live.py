"""`anytrain report --live`: a real server on runs that are written while it serves."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anytrain.cli.main import main
from anytrain.compare.tail import Tail
from anytrain.report import live
from anytrain.report.live import Watch
from anytrain.report.live_charts import ticks
from anytrain.report.live_server import HOST, Server, server
from anytrain.rundir import RunDir
from fake_runs import PER_STEP, evaluation, training, write_run

CHROMIUM = shutil.which("chromium")
Serve = Callable[..., Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Serves runs at a free port, each asker with a reading of its own."""
    monkeypatch.setattr(live, "_FRESH", 0.0)
    started = []

    def start(*runs: RunDir) -> Server:
        made = server([Watch(run.path) for run in runs], 0)
        started.append(made)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        return made

    yield start
    for made in started:
        made.shutdown()
        made.server_close()


def get(made: Server, path: str = "/", host: str | None = None) -> tuple[int, str]:
    port = made.server_address[1]
    connection = http.client.HTTPConnection(HOST, port, timeout=20)
    connection.request("GET", path, headers={"Host": f"{HOST}:{port}" if host is None else host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def state(made: Server) -> dict[str, Any]:
    status, text = get(made, "/state")
    assert status == 200
    found: dict[str, Any] = json.loads(text)
    return found


def write(run: RunDir, *records: dict[str, Any], torn: str = "") -> None:
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records) + torn)


# --- what it shows ---------------------------------------------------------------------------


def test_the_page(trunk: RunDir, serve: Serve) -> None:
    status, page = get(serve(trunk))
    assert status == 200
    assert "2.5500" in page
    assert f"anytrain release {trunk.path}@2000:ema25" in page
    for label in ("Best model now", "Next doubling gains", "Data left", "Disk left"):
        assert label in page
    assert "http-equiv" in page  # without scripts
    assert "://" not in page.replace("http://www.w3.org", "")  # nothing from elsewhere


def test_charts(trunk: RunDir, serve: Serve) -> None:
    figures = state(serve(trunk))["charts"]
    assert set(figures) == {"run0-loss", "run0-rate", "run0-pace"}
    names = {trace["name"] for trace in figures["run0-loss"]["data"]}
    assert {"raw", "ema25", "ema100", "training"} <= names
    assert figures["run0-pace"]["data"][0]["y"] == pytest.approx(
        [PER_STEP / 0.1] * len(figures["run0-pace"]["data"][0]["y"])
    )


def test_a_new_evaluation_is_shown(trunk: RunDir, serve: Serve) -> None:
    made = serve(trunk)
    assert "2.5500" in state(made)["parts"]["now0"]
    write(trunk, training(2001, 2001 * PER_STEP), evaluation(2001, {"raw": 2.6, "ema25": 2.4321}))
    parts = state(made)["parts"]
    assert "2.4321" in parts["now0"]
    assert "step 2,001" in parts["more0"]
    assert "2.5500" in parts["now0"]  # what a checkpoint holds to be released


def test_a_torn_line_waits_for_its_end(trunk: RunDir, serve: Serve) -> None:
    made = serve(trunk)
    line = json.dumps(evaluation(2100, {"raw": 2.5, "ema25": 2.3456}))
    write(trunk, training(2100, 2100 * PER_STEP), torn=line[:40])
    parts = state(made)["parts"]
    assert "step 2,100" in parts["now0"]
    assert "problem" not in parts["now0"]
    write(trunk, torn=line[40:] + "\n")
    assert "2.3456" in state(made)["parts"]["now0"]


def test_before_the_first_evaluation_and_before_anything(tmp_path: Path, serve: Serve) -> None:
    begun = write_run(tmp_path / "begun", end=30, evaluated={})
    empty = write_run(tmp_path / "empty", end=0)
    found = state(serve(begun, empty))
    assert "no evaluation yet; loss while training" in found["parts"]["now0"]
    assert "No checkpoint yet" in found["parts"]["now0"]
    assert {trace["name"] for trace in found["charts"]["run0-loss"]["data"]} == {"training"}
    assert "no evaluation yet; nothing measured" in found["parts"]["now1"]
    assert not any(name.startswith("run1") for name in found["charts"])


def test_a_run_that_disappears_and_a_damaged_one(
    trunk: RunDir, tmp_path: Path, serve: Serve
) -> None:
    other = write_run(tmp_path / "other", end=300)
    made = serve(trunk, other)
    state(made)
    shutil.rmtree(trunk.path)
    write(other, torn="{oops}\n")
    parts = state(made)["parts"]
    assert "is no longer there" in parts["now0"]
    assert "2.5500" in parts["now0"]
    assert "damaged" in parts["now1"]
    assert get(made)[0] == 200


def test_running_or_stopped(trunk: RunDir, serve: Serve) -> None:
    made = serve(trunk)
    assert "state stopped" in state(made)["parts"]["now0"]
    with trunk.locked():
        assert "state running" in state(made)["parts"]["now0"]


def test_names_are_text(tmp_path: Path, serve: Serve) -> None:
    run = write_run(tmp_path / "<img src=x>", end=60, evaluated={50: {"<b>": 2.0, "raw": 3.0}})
    status, page = get(serve(run))
    assert status == 200
    assert "<img" not in page
    assert "<b>&" not in page
    assert "&lt;b&gt;" in page


# --- who may ask -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:9000", 200),  # through a tunnel
        ("127.0.0.1:1", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:80", 403),
        ("evil.example@localhost", 200),  # no browser sends it; the name is localhost
        ("[", 403),
        ("", 403),
    ],
)
def test_only_for_this_machine(host: str, status: int, trunk: RunDir, serve: Serve) -> None:
    made = serve(trunk)
    assert made.server_address[0] == "127.0.0.1"
    assert get(made, "/live.js", host=host)[0] == status


def test_no_other_path(trunk: RunDir, serve: Serve) -> None:
    made = serve(trunk)
    for path in ("/../recipe.toml", "/recipe.toml", "/state/x"):
        assert get(made, path)[0] == 404
    connection = http.client.HTTPConnection(HOST, made.server_address[1], timeout=20)
    connection.request("POST", "/state")
    assert connection.getresponse().status == 501
    connection.close()


# --- in a browser ----------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_draws_it_without_a_complaint(
    trunk: RunDir, serve: Serve, tmp_path: Path
) -> None:
    made = serve(trunk)
    assert CHROMIUM
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'chromium'}", "--virtual-time-budget=8000",
         "--dump-dom", made.url],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    assert done.stdout.count('class="main-svg"') >= 3  # Plotly drew the three
    assert "As of" in done.stdout  # and the page asked again


# --- the verb --------------------------------------------------------------------------------


def test_ctrl_c_ends_it_well(trunk: RunDir) -> None:
    serving = subprocess.Popen(
        [sys.executable, "-m", "anytrain", "report", "--live", trunk.path, "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert serving.stdout is not None
    assert serving.stdout.readline().startswith("http://127.0.0.1:")
    serving.send_signal(signal.SIGINT)
    assert serving.wait(20) == 0
    serving.stdout.close()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--live", "--out", "x"], "--live with --out x: a page is served or written, not both"),
        (["--live", "--json"], "--live with --json: a page or numbers, not both"),
        (["--port", "80"], "--port 80 is of the live page; with --live it is valid"),
        (["--live", "--port", "70000"], "--port 70000: 0 (any) to 65535 are valid"),
    ],
)
def test_sentences(
    more: list[str], sentence: str, trunk: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(trunk.path), *more]) == 2
    assert sentence in capsys.readouterr().err


def test_a_port_that_is_taken(
    trunk: RunDir, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    port = serve(trunk).server_address[1]
    assert main(["report", str(trunk.path), "--live", "--port", str(port)]) == 2
    assert "a free port, or 0, is valid" in capsys.readouterr().err


# --- parts -----------------------------------------------------------------------------------


def test_the_tail_is_thinned_and_follows(tmp_path: Path) -> None:
    run = write_run(tmp_path / "long", end=5000, evaluated={})
    tail = Tail(run.path / "metrics.jsonl")
    points = tail.read()
    assert 600 <= len(points) <= 1201
    assert points[-1].step == 5000
    assert [p.step for p in points] == sorted({p.step for p in points})
    assert tail.read() == points
    write(run, training(4001, 4001 * PER_STEP))  # taken up again after a kill
    assert tail.read()[-1].step == 4001
    (run.path / "metrics.jsonl").write_text(json.dumps(training(1, PER_STEP)) + "\n")
    assert [p.step for p in tail.read()] == [1]


def test_ticks_are_round() -> None:
    assert [text for _, text in ticks(0.0, 8.2e6)] == ["0", "2M", "4M", "6M", "8M"]
    assert [text for _, text in ticks(3e5, 8.2e6, True)] == ["500k", "1M", "2M", "5M"]
    assert [text for _, text in ticks(1e5, 1e9, True)] == ["100k", "1M", "10M", "100M", "1B"]
