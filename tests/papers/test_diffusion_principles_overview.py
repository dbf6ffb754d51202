"""The pictures of the opening page: that the film moves, and that arrows point where they say."""

import io

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch.testing import assert_close

from reprobook.diffusion.mixtures import leaves
from reprobook.diffusion.schedules import SCHEDULES
from reprobook.papers.diffusion_principles.overview_figures import draw_density, draw_field, moving_picture


def test_the_film_shows_every_frame_on_white_with_few_colours():
    frames = [torch.full((1, 2), x) for x in (-1.0, 0.0, 1.0)]
    with Image.open(io.BytesIO(moving_picture(frames, 2.0, ["#0072B2"]))) as film:
        assert film.n_frames == 3 and film.info["loop"] == 3
        centres = []
        for k in range(3):
            film.seek(k)
            pixels = np.array(film.convert("RGB"))
            assert (pixels[0, 0] == 255).all()
            rows, columns = np.nonzero(pixels[..., 0] < 128)
            centres.append((columns.mean(), rows.mean()))
    across = np.array(centres)[:, 0] / 300 * 4 - 2  # in the units of the points
    assert np.abs(across - [-1, 0, 1]).max() < 0.05
    assert np.diff(np.array(centres)[:, 1]).max() < 0  # up, as their second coordinate grows


def test_arrows_are_the_predictions_scaled_to_one_length():
    schedule, t = SCHEDULES["fm"], torch.tensor(0.5, dtype=torch.float64)
    figure, ax = plt.subplots()
    draw_field(ax, leaves().model(schedule, "noise"), "score", t, 2.0, "ours", longest=0.3)
    (arrows,) = ax.collections
    x = torch.as_tensor(np.stack([arrows.X, arrows.Y], 1))
    drawn = torch.as_tensor(np.stack([arrows.U, arrows.V], 1))
    score = leaves().score(x, t, schedule)
    assert_close(drawn, score * 0.6 / score.norm(dim=1).max())
    plt.close(figure)


def test_the_shade_is_darkest_where_the_density_is_highest():
    schedule, t = SCHEDULES["fm"], torch.tensor(0.3, dtype=torch.float64)
    figure, ax = plt.subplots()
    draw_density(ax, leaves(), 2.5, t, schedule)
    (shades,) = ax.collections
    side = torch.linspace(-2.5, 2.5, 90, dtype=torch.float64)
    at = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)
    peak = at[leaves().log_density(at, t, schedule).argmax()]
    last = [path for path in shades.get_paths() if len(path.vertices)][-1]
    assert last.get_extents().padded(0.1).contains(*peak.tolist())
    plt.close(figure)
