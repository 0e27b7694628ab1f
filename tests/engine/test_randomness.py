import numpy as np
import pytest
from scipy import stats

from qwill.engine.randomness import philox, uniforms


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known-answer vectors of Random123, kat_vectors, philox4x32 10
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter, key, expected):
    words = philox(np.array(counter, dtype=np.uint32), (key[0], key[1]))
    assert words.tolist() == expected


def test_draws_are_uniform_along_every_axis():
    grid = uniforms(3, np.arange(20)[:, None, None], np.arange(20)[None, :, None], np.arange(50))
    assert grid.shape == (20, 20, 50)
    assert grid.min() > 0 and grid.max() < 1
    assert stats.kstest(grid.ravel(), "uniform").pvalue > 1e-3
    for axis in range(3):  # means over the two other axes: 50 (or 20) sums of uniforms, each near 1/2
        means = grid.mean(axis=tuple(a for a in range(3) if a != axis))
        deviation = (means - 0.5) * np.sqrt(12 * grid.size / len(means))
        assert stats.kstest(deviation, "norm").pvalue > 1e-3


def test_neighbouring_streams_are_independent():
    base = uniforms(0, 0, 0, np.arange(20_000))
    others = [
        uniforms(0, 1, 0, np.arange(20_000)),
        uniforms(0, 0, 1, np.arange(20_000)),
        uniforms(1, 0, 0, np.arange(20_000)),
        uniforms(1 << 32, 0, 0, np.arange(20_000)),
        uniforms(0, 0, 0, np.arange(1, 20_001)),
    ]
    for other in others:
        cells = np.histogram2d(base, other, bins=10, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(cells.ravel()).pvalue > 1e-3


def test_a_draw_depends_on_its_name_only():
    together = uniforms(5, np.array([4, 9]), np.array([0, 2]), np.array([7, 1]))
    assert together[0] == uniforms(5, 4, 0, 7) and together[1] == uniforms(5, 9, 2, 1)


def test_extreme_words_stay_inside_the_open_interval(monkeypatch):
    import qwill.engine.randomness as randomness

    for word in (0, 0xFFFFFFFF):
        monkeypatch.setattr(
            randomness, "philox", lambda counter, key, w=word: np.full(counter.shape, w, dtype=np.uint32)
        )
        assert 0 < float(uniforms(0, 0, 0, 0)) < 1
