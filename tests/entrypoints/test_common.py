"""How commands fail, and what their arguments accept."""

import argparse
import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from nnunetv2_stitch.distributed import SINGLE_PROCESS, Process, process_from_environment
from nnunetv2_stitch.entrypoints.common import add_common, positive_int, resolve_device, run
from nnunetv2_stitch.errors import LostProcess, StitchError


def leave(capsys: pytest.CaptureFixture, error: BaseException, **options) -> tuple[int, str]:
    """Run a command that raises `error`; return its exit code and what it wrote to stderr."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main, **options)
    out, err = capsys.readouterr()
    assert out == ""
    return caught.value.code, err


def test_success_neither_exits_nor_prints(capsys):
    called = []
    assert run(lambda: called.append(1)) is None
    assert called == [1]
    assert capsys.readouterr() == ("", "")


def test_bad_input_is_one_line(capsys):
    assert leave(capsys, StitchError("plans.json is missing; run X")) == (2, "error: plans.json is missing; run X\n")


def test_line_breaks_in_a_message_are_folded(capsys):
    assert leave(capsys, StitchError("first\n  second")) == (2, "error: first second\n")


def test_interrupted_without_and_with_resume(capsys):
    assert leave(capsys, KeyboardInterrupt()) == (130, "interrupted\n")
    expected = "interrupted; the same command with --c goes on\n"
    assert leave(capsys, KeyboardInterrupt(), resume="--c") == (130, expected)


def test_a_command_that_was_started_in_the_background_of_a_script_is_interrupted_too():
    """Kind: what a command inherits from whoever started it decides whether Ctrl-C works. Shells without job control
    let background processes ignore SIGINT."""
    code = ("from nnunetv2_stitch.entrypoints.common import run\nimport time\n"
            "run(lambda: (print('begun', flush=True), time.sleep(60)), resume='--c')")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    try:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "interrupted; the same command with --c goes on\n")
        assert process.returncode == 130
    finally:
        process.kill()


def group_of(tmp_path, work: str, several: bool = False) -> subprocess.Popen:
    """A command in a group of processes of its own, which has printed "begun" within a minute."""
    script, call = tmp_path / "command.py", f"run(main, resume='--c', several={several})"
    script.write_text("import multiprocessing, signal, time\nfrom nnunetv2_stitch.entrypoints.common import run\n"
                      "from nnunetv2_stitch.entrypoints.processes import one_of_several\n\n\n"
                      f"def main():\n{work}\n\n\nif __name__ == '__main__':\n"
                      + (f"    with one_of_several():\n        {call}\n" if several else f"    {call}\n"))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    too_late = threading.Timer(60, end_group, [process])
    too_late.start()
    try:
        assert process.stdout.readline() == "begun\n", process.stderr.read()
    finally:
        too_late.cancel()
    return process


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_only_the_command_hears_an_interrupt_and_it_ends_its_workers(method, tmp_path):
    """Kind: a terminal interrupts the workers of a pool too. Those that die of it may leave a lock of the pool taken,
    which then waits for ever, and say so in a traceback each."""
    work = f"""    with multiprocessing.get_context('{method}').Pool(4) as pool:
        assert signal.SIGINT in pool.apply(signal.pthread_sigmask, (signal.SIG_BLOCK, []))
        print('begun', flush=True)
        pool.map(time.sleep, [0.001] * (10**5 if '{method}' == 'spawn' else 1), chunksize=1)"""
    if method == "fork":  # pools that come and go are those that hung
        work += """
    while True:
        with multiprocessing.Pool(8) as pool:
            pool.starmap(max, [(1, 2)] * 2000, chunksize=1)"""
    for _ in range(5 if method == "fork" else 1):
        process = group_of(tmp_path, work)
        try:
            os.killpg(process.pid, signal.SIGINT)
            assert process.communicate(timeout=60) == ("", "interrupted; the same command with --c goes on\n")
            assert process.returncode == 130
        finally:
            end_group(process)


def test_a_second_interrupt_ends_the_command_and_its_workers_at_once(tmp_path):
    """Kind: a command that waits for something that never comes, while it ends, cannot be ended from the terminal. One
    that a launcher passes on is no second one: it cuts nothing short."""
    work = """    worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,), daemon=True)
    worker.start()
    try:
        print('begun', flush=True)
        time.sleep(600)
    finally:
        print('ending', flush=True)
        time.sleep(1.1)
        print('ended', flush=True)
        worker.join()"""
    process = group_of(tmp_path, work)
    try:
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "ending\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "ended\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "interrupted; the same command with --c goes on\n")
        assert process.returncode == 130
    finally:
        end_group(process)


LATE = """    import os
    forks = []
    os.register_at_fork(before=lambda: forks.append(1),
                        after_in_child=lambda: time.sleep(2) if len(forks) == 4 else None)
    with multiprocessing.get_context('fork').Pool(4) as pool:
        assert pool.starmap(max, [(1, 2)] * 20) == [2] * 20
    print('begun', flush=True)"""


def test_workers_of_a_pool_do_not_take_over_the_handler_with_which_a_job_hears_its_launcher(tmp_path, monkeypatch):
    """Kind: pools end their workers with SIGTERM. A forked worker that had a handler for it, and was not yet where it
    could be called, went on to wait for work, and the pool for it, for ever."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    process = group_of(tmp_path, LATE, several=True)
    try:
        assert process.communicate(timeout=60) == ("", "") and process.returncode == 0
    finally:
        end_group(process)


