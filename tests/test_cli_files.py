"""The commands that work on files of the user's own: Gram matrices, two-sample tests, classifiers."""

import csv

import numpy as np
import pytest

import branchsig
from branchsig import cli

RNG = np.random.default_rng(0)
PATHS = RNG.normal(scale=0.3, size=(9, 7, 2)).cumsum(axis=1)
LENGTHS = np.array([7, 5, 6, 7, 4, 7, 6, 5, 7])
GRAM = branchsig.branched_sig_kernel_gram(PATHS, None, 3, normalize="dilation")
RAGGED = branchsig.branched_sig_kernel_gram(PATHS, None, 3, normalize="dilation", lengths1=LENGTHS)


def table(file, paths, lengths=None, labels=None):
    """Write a long table, in an order of lines that is not that of time."""
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["id", "time", "x", *([] if labels is None else ["kind"]), "y"])
        for k, path in enumerate(paths):
            points = list(enumerate(path[: None if lengths is None else lengths[k]]))
            for time, (x, y) in points[::-1]:
                writer.writerow(
                    [f"s{k}", time / 4, repr(float(x)), *([] if labels is None else [labels[k]]), repr(float(y))]
                )
    return file


def written(tmp_path, kind):
    """A file of the paths, and their Gram matrix."""
    file = tmp_path / f"series.{kind.split()[-1]}"
    if kind == "npy":
        np.save(file, PATHS)
    elif kind == "padded npy":
        np.save(file, np.where(np.arange(7)[None, :, None] < LENGTHS[:, None, None], PATHS, np.nan))
    elif kind == "npz":
        np.savez(file, paths=PATHS)
    elif kind == "padded npz":
        np.savez(file, paths=PATHS, lengths=LENGTHS)
    elif kind == "csv":
        table(file, PATHS)
    elif kind == "ragged csv":
        table(file, PATHS, LENGTHS)
    elif kind == "zarr":
        pytest.importorskip("zarr").create_array(file, data=PATHS, chunks=(4, 7, 2))
    else:
        pytest.importorskip("aeon")
        lines = ["@problemName test", "@timeStamps false", "@missing false", "@univariate false", "@dimensions 2"]
        lines += ["@equalLength true", "@seriesLength 7", "@classLabel true a b", "@data"]
        for k, path in enumerate(PATHS):
            lines.append(":".join(",".join(map(repr, map(float, channel))) for channel in path.T) + ":" + "ab"[k % 2])
        file.write_text("\n".join(lines) + "\n")
    return file, RAGGED if "padded" in kind or "ragged" in kind else GRAM


