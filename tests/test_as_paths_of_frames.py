"""Data frames as paths: long frames, two-level indices, and frames with a series in each cell. Needs pandas."""

import numpy as np
import pytest

import branchsig

pd = pytest.importorskip("pandas")

LENGTHS = {"b": 5, "a": 3, "c": 6}


@pytest.fixture
def series(rng):
    return [rng.standard_normal((length, 2)) for length in LENGTHS.values()]


@pytest.fixture
def long(series, rng):
    """A long frame of the series, its rows in no order but that each series appears first where it should."""
    frame = pd.concat(
        pd.DataFrame({"id": name, "time": np.arange(len(one)) * 0.5, "u": one[:, 0], "v": one[:, 1]})
        for name, one in zip(LENGTHS, series)
    )
    first = frame.groupby("id", sort=False).tail(1)
    return pd.concat([first, frame.sample(frac=1.0, random_state=0)]).drop_duplicates().reset_index(drop=True)


def assert_are(result, series):
    paths, lengths = result
    assert lengths.tolist() == [len(one) for one in series]
    for path, one in zip(paths, series, strict=True):
        np.testing.assert_array_equal(path[: len(one)], one)


def nested(series, cell):
    return pd.DataFrame({f"channel {c}": [cell(one[:, c]) for one in series] for c in range(2)})


FORMS = {
    "long": (lambda long, series: long, "long"),
    "two levels": (lambda long, series: long.set_index(["id", "time"]), None),
    "dates": (lambda long, series: long.assign(time=pd.to_datetime(long["time"], unit="D")), "long"),
    "names of categories": (lambda long, series: long.assign(id=long["id"].astype("category")), "long"),
    "nested series": (lambda long, series: nested(series, pd.Series), None),
    "nested arrays": (lambda long, series: nested(series, np.asarray), "ncl"),
    "list of frames": (lambda long, series: [pd.DataFrame(one, columns=["u", "v"]) for one in series], None),
    "numbers that may be missing": (lambda long, series: long.astype({"u": "Float64", "v": "Float64"}), "long"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_frame_gives_the_same_paths(form, long, series):
    make, layout = FORMS[form]
    assert_are(branchsig.as_paths(make(long, series), layout=layout), series)


def test_points_without_values_at_the_end_are_padding(long, series):
    more = pd.DataFrame({"id": ["b", "a"], "time": [90.0, 91.0], "u": np.nan, "v": np.nan})
    assert_are(branchsig.as_paths(pd.concat([long, more]), layout="long"), series)


def test_a_series_in_each_row_has_a_layout(rng):
    frame = pd.DataFrame(rng.standard_normal((3, 5)))
    frame.iloc[1, 3:] = np.nan
    paths, lengths = branchsig.as_paths(frame, layout="nl")
    assert lengths.tolist() == [5, 3, 5]
    np.testing.assert_array_equal(paths[1, :3, 0], frame.to_numpy()[1, :3])


def test_a_list_of_series_is_one_of_series_of_one_channel():
    paths, lengths = branchsig.as_paths([pd.Series([1.0, 2.0]), pd.Series([3, 4, 5])])
    assert paths[:, :, 0].tolist() == [[1.0, 2.0, 2.0], [3.0, 4.0, 5.0]]
    assert lengths.tolist() == [2, 3]


def wide(*_):
    return pd.DataFrame(np.zeros((3, 5)))


@pytest.mark.parametrize(
    ("make", "layout", "words"),
    [
        (wide, None, r"index of one level: expected a two-level index .* give layout=\"nl\""),
        (wide, "nlc", "index of one level"),
        (
            lambda long: long[["id", "time"]],
            "long",
            r"columns \['id', 'time'\]: expected a column that names the series",
        ),
        (lambda long: long.set_index(["id", "time", "u"]), None, "index of 3 levels"),
        (lambda long: pd.concat([long, long.iloc[[4]]]), "long", "has two points at one time, the second in row"),
        (
            lambda long: long.replace({"time": {1.0: np.nan}}),
            "long",
            "has no time: expected the name of a series and a",
        ),
        (lambda long: long.replace({"id": {"a": None}}), "long", "has no series"),
        (
            lambda long: long.assign(v=long["v"].where(long["time"] != 0.5)),
            "long",
            "series 'b' of data is NaN at point 1 in ch",
        ),
        (lambda long: long.iloc[:0], "long", "frame of shape"),
        (lambda long: nested([np.zeros((3, 2))], pd.Series), "nlc", "whose cells hold series: its rows are paths"),
    ],
)
def test_frames_that_do_not_say_what_they_are_get_errors_that_do(make, layout, words, long):
    with pytest.raises(ValueError, match=words):
        branchsig.as_paths(make(long), layout=layout)


def test_cells_of_different_lengths_are_refused():
    frame = pd.DataFrame({"u": [pd.Series([1.0, 2.0])], "v": [pd.Series([1.0])]})
    with pytest.raises(ValueError, match=r"row 0 of data has cells of shapes \[\(2,\), \(1,\)\]"):
        branchsig.as_paths(frame)


def test_words_among_the_channels_are_refused(long):
    with pytest.raises(TypeError, match="data without the columns of series and time has dtype object"):
        branchsig.as_paths(long.assign(v="word").astype({"v": object}), layout="long")


def test_times_become_a_channel_from_the_same_frame(long, series):
    times, _ = branchsig.as_paths(long[["id", "time"]].assign(stamp=long["time"]), layout="long")
    np.testing.assert_array_equal(times[1, :3, 0], [0.0, 0.5, 1.0])
