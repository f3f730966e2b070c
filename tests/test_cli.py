"""The command line says what is installed, and its demo finds right gradients on real data."""

import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest

import branchsig
from branchsig import cli
from branchsig.cli import demo


def test_info_names_the_version_and_a_backend(capsys):
    assert cli.main(["info"]) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed["branchsig"] == importlib.metadata.version("branchsig")
    assert printed["NumPy"] == np.__version__
    assert "reference" in printed["backends"]
    assert "cores usable" in printed["CPU"]
    assert "CuPy" in printed["CUDA"]


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.split() == ["branchsig", branchsig.__version__]


def test_demo_classifies_the_motions_and_finds_the_gradient_right(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--depth", "2"]) == 0
    printed = capsys.readouterr().out
    assert "of 40 test recordings right" in printed
    assert "passed" in printed
    right = [int(line.split(" of 40")[0].split()[-1]) for line in printed.splitlines() if "recordings right" in line]
    assert len(right) == 2
    assert min(right) >= 25  # guessing would give 10


def test_demo_writes_its_picture_where_it_is_told(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    target = tmp_path / "gram.png"
    assert cli.main(["demo", "--depth", "1", "--jobs", "2", "--picture", str(target)]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    assert str(target) in capsys.readouterr().out


def test_demo_runs_without_matplotlib_and_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "has", lambda module: False)
    assert cli.main(["demo", "--depth", "1"]) == 0
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["gram.nonsense", "gram"])
def test_a_picture_in_no_known_format_is_refused_before_the_work(capsys, tmp_path, name):
    pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["demo", "--depth", "1", "--picture", str(tmp_path / name)])
    assert exit_.value.code == 2
    printed = capsys.readouterr()
    assert f"--picture: {name} does not end in a file type that matplotlib can write: give one of" in printed.err
    assert "png" in printed.err
    assert not printed.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--depth", "--jobs"])
def test_messages_name_nothing_that_is_private(capsys, option):
    with pytest.raises(SystemExit):
        cli.main(["demo", option, "two"])
    printed = capsys.readouterr().err
    assert f"argument {option}: 'two' is not an integer" in printed
    assert "_" not in printed.replace("branchsig_gram", "")


def test_a_wrong_gradient_ends_the_demo_with_status_one(capsys, tmp_path, monkeypatch):
    def wrong(derivs, path1, path2, depth, **options):
        return np.ones_like(path1), None

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(branchsig, "branched_sig_kernel_gram_backprop", wrong)
    assert cli.main(["demo", "--depth", "1"]) == 1
    assert "TOO LARGE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["demo", "--depth", "0"], "1 or more"),
        (["demo", "--depth", "two"], "--depth"),
        (["demo", "--jobs", "0"], "-1 for all cores"),
        (["demo", "--picture", "no/such/folder/gram.png"], "does not exist"),
        ([], "info"),
        (["dmeo"], "demo"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_remedy(capsys, arguments, remedy):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert remedy in capsys.readouterr().err


def test_the_picture_without_matplotlib_is_refused_with_its_remedy(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("branchsig.cli.arguments.has", lambda module: False)
    with pytest.raises(SystemExit):
        cli.main(["demo", "--picture", str(tmp_path / "gram.png")])
    assert "branchsig[demo]" in capsys.readouterr().err


def test_python_m_branchsig_is_the_same_command(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "branchsig", "info"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("branchsig")


def test_the_paths_of_the_demo_are_standardised_and_have_time():
    train, train_labels, test, test_labels = demo.motions()
    assert train.shape == test.shape == (40, 100, 6)
    assert sorted(set(train_labels)) == sorted(set(test_labels)) == ["Badminton", "Running", "Standing", "Walking"]
    train, test = demo.prepared(train, test)
    np.testing.assert_allclose(train[..., :6].std(axis=(0, 1)), 1.0, rtol=1e-12)
    for paths in (train, test):
        assert paths.shape == (40, 100, 7)
        np.testing.assert_array_equal(paths[:, -1, 6], 1.0)