KINDS = ["npy", "padded npy", "npz", "padded npz", "csv", "ragged csv", "zarr", "ts"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_gram_reads_files_of_every_kind(capsys, tmp_path, kind):
    file, gram = written(tmp_path, kind)
    out = tmp_path / "gram.npy"
    assert cli.main(["gram", str(file), "--out", str(out)]) == 0
    np.testing.assert_allclose(np.load(out), gram, rtol=1e-14)
    printed = capsys.readouterr().out
    assert "9 series of" in printed
    assert "in 2 channels" in printed
    assert "45 pairs" in printed


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_test_reads_files_of_every_kind(capsys, tmp_path, kind):
    file, gram = written(tmp_path, kind)
    other = tmp_path / "other.npy"
    np.save(other, PATHS[::-1] + np.linspace(0, 3, 7)[:, None])
    assert cli.main(["test", str(file), str(other), "--depth", "2", "--planar", "--seed", "3"]) == 0
    exact = branchsig.branched_sig_mmd_test(
        PATHS,
        np.load(other),
        2,
        seed=3,
        normalize="dilation",
        planar=True,
        lengths1=LENGTHS if gram is RAGGED else None,
    )
    printed = capsys.readouterr().out
    assert f"{exact.statistic:.6g}" in printed
    assert f"{exact.p_value:.4g}" in printed


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_fit_reads_files_of_every_kind(capsys, tmp_path, kind):
    pytest.importorskip("sklearn")
    file, gram = written(tmp_path, kind)
    names = tmp_path / "labels.txt"
    names.write_text("\n".join("ababababa") + "\n")
    assert cli.main(["fit", str(file), "--labels", str(names), "--depths", "1", "--folds", "2", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    points = "4 to 7" if gram is RAGGED else "7"
    assert f"9 series of {points} points in 2 channels, 2 classes" in printed
    assert printed.count("±") == 5 + 1


def test_gram_takes_ordered_forests(tmp_path):
    file, _ = written(tmp_path, "npy")
    out = tmp_path / "gram.npy"
    assert cli.main(["gram", str(file), "--out", str(out), "--depth", "1", "--planar", "--normalize", "none"]) == 0
    np.testing.assert_allclose(np.load(out), branchsig.sig_kernel_gram(PATHS, None), rtol=1e-14)


@pytest.mark.parametrize("ending", ["npy", "npz", "csv", "zarr"])
def test_gram_writes_files_of_every_kind(tmp_path, ending):
    zarr = pytest.importorskip("zarr") if ending == "zarr" else None
    file, _ = written(tmp_path, "npy")
    out = tmp_path / f"gram.{ending}"
    assert cli.main(["gram", str(file), str(file), "--out", str(out), "--depth", "2", "--kernel", "rbf", "--log"]) == 0
    exact = branchsig.branched_sig_kernel_gram(
        PATHS, PATHS.copy(), 2, static_kernel=branchsig.RBFKernel(1.0), normalize="dilation", log=True
    )
    found = {
        "npy": lambda: np.load(out),
        "npz": lambda: np.load(out)["gram"],
        "csv": lambda: np.loadtxt(out, delimiter=","),
        "zarr": lambda: zarr.open_group(out)["gram"][...],
    }[ending]()
    np.testing.assert_allclose(found, exact, rtol=1e-15)


def test_gram_draws_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    file, _ = written(tmp_path, "npy")
    picture = tmp_path / "gram.png"
    arguments = ["gram", str(file), "--out", str(tmp_path / "gram.npy"), "--picture", str(picture)]
    assert cli.main(arguments) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_test_prints_the_result_of_the_permutation_test(capsys, tmp_path):
    other = RNG.normal(scale=0.3, size=(8, 7, 2)).cumsum(axis=1) + np.linspace(0, 3, 7)[:, None]
    np.save(tmp_path / "a.npy", PATHS)
    np.save(tmp_path / "b.npy", other)
    assert cli.main(["test", str(tmp_path / "a.npy"), str(tmp_path / "b.npy"), "--depth", "2", "--seed", "3"]) == 0
    exact = branchsig.branched_sig_mmd_test(PATHS, other, 2, seed=3, normalize="dilation")
    printed = capsys.readouterr().out
    assert f"{exact.statistic:.6g}" in printed
    assert f"{exact.p_value:.4g}" in printed
    assert "do not have one law" in printed
    assert cli.main(["test", str(tmp_path / "a.npy"), str(tmp_path / "a.npy"), "--depth", "2"]) == 0
    assert "does not tell" in capsys.readouterr().out


def two_classes():
    """Circles run through forwards and backwards, which signatures of level 2 tell apart."""
    angle = np.linspace(0, 2 * np.pi, 12)
    turns = np.where(np.arange(20) % 2 == 0, 1.0, -1.0)
    circles = np.stack([np.cos(turns[:, None] * angle), np.sin(turns[:, None] * angle)], axis=2)
    return circles + RNG.normal(scale=0.05, size=circles.shape), np.where(turns > 0, "left", "right")


@pytest.mark.parametrize("where", ["a column", "a text file", "an array", "the file itself"])
def test_fit_finds_the_depth_that_tells_classes_apart(capsys, tmp_path, where):
    pytest.importorskip("sklearn")
    paths, labels = two_classes()
    more = []
    if where == "a column":
        file, more = table(tmp_path / "series.csv", paths, labels=labels), ["--labels", "kind"]
    elif where == "the file itself":
        file = tmp_path / "series.npz"
        np.savez(file, paths=paths, labels=labels)
    else:
        file = tmp_path / "series.npy"
        np.save(file, paths)
        names = tmp_path / ("labels.txt" if where == "a text file" else "labels.npy")
        if where == "a text file":
            names.write_text("\n".join(labels) + "\n")
        else:
            np.save(names, labels)
        more = ["--labels", str(names)]
    assert cli.main(["fit", str(file), *more, "--depths", "1", "2", "--folds", "2", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "20 series of 12 points in 2 channels, 2 classes" in printed
    assert printed.count("±") == 2 * 5 + 1
    assert "best: depth 2" in printed
    assert "accuracy 1.000" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gram", "none.npy", "--out", "g.npy"], "no such file"),
        (["gram", "series.txt", "--out", "g.npy"], ".npy, .npz, .csv"),
        (["gram", "series.npy", "--out", "g.png"], "give one of npy"),
        (["gram", "series.npy", "--out", "none/g.npy"], "does not exist"),
        (["gram", "series.npy", "series.npy", "series.npy", "--out", "g.npy"], "3 files"),
        (["gram", "two.npz", "--out", "g.npy"], 'expected one named "paths"'),
        (["gram", "flat.npy", "--out", "g.npy"], "layout"),
        (["gram", "words.csv", "--out", "g.npy"], "line 3, column x: 'high' is not a number"),
        (["gram", "short.csv", "--out", "g.npy"], "line 3 has 2 fields"),
        (["gram", "bare.csv", "--out", "g.npy"], "whose second is time"),
        (["gram", "series.npy", "--out", "g.npy", "--sigma", "2"], "--kernel rbf"),
        (["gram", "series.npy", "--out", "g.npy", "--order", "-1"], "order"),
        (["test", "series.npy", "wide.npy"], "dimension"),
        (["fit", "series.npy"], "--labels FILE"),
        (["fit", "series.npy", "--labels", "none.txt"], "no such file"),
        (["fit", "series.npy", "--labels", "three.txt"], "3 labels for 9 series"),
        (["fit", "series.npy", "--labels", "same.txt"], "two"),
        (["fit", "series.npy", "--labels", "rare.txt"], "rarest label"),
    ],
)
def test_what_a_command_cannot_do_is_said_with_the_remedy(capsys, tmp_path, monkeypatch, arguments, words):
    if arguments[0] == "fit":
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    np.save("series.npy", PATHS)
    np.save("wide.npy", np.zeros((4, 5, 3)))
    np.save("flat.npy", np.zeros((4, 5)))
    np.savez("two.npz", a=PATHS, b=PATHS)
    (tmp_path / "series.txt").write_text("1 2\n")
    (tmp_path / "words.csv").write_text("id,time,x\na,0,1\na,1,high\n")
    (tmp_path / "short.csv").write_text("id,time,x\na,0,1\na,1\n")
    (tmp_path / "bare.csv").write_text("id,time\na,0\n")
    (tmp_path / "three.txt").write_text("a\nb\na\n")
    (tmp_path / "same.txt").write_text("a\n" * 9)
    (tmp_path / "rare.txt").write_text("a\n" * 8 + "b\n")
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "g.npy").exists()
