"""The few things that the browser must do itself: keys, the gallery, pictures, the theme."""

from collections.abc import Callable
from functools import partial
from typing import Any

import panel as pn
import param
from panel.custom import JSComponent

STEPS = {"ArrowLeft": -1, "ArrowRight": 1, "PageUp": -10, "PageDown": 10}
"""Keys that step through sections, by how many."""

KEYS: dict[str, str] = {
    "left, right": "previous, next section",
    "page up, page down": "ten sections back, on",
    "1 2 3": "inlines, crosslines, slices",
    "+ - 0": "zoom in, zoom out, fit",
    "shift + arrows": "pan",
    "P": "predict what is shown",
    "F O H D T C": "layers: fill, outline, probability, disagreement, truth, corrections",
    "[ ]": "threshold down, up",
    "V": "polarity",
    "K": "cursor for drawing by keyboard: arrows move it, alt + arrows faster; "
    "enter sets a corner, shift + enter closes the polygon, escape leaves",
    "A R E": "next strokes add salt, remove salt, erase labels",
    "U": "undo",
    "S": "save the corrections of this section",
    "G": "gallery and single tile",
}
"""What keys do, for the help on the page."""

_KEYS_SCRIPT = """
export function render({ model }) {
  let waiting = 0;   // steps asked for while the page was still busy with earlier ones
  let busy = false;
  const steps = %s;
  // of what is ticked only the keys that it uses: else no shortcut works once one has been clicked
  const arrows = ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown'];
  const ticked = { checkbox: [' '], radio: [' ', ...arrows] };
  const typing = (event) => event.composedPath().some((node) => {
    if (!node.tagName) return false;
    if (node.tagName === 'INPUT' && node.type in ticked) {
      return ticked[node.type].includes(event.key);
    }
    return ['INPUT', 'TEXTAREA', 'SELECT'].includes(node.tagName) || node.isContentEditable
      || node.getAttribute('role') === 'slider';
  });
  const send = () => {
    if (waiting !== 0 && !busy) {
      busy = true;
      model.send_msg({ steps: waiting });
      waiting = 0;
    }
  };
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || typing(event)) return;
    const plain = !event.shiftKey && !event.altKey && !model.cursor;
    if (plain && event.key in steps) {
      if (!model.stepping) return;
      event.preventDefault();
      waiting += steps[event.key];
      send();
      return;
    }
    const pressing = event.key === 'Enter' || event.key === ' ';
    const [target] = event.composedPath();
    if (pressing && target.classList?.contains('bk-tab')) {  // Bokeh's hear clicks only
      event.preventDefault();
      target.click();
      return;
    }
    const inside = event.composedPath().some((node) => node.tagName === 'BUTTON');
    if (inside && pressing) return;
    const name = (event.shiftKey ? 'shift+' : '') + (event.altKey ? 'alt+' : '') + event.key;
    if (model.keys.includes(name) || (model.cursor && model.drawing.includes(name))) {
      event.preventDefault();
      // at once: the next arrow key means something else then
      if (name === 'Escape') model.cursor = false;
      if (name === 'k') {
        model.cursor = !model.cursor;
        target.blur?.();  // else a widget that was clicked takes the arrow keys
      }
      model.send_msg({ key: name });
    }
  };
  let writing;
  const write = () => {
    const { pathname, hash } = window.location;
    window.history.replaceState(null, '', pathname + model.query + hash);
  };
  const write_soon = () => {  // browsers refuse hundreds of changes in a row
    clearTimeout(writing);
    writing = setTimeout(write, 100);
  };
  model.on('query', write_soon);
  if (model.query) write_soon();
  document.addEventListener('keydown', pressed);
  document.body.dataset.keys = 'ready';  // for whoever drives the page
  model.on('served', () => { busy = false; send(); });
  model.on('remove', () => document.removeEventListener('keydown', pressed));
  return document.createElement('span');
}
"""

_GALLERY_SCRIPT = """
export function render({ model }) {
  const grid = document.createElement('div');
  grid.className = 'tiles';
  const draw = () => {
    grid.replaceChildren(...model.items.map((item) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.title = item.title;
      button.setAttribute('aria-label', item.title);
      const picture = document.createElement('img');
      picture.src = item.picture;
      picture.alt = '';
      const line = document.createElement('span');
      line.textContent = item.text;
      button.append(picture, line);
      button.onclick = () => model.send_msg({ tile: item.id });
      return button;
    }));
  };
  model.on('items', draw);
  draw();
  return grid;
}
"""

