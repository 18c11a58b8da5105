"""What a board tells the browser beside its controls: one grid, names for screen readers, and no shortcuts.

``ipywidgets`` has no names for pictures, clocks and handles, so a short script sets them. It travels in an HTML widget
as the ``onload`` of its style sheet, which runs in JupyterLab and on Colab. Where a viewer forbids scripts, the widget
works as before, without these names.
"""

import html
import json

import ipywidgets as widgets

DEBOUNCE = 150
"""Milliseconds without a move after which the browser asks for what takes long."""

STYLE = """
.rt-board { container-type: inline-size; max-width: 1440px; overflow: visible; }
.rt-grid.widget-box { display: grid; gap: 8px 18px; grid-template-columns: minmax(0, 1fr); overflow: visible;
  grid-template-areas: "controls" "pictures" "words"; grid-template-rows: auto auto 1fr; }
.rt-controls { grid-area: controls; overflow: visible; }
.rt-words { grid-area: words; width: auto; }
.rt-pictures.widget-box { grid-area: pictures; display: grid; gap: 6px; grid-template-columns: minmax(0, 1fr);
  align-items: start; overflow: visible; }
.rt-board img.rt-picture { width: 100%; height: auto; margin: 0; object-fit: contain; }
.rt-compute:disabled { visibility: hidden; }
.rt-board .widget-play button { width: auto; padding: 0 10px; white-space: nowrap; }
.rt-board .widget-play button::after { content: attr(aria-label); margin-left: 6px; }
@container (min-width: 680px) {
  .rt-grid.widget-box { grid-template-columns: 322px minmax(0, 1fr); grid-template-rows: auto 1fr;
    grid-template-areas: "controls pictures" "words pictures"; }
  .rt-pictures.widget-box { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .rt-board img.rt-whole { grid-column: 1 / -1; }
}
@container (min-width: 1120px) { .rt-board img.rt-whole { grid-column: auto; } }
"""
"""On a phone controls, pictures and words stand below each other; else controls and words stand beside the pictures,
on wide screens beside two columns of them."""

SCRIPT = """
const root = this.closest('.rt-board');
if (root && !root.dataset.named) {
  root.dataset.named = 'true';
  const ranges = RANGES;
  const icons = {'fa-play': 'Play', 'fa-pause': 'Pause'};
  const put = (element, name, value) => {
    if (element && element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  };
  let due = null, timer = null, held = false;
  const ask = () => {  // not while a handle is held: there are more moves to come
    clearTimeout(timer);
    if (due && !held) timer = setTimeout(() => root.querySelector('.rt-compute').click(), WAIT);
  };
  root.addEventListener('pointerdown', () => { held = true; }, true);
  for (const end of ['pointerup', 'pointercancel'])
    window.addEventListener(end, () => { if (held) { held = false; ask(); } }, true);
  const name = () => {
    // On what has the focus: JupyterLab asks the element itself first whether a shortcut is meant.
    root.querySelectorAll('button, select, input, [tabindex], [contenteditable]').forEach((element) => {
      put(element, 'data-lm-suppress-shortcuts', 'true');
      put(element, 'data-p-suppress-shortcuts', 'true');
    });
    const status = root.querySelector('[role=status]');
    const alts = JSON.parse((status && status.dataset.alts) || '[]');
    root.querySelectorAll('img.rt-picture').forEach((image, i) => put(image, 'alt', alts[i] || ''));
    root.querySelectorAll('.widget-play button').forEach((button) => {
      const icon = Object.keys(icons).find((name) => button.querySelector('.' + name));
      if (icon) put(button, 'aria-label', icons[icon]); else button.style.display = 'none';
    });
    root.querySelectorAll('.widget-slider, .widget-dropdown, .widget-toggle-buttons').forEach((control) => {
      const label = control.querySelector('.widget-label'), readout = control.querySelector('.widget-readout');
      if (!label) return;
      const text = label.textContent;
      put(control.querySelector('select'), 'aria-label', text);
      control.querySelectorAll('.noUi-handle, .ui-slider-handle').forEach((handle) => {
        put(handle, 'role', 'slider');
        put(handle, 'aria-label', text);
        if (readout) put(handle, 'aria-valuetext', readout.textContent);
        if (handle.matches('.ui-slider-handle') && ranges[text]) {
          put(handle, 'aria-valuemin', ranges[text][0]);
          put(handle, 'aria-valuemax', ranges[text][1]);
          put(handle, 'aria-valuenow', parseFloat(readout ? readout.textContent : 0));
        }
      });
      if (readout) {
        if (readout.isContentEditable) put(readout, 'role', 'textbox');
        put(readout, 'aria-label', text + ', value');
      }
      if (control.matches('.widget-toggle-buttons')) {
        put(control, 'role', 'group');
        put(control, 'aria-label', text);
        control.querySelectorAll('button').forEach((button) =>
          put(button, 'aria-pressed', button.classList.contains('mod-active')));
      }
    });
    root.querySelectorAll('.widget-checkbox').forEach((control) =>
      put(control.querySelector('input'), 'aria-label', control.textContent.trim()));
    const asked = (status && status.dataset.due) || null;
    if (asked !== due) {
      due = asked;
      ask();
    }
  };
  new MutationObserver(name).observe(root, {
    childList: true, subtree: true, attributes: true, attributeFilter: ['class', 'aria-valuetext'],
  });
  name();
}
"""
"""Runs once for every view of a board. It names, and it presses ``Compute`` when the hand has come to rest."""


def house(controls: list[widgets.Widget]) -> widgets.HTML:
    """The style sheet and the script of one board, as a widget that shows nothing.

    Args:
        controls: of the board; where they are sliders, version 7 needs their ranges.
    """
    ranges = {c.description: (c.min, c.max) for c in controls if hasattr(c, "min") and getattr(c, "description", "")}
    script = SCRIPT.replace("RANGES", json.dumps(ranges)).replace("WAIT", str(DEBOUNCE))
    return widgets.HTML(
        f'<style onload="{html.escape(script)}">{STYLE}</style>', layout=widgets.Layout(height="0", margin="0")
    )


def spoken(words: str, alts: list[str], due: int | None = None) -> str:
    """The line of words as HTML, with what the script puts at the pictures.

    Args:
        words: plain text.
        alts: texts of the pictures, in their order.
        due: a number that is new with every move that takes long, while its computation waits.
    """
    waiting = "" if due is None else f' data-due="{due}" aria-busy="true"'
    return (
        f'<div role="status"{waiting} data-alts="{html.escape(json.dumps(alts))}" '
        f'style="font-size: 14px; line-height: 1.4">{words}</div>'
    )
