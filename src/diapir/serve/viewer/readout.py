"""What is under the pointer, as a line at the foot of the page.

The browser writes it by itself: a tooltip would cover what one looks at, and a value of a model
would be sent to the server at every move.
"""

from bokeh.models import ColumnDataSource, CustomJS
from bokeh.plotting import figure

# The pointer is remembered as its share of the ranges on screen: after a step or a zoom it is over
# another sample without having moved.
_WRITE = """
const line = document.getElementById('readout');
if (!line) return;
const [across, down] = [plot.x_range, plot.y_range];
const span = (range) => range.end - range.start;
if (cb_obj.sx !== undefined) {
  line.pointer = [(cb_obj.x - across.start) / span(across), (cb_obj.y - down.start) / span(down)];
}
const data = amplitude.data;
if (!line.pointer || !data.image.length) { line.textContent = ''; return; }
const x = across.start + line.pointer[0] * span(across);
const y = down.start + line.pointer[1] * span(down);
const [height, width] = data.image[0].shape ?? [data.image[0].length, data.image[0][0].length];
const i = Math.floor((x - data.x[0]) / data.dw[0] * width);
const j = Math.floor((y - data.y[0]) / data.dh[0] * height);
if (i < 0 || j < 0 || i >= width || j >= height) { line.textContent = ''; return; }
const sample = data.sample[0];
// to a hundredth of a step: the sums leave crumbs, and large numbers have many digits
const number = (start, size, count, place, own) => {
  const digits = Math.min(20, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(own)))));
  return Number((start + place * size / count + own / 2).toFixed(digits)).toString();
};
const value = data.image[0][j * width + i] * data.unit[0];
let text = `${data.name_across[0]} ${number(data.x[0], data.dw[0], width, i, sample[0])}   `
         + `${data.name_down[0]} ${number(data.y[0], data.dh[0], height, j, sample[1])}   `
         + `amplitude ${Number(value.toPrecision(4))}`;
const salt = probs.data;
if (salt.image.length && salt.image[0].length == data.image[0].length) {
  text += `   probability ${(salt.image[0][j * width + i] % 256 / 255).toFixed(2)}`;
}
line.textContent = text;
"""
_LEAVE = """
const line = document.getElementById('readout');
if (line) { line.pointer = null; line.textContent = ''; }
"""


def follow_pointer(plot: figure, amplitude: ColumnDataSource, probs: ColumnDataSource) -> None:
    """Write what is under the pointer wherever it moves, and whenever the section changes.

    Args:
        plot: The figure of the section.
        amplitude: Its amplitudes, with their unit and the names of the axes.
        probs: Pixels of the probability, of the same size where they are known.
    """
    write = CustomJS(args={"plot": plot, "amplitude": amplitude, "probs": probs}, code=_WRITE)
    plot.js_on_event("mousemove", write)
    plot.js_on_event("mouseleave", CustomJS(code=_LEAVE))
    for source in (amplitude, probs):
        source.js_on_change("data", write)
    for ranged in (plot.x_range, plot.y_range):
        ranged.js_on_change("end", write)