def end_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def test_file_errors_name_the_file(capsys, tmp_path):
    code, err = leave(capsys, PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/plans.json"))
    assert (code, err) == (2, "error: Permission denied: /data/plans.json\n")
    code, err = leave(capsys, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.tmp", None, "a.pth"))
    assert (code, err) == (2, "error: No space left on device: a.tmp -> a.pth\n")


def test_an_os_error_without_a_file_is_unexpected(capsys):
    code, err = leave(capsys, OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert code == 1
    assert err.startswith("error: unexpected OSError: ")


def test_unexpected_errors_say_how_to_see_more(capsys):
    code, err = leave(capsys, ZeroDivisionError("by zero"))
    assert code == 1
    assert err == "error: unexpected ZeroDivisionError: by zero; run again with --verbose for the traceback\n"


@pytest.mark.parametrize(("error", "code"), [(StitchError("no"), 2), (ZeroDivisionError("no"), 1)])
def test_verbose_adds_the_traceback_and_keeps_the_code(capsys, error, code):
    actual, err = leave(capsys, error, verbose=True)
    assert actual == code
    assert "Traceback" in err
    assert "run again" not in err
    assert err.splitlines()[-1].startswith("error: ")


def test_exit_codes_of_the_command_itself_pass(capsys):
    assert leave(capsys, SystemExit(7)) == (7, "")


def test_positive_int():
    assert positive_int("3") == 3
    for text in ("0", "-1", "1.5", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="whole number"):
            positive_int(text)


def test_common_options_have_the_names_of_nnunet():
    parser = argparse.ArgumentParser()
    add_common(parser)
    assert vars(parser.parse_args([])) == {"device": None, "disable_progress_bar": False, "verbose": False}
    args = parser.parse_args(["-device", "mps", "--disable_progress_bar", "--verbose"])
    assert vars(args) == {"device": "mps", "disable_progress_bar": True, "verbose": True}
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["-device", "tpu"])
    assert caught.value.code == 2


def test_device_by_default_and_by_name(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device(None).type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(None).type == "cpu"
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(StitchError, match="-device cpu"):
        resolve_device("cuda")


def test_a_lost_process_is_one_line(capsys):
    assert leave(capsys, LostProcess("gloo: connection closed by peer"), resume="--c") == (
        1, "stopped: another process of this job has ended; the same command with --c goes on\n")


@pytest.fixture
def second_of_four(monkeypatch):
    for name, value in (("RANK", 1), ("WORLD_SIZE", 4), ("LOCAL_RANK", 0), ("MASTER_ADDR", "a"), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))


def test_the_launcher_says_which_process_this_is(second_of_four, monkeypatch):
    assert process_from_environment() == Process(1, 4, 0, 1)
    monkeypatch.setenv("WORLD_SIZE", "one")
    with pytest.raises(StitchError, match="whole numbers"):
        process_from_environment()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(StitchError, match="RANK 1"):
        process_from_environment()
    monkeypatch.setenv("RANK", "0")
    assert process_from_environment() == SINGLE_PROCESS
    monkeypatch.delenv("RANK")
    assert process_from_environment() == SINGLE_PROCESS


def test_commands_for_one_process_refuse_to_be_one_of_several(second_of_four, capsys):
    called = []
    with pytest.raises(SystemExit) as caught:
        run(lambda: called.append(1))
    assert caught.value.code == 2 and not called and "without torchrun" in capsys.readouterr().err
    run(lambda: called.append(1), several=True)
    assert called