_GALLERY_STYLE = """
:host { width: 100%; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 8px; }
.tiles button { background: none; border: 1px solid transparent; border-radius: 4px; padding: 3px;
  cursor: pointer; color: inherit; font: inherit; display: flex; flex-direction: column; }
.tiles button:hover, .tiles button:focus-visible { border-color: #E69F00; outline: none; }
.tiles img { width: 100%; aspect-ratio: 1; image-rendering: auto; display: block; }
.tiles span { font-size: 11px; padding-top: 3px; text-align: left; overflow: hidden;
  white-space: nowrap; text-overflow: ellipsis; }
"""


def _on_next_tick(action: Callable[[], None]) -> None:
    """Do it when the document is locked for changes; at once where nobody looks at one.

    Panel answers to messages of its own components now and then without the lock, which Bokeh
    refuses with "_pending_writes should be non-None".
    """
    document = pn.state.curdoc
    if document is None or document.session_context is None:
        action()
    else:
        document.add_next_tick_callback(action)


class Keys(JSComponent):  # type: ignore[misc]
    """Sends keys to the page, and steps no faster than the page can show sections.

    A held arrow key repeats thirty times a second. Steps that come while the page still reads and
    draws are added up and sent as one, so that it never walks on after the key is let go.
    """

    served = param.Integer(0, doc="Counted on whenever the page is ready for more steps.")
    cursor = param.Boolean(False, doc="Arrow keys move the drawing cursor instead.")
    stepping = param.Boolean(True, doc="A section is shown, through which keys step.")
    keys = param.List([], doc="Names of the other keys that are listened to.")
    drawing = param.List([], doc="Names of those that are, while the drawing cursor is on.")
    query = param.String("", doc="What follows the address of the page, so that it reopens it.")

    _esm = _KEYS_SCRIPT % STEPS

    def __init__(
        self, on_steps: Callable[[int], None], on_key: Callable[[str], None], **params: Any
    ) -> None:
        super().__init__(**params)
        self._on_steps, self._on_key = on_steps, on_key

    def _handle_msg(self, message: Any) -> None:
        """Answer to what the browser sent, whatever that is."""
        if isinstance(message, dict):
            _on_next_tick(partial(self._answer, message))

    def _answer(self, message: dict[str, Any]) -> None:
        steps, key = message.get("steps"), message.get("key")
        if isinstance(steps, int):
            self._on_steps(steps)
        if isinstance(key, str) and key in (*self.keys, *self.drawing):
            self._on_key(key)


class Thumbnails(JSComponent):  # type: ignore[misc]
    """A grid of pictures that can be clicked, or reached with the tab key."""

    items = param.List([], doc="Dicts of id, picture (a data address), text and title.")

    _esm = _GALLERY_SCRIPT
    _stylesheets = [_GALLERY_STYLE]  # noqa: RUF012  # as Panel declares it

    def __init__(self, on_choice: Callable[[str], None], **params: Any) -> None:
        super().__init__(**params)
        self._on_choice = on_choice

    def _handle_msg(self, message: Any) -> None:
        """Answer to a click; names that were not offered are passed over."""
        name = message.get("tile") if isinstance(message, dict) else None
        if any(item["id"] == name for item in self.items):
            _on_next_tick(partial(self._on_choice, str(name)))


SAVE_PICTURE = """
const view = Bokeh.index.find_one_by_id ? Bokeh.index.find_one_by_id(plot.id) : null;
const found = view ?? [...Bokeh.index].map((root) => find(root)).find((one) => one);
function find(root) {
  if (root.model && root.model.id === plot.id) return root;
  for (const child of root.child_views ?? []) {
    const inner = find(child);
    if (inner) return inner;
  }
  return null;
}
found.export('png').to_blob().then((blob) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = (name.text || 'section') + '.png';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
"""
"""Saves the plot as it is on screen; `plot` and `name` (a model with a `text`) are arguments."""

COPY_LINK = """
const done = () => { const old = button.label; button.label = 'Copied';
                     setTimeout(() => { button.label = old; }, 1500); };
const show = () => window.prompt('Copy this link:', window.location.href);
// other addresses than those of this machine have no clipboard without TLS
if (navigator.clipboard) navigator.clipboard.writeText(window.location.href).then(done, show);
else show();
"""
"""Copies the address of the page, which holds all settings; `button` is an argument."""

TURN_THEME = """
const address = new URL(window.location.href);
address.searchParams.set('theme', dark ? 'default' : 'dark');
window.location.assign(address);
"""
"""Loads the page again in the other theme; `dark` is an argument."""
