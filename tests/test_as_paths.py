"""Series as people hold them: every form of the same paths gives the same paths, and what is ambiguous is refused."""

import sys
import types

import array_api_strict
import numpy as np
import pytest

import branchsig

LENGTHS = [5, 3, 6]


@pytest.fixture
def series(rng):
    """Three series of two channels, of different lengths."""
    return [0.3 * rng.standard_normal((length, 2)) for length in LENGTHS]


def padded_with_nan(series):
    result = np.full((len(series), max(map(len, series)), series[0].shape[1]), np.nan)
    for row, one in zip(result, series):
        row[: len(one)] = one
    return result


def assert_are(result, series):
    """The paths up to their lengths are the series, and behind them stands their last point."""
    paths, lengths = result
    assert (LENGTHS if lengths is None else lengths.tolist()) == [len(one) for one in series]
    for path, one in zip(paths, series, strict=True):
        np.testing.assert_array_equal(path[: len(one)], one)
        np.testing.assert_array_equal(path[len(one) :], np.broadcast_to(one[-1], path[len(one) :].shape))


class Holder:
    """What is no array, but gives one."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


FORMS = {
    "list": (lambda s: s, None),
    "tuple": (tuple, "nlc"),
    "list, channels first": (lambda s: [one.T for one in s], "ncl"),
    "list of lists": (lambda s: [one.tolist() for one in s], None),
    "array of objects": (lambda s: np.array([*s, None], dtype=object)[:-1], None),
    "padded": (padded_with_nan, None),
    "padded, in an array of objects": (lambda s: padded_with_nan(s).astype(object), None),
    "padded, channels first": (lambda s: padded_with_nan(s).swapaxes(1, 2), "ncl"),
    "padded, too long": (lambda s: np.pad(padded_with_nan(s), ((0, 0), (0, 4), (0, 0)), constant_values=np.nan), None),
    "list of padded": (lambda s: list(padded_with_nan(s)), None),
    "list of what gives arrays": (lambda s: [Holder(one) for one in s], None),
    "another library": (lambda s: array_api_strict.asarray(padded_with_nan(s)), "nlc"),
    "list of another library": (lambda s: [array_api_strict.asarray(one.T) for one in s], "ncl"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_paths(form, series):
    make, layout = FORMS[form]
    paths, lengths = branchsig.as_paths(make(series), layout=layout)
    assert paths.shape == (3, 6, 2)
    if "library" in form:
        assert type(paths) is type(array_api_strict.asarray(0.0))
        paths, lengths = np.asarray(paths), np.asarray(lengths)
    assert lengths.dtype == np.int64
    assert_are((paths, lengths), series)


def test_a_gram_matrix_of_paths_is_that_of_the_series(series):
    paths, lengths = branchsig.as_paths(padded_with_nan(series).swapaxes(1, 2), layout="ncl")
    gram = branchsig.branched_sig_kernel_gram(paths, None, 2, lengths1=lengths, time_aug=True)
    np.testing.assert_allclose(gram, branchsig.branched_sig_kernel_gram(series, None, 2, time_aug=True), rtol=1e-13)


@pytest.mark.parametrize(
    ("make", "layout"),
    [
        (lambda x: x, None),
        (lambda x: x.swapaxes(1, 2), "ncl"),
        (list, None),
        (lambda x: [one.T for one in x], "ncl"),
        (lambda x: np.pad(x, ((0, 0), (0, 2), (0, 0)), constant_values=np.nan), "nlc"),
    ],
)
def test_paths_of_one_length_come_without_lengths(make, layout, rng):
    x = rng.standard_normal((4, 6, 3))
    paths, lengths = branchsig.as_paths(make(x), layout=layout)
    assert lengths is None
    np.testing.assert_array_equal(paths, x)


@pytest.mark.parametrize(
    "make",
    [
        np.asarray,
        list,
        lambda x: [one.tolist() for one in x],
        array_api_strict.asarray,
        lambda x: np.pad(x, ((0, 0), (0, 2)), constant_values=np.nan),
    ],
)
def test_series_of_one_channel_have_a_layout_of_their_own(make, rng):
    x = rng.standard_normal((4, 6))
    paths, lengths = branchsig.as_paths(make(x), layout="nl")
    assert lengths is None
    np.testing.assert_array_equal(np.asarray(paths), x[:, :, None])


def test_series_of_one_channel_may_have_different_lengths():
    paths, lengths = branchsig.as_paths([np.array([1.0, 2.0]), np.array([3.0])], layout="nl")
    assert paths.tolist() == [[[1.0], [2.0]], [[3.0], [3.0]]]
    assert lengths.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("dtype", "wanted"), [(np.float32, np.float32), (np.int16, np.float64), (bool, np.float64), (">f8", np.float64)]
)
def test_the_dtype_is_single_precision_where_the_series_are_and_else_double(dtype, wanted):
    for data in (np.ones((2, 4, 3), dtype), [np.ones((4, 3), dtype), np.ones((2, 3), dtype)]):
        assert branchsig.as_paths(data)[0].dtype == wanted


def test_a_list_of_both_precisions_is_in_double_precision():
    assert branchsig.as_paths([np.ones((4, 3), np.float32), np.ones((4, 3))])[0].dtype == np.float64


def test_the_data_are_not_written_to(series):
    data = padded_with_nan(series)
    data.flags.writeable = False
    assert_are(branchsig.as_paths(data), series)


AMBIGUOUS = [
    (np.zeros((5, 4)), None, "may be 5 series of one channel, or one series of 4 channels"),
    (np.zeros((5, 3, 40)), None, 'more channels than points. Give layout="nlc" if that is so, or layout="ncl"'),
    ([np.zeros((3, 40))] * 2, None, r'data\[0\] has shape \(3, 40\).*Give layout="nlc" .* or layout="ncl"'),
    (
        [np.zeros((3, 40)), np.zeros((3, 9))],
        None,
        '9 to 40 columns and 3 rows each: if rows are channels give layout="',
    ),
    ([np.zeros(4), np.zeros(2)], None, r'data\[0\] has shape \(4,\).*give layout="nl"'),
]


@pytest.mark.parametrize(("data", "layout", "words"), AMBIGUOUS)
def test_an_order_of_axes_that_could_be_another_one_is_not_guessed(data, layout, words):
    with pytest.raises(ValueError, match=words):
        branchsig.as_paths(data, layout=layout)


@pytest.mark.parametrize("layout", ["nlc", "ncl"])
def test_a_layout_that_is_named_is_taken_at_its_word(layout):
    assert branchsig.as_paths(np.zeros((5, 3, 40)), layout=layout)[0].shape == (
        (5, 3, 40) if layout == "nlc" else (5, 40, 3)
    )


def test_different_lengths_tell_the_order_of_axes():
    assert branchsig.as_paths([np.zeros((3, 40)), np.zeros((2, 40))])[0].shape == (2, 3, 40)


def with_nan(*places, value=np.nan, shape=(3, 6, 2)):
    data = np.zeros(shape)
    for place in places:
        data[place] = value
    return data


WRONG = [
    (with_nan((1, 3, 1)), None, r"data\[1\] is NaN at point 3 in channel 1\."),
    (with_nan((1, 5, 1)), None, r"data\[1\] is NaN at point 5 in channel 1"),
    (with_nan((1, 0)), None, r"data\[1\] is NaN at point 0 in channel 0, and 1 more values are not finite"),
    (with_nan((2, 4, 0), value=-np.inf), None, r"data\[2\] is infinite at point 4 in channel 0"),
    (with_nan(1), None, r"data\[1\] has no points: all of its values are NaN"),
    (with_nan((1, 1, 3), shape=(3, 2, 6)), "ncl", r"data\[1\] is NaN at point 3 in channel 1"),
    (list(with_nan((1, 3, 1))), None, r"data\[1\] is NaN at point 3 in channel 1\."),
    ([np.zeros((3, 2)), np.zeros((0, 2))], None, r"data\[1\] has no points"),
    ([np.zeros((3, 2)), np.zeros((4, 1))], None, r"data\[0\] has shape \(3, 2\) and data\[1\] \(4, 1\): expected"),
    ([np.zeros((2, 3)), np.zeros((1, 4))], "ncl", r"data\[1\] has 1 channels and data\[0\] has 2"),
    (
        [np.zeros((3, 2)), np.zeros(4)],
        "nlc",
        r'data\[1\] has shape \(4,\): expected \(length, channels\) with layout="nlc"',
    ),
    ([np.zeros((3, 2))], "nl", r"data\[0\] has shape \(3, 2\): expected \(length\), one channel"),
    ([[[1.0, 2.0], [3.0]]], None, r"data\[0\] is a list whose rows are not of one length"),
    ([], None, "data is an empty list"),
    (np.zeros((0, 3, 2)), None, r"data has shape \(0, 3, 2\): expected at least one series, point and channel"),
    (np.zeros((3, 2, 2, 2)), None, r"data has shape \(3, 2, 2, 2\): expected \(n, length, channels\)"),
    (np.zeros((3, 4, 2)), "nl", r'expected 2 axes with layout="nl"'),
    (np.zeros((3, 4)), "ncl", r'expected 3 axes with layout="ncl"'),
    (np.zeros((3, 4, 2)), "long", 'layout="long" with data of type ndarray'),
    (np.zeros((3, 4, 2)), "lnc", "layout is 'lnc': expected None, \"nlc\" for"),
    ("series.csv", None, r"data is 'series.csv': expected the path of a file that ends with .ts"),
]


@pytest.mark.parametrize(("data", "layout", "words"), WRONG)
def test_what_is_wrong_is_said_with_its_place(data, layout, words):
    with pytest.raises(ValueError, match=words):
        branchsig.as_paths(data, layout=layout)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (3.0, "data is of type float: expected an array, a list"),
        (None, "data is of type NoneType"),
        ([1.0, 2.0], r"data\[0\] is 1.0: expected a series"),
        ([np.zeros((3, 2)), None], r"data\[1\] is None: expected a series"),
        (np.ma.masked_array(np.zeros((2, 3, 1))), r"masked array: expected a plain array.*data.filled\(numpy.nan\)"),
        (np.zeros((2, 3, 1), complex), "data has dtype complex128: expected real numbers"),
        (
            (np.zeros((2, 3)), np.array(["a", "b"])),
            r"data\[1\] has dtype <U1.*If it holds series and labels, give the ser",
        ),
        (np.array([[object()]]), "data has dtype object: expected real numbers"),
    ],
)
def test_what_is_no_series_is_refused(data, words):
    with pytest.raises(TypeError, match=words):
        branchsig.as_paths(data)


def test_a_layout_is_a_name():
    with pytest.raises(TypeError, match="layout is 3"):
        branchsig.as_paths(np.zeros((2, 3, 1)), layout=3)


def test_a_file_is_read_by_whichever_library_is_there(series, tmp_path, monkeypatch):
    path = tmp_path / "Some_TRAIN.ts"
    path.write_text("")
    aeon, datasets = types.ModuleType("aeon"), types.ModuleType("aeon.datasets")
    datasets.load_from_ts_file = lambda name: ([one.T for one in series], np.array(["a", "b", "a"]))
    monkeypatch.setitem(sys.modules, "aeon", aeon)
    monkeypatch.setitem(sys.modules, "aeon.datasets", datasets)
    assert_are(branchsig.as_paths(path), series)
    assert_are(branchsig.as_paths(str(path)), series)


def test_a_file_without_a_library_to_read_it_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "Some_TRAIN.ts"
    with pytest.raises(FileNotFoundError, match="no such file"):
        branchsig.as_paths(path)
    path.write_text("")
    for name in ("aeon.datasets", "sktime.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="install aeon or sktime"):
        branchsig.as_paths(path)
