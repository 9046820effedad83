// The viewer of a page: shows the slices that pixels.js unpacks, and reads them out. No library.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("pixels").textContent);
  const find = (id) => document.getElementById(id);
  const count = data.rows * data.columns;
  const FLICKER_MS = 450;

  const view = {
    at: 0, low: data.presets[0].low, high: data.presets[0].high, overlay: false,
    zoom: 1, x: data.columns / 2, y: data.rows / 2, pointer: null, slice: null, shown: "protected",
  };
  const panes = ["source", "protected", "difference"].map((kind) => {
    const canvas = document.querySelector(`#pane-${kind} canvas`);
    const picture = document.createElement("canvas");
    picture.width = data.columns;
    picture.height = data.rows;
    return { kind, canvas, picture };
  });

  const slice = slicesOf(data);

  async function go(index) {
    view.at = Math.max(0, Math.min(data.kept.length - 1, index));
    find("slice").value = view.at;
    find("place").textContent = `${data.kept[view.at] + 1} of ${data.slices}`;
    try {
      const found = await slice(view.at);
      if (found.index !== view.at) return; // another one was asked for meanwhile
      view.slice = found;
      if (view.at + 1 < data.kept.length) slice(view.at + 1);
      repaint();
    } catch (error) {
      find("fault").textContent = `The pixels could not be unpacked (${error.name}). ` +
        "A browser of 2023 or later is needed.";
      find("fault").hidden = false;
    }
  }

  // ---- painting

  function paintGray(pane, protectedToo) {
    const { source, delta, slope, intercept } = view.slice;
    const image = new ImageData(data.columns, data.rows);
    if (protectedToo && view.slice.isAbsent) return put(pane, image);
    const scale = 255 / (view.high - view.low);
    for (let i = 0, to = 0; i < count; i++, to += 4) {
      const stored = protectedToo ? source[i] + delta[i] : source[i];
      const gray = (slope * stored + intercept - view.low) * scale;
      image.data[to] = data.inverted ? 255 - gray : gray;
      image.data[to + 1] = image.data[to + 2] = image.data[to];
      image.data[to + 3] = 255;
    }
    if (protectedToo && view.overlay) paintChange(image, 0.7);
    put(pane, image);
  }

  function put(pane, image) {
    pane.picture.getContext("2d").putImageData(image, 0, 0);
  }

  function paintChange(image, opacity) {
    const { delta, slope } = view.slice;
    for (let i = 0, to = 0; i < count; i++, to += 4) {
      if (!delta[i]) continue;
      const share = (slope * delta[i]) / data.largest;
      const colour = share > 0 ? [255, 150, 60] : [70, 160, 255];
      const strength = opacity * Math.min(1, 0.25 + 0.75 * Math.abs(share));
      for (let c = 0; c < 3; c++) {
        image.data[to + c] = image.data[to + c] * (1 - strength) + colour[c] * strength;
      }
    }
  }

  function paintDifference(pane) {
    const image = new ImageData(data.columns, data.rows);
    for (let to = 3; to < image.data.length; to += 4) image.data[to] = 255;
    paintChange(image, 1);
    put(pane, image);
  }

  // Picture to screen: pixels per row, and where the picture's origin lies.
  function placed(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    const down = Math.min(width / (data.columns * data.aspect), height / data.rows) * view.zoom;
    const across = down * data.aspect;
    return { ratio, width, height, down, across,
      left: width / 2 - view.x * across, top: height / 2 - view.y * down };
  }

  function show(pane) {
    const { canvas, picture } = pane;
    const place = placed(canvas), ratio = place.ratio;
    const width = Math.round(place.width * ratio), height = Math.round(place.height * ratio);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, place.left * ratio, place.top * ratio,
      data.columns * place.across * ratio, data.rows * place.down * ratio);
    if (view.pointer) mark(context, place);
  }

  function mark(context, place) {
    const x = (place.left + (view.pointer.column + 0.5) * place.across) * place.ratio;
    const y = (place.top + (view.pointer.row + 0.5) * place.down) * place.ratio;
    context.strokeStyle = "rgba(255, 214, 102, 0.9)";
    context.lineWidth = place.ratio;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + dx * 5 * place.ratio, y + dy * 5 * place.ratio);
      context.lineTo(x + dx * 13 * place.ratio, y + dy * 13 * place.ratio);
    }
    context.stroke();
  }

  let waiting = false, stale = false;
  function draw(again) {
    stale = stale || again;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (!view.slice) return;
      if (stale) {
        paintGray(panes[0], false);
        paintGray(panes[1], view.shown === "protected");
        paintDifference(panes[2]);
        find("none-protected").hidden = !view.slice.isAbsent || view.shown !== "protected";
        find("none-difference").hidden = !view.slice.isAbsent;
      }
      stale = false;
      panes.forEach(show);
      readOut();
    });
  }
  const repaint = () => draw(true);

  function fit() {
    const width = panes[1].canvas.clientWidth;
    const most = window.innerHeight * (isFlickering() ? 0.74 : 0.64);
    const height = Math.max(160, Math.min(most, (width * data.rows) / (data.columns * data.aspect)));
    for (const { canvas } of panes) canvas.style.height = `${Math.round(height)}px`;
    draw(false);
  }

  // ---- words

  const number = (value) => String(Number(value.toPrecision(9)));
  const signed = (value) => (value > 0 ? "+" : "") + number(value);

  function readOut() {
    const { pointer, slice: found } = view;
    if (!pointer) return;
    const i = pointer.row * data.columns + pointer.column;
    const before = found.source[i], after = before + found.delta[i];
    const value = (stored) => found.slope * stored + found.intercept;
    const compared = found.isAbsent ? `${data.units}, no protected counterpart (stored ${before})` :
      `\u2192 protected ${number(value(after))} ${data.units}, ` +
      `change ${signed(found.slope * found.delta[i])} ${data.units} ` +
      `(stored ${before} \u2192 ${after})`;
    find("readout").textContent =
      `slice ${data.kept[found.index] + 1}, row ${pointer.row * data.step + 1}, ` +
      `column ${pointer.column * data.step + 1}: ` +
      `source ${number(value(before))} ${compared}`;
  }

  function sayWindow() {
    const level = (view.low + view.high) / 2, width = view.high - view.low;
    find("window").textContent = `level ${level.toPrecision(4) * 1}, width ${width.toPrecision(4) * 1}`;
  }

  function setWindow(level, width, name) {
    view.low = level - width / 2;
    view.high = level + width / 2;
    find("preset").value = name;
    sayWindow();
    repaint();
  }

  // ---- what people do

  function voxelAt(canvas, event) {
    const box = canvas.getBoundingClientRect(), place = placed(canvas);
    const column = Math.floor((event.clientX - box.left - place.left) / place.across);
    const row = Math.floor((event.clientY - box.top - place.top) / place.down);
    const inside = column >= 0 && row >= 0 && column < data.columns && row < data.rows;
    return inside ? { row, column } : null;
  }

  function listenTo(canvas) {
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      const width = view.high - view.low;
      drag = { x: event.clientX, y: event.clientY, width, level: view.low + width / 2,
        at: { x: view.x, y: view.y } };
    });
    canvas.addEventListener("pointerup", () => { drag = null; });
    canvas.addEventListener("pointercancel", () => { drag = null; });
    canvas.addEventListener("pointermove", (event) => {
      view.pointer = voxelAt(canvas, event) || view.pointer;
      if (!drag) return draw(false);
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      if (event.shiftKey) {
        const place = placed(canvas);
        view.x = drag.at.x - dx / place.across;
        view.y = drag.at.y - dy / place.down;
        return draw(false);
      }
      const step = drag.width / 250;
      const least = Math.min(1, drag.width);
      setWindow(drag.level + dy * step, Math.max(least, drag.width + dx * step), "");
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (!event.ctrlKey) return go(view.at + Math.sign(event.deltaY));
      const factor = event.deltaY < 0 ? 1.25 : 0.8;
      const before = placed(canvas), box = canvas.getBoundingClientRect();
      const x = (event.clientX - box.left - before.left) / before.across;
      const y = (event.clientY - box.top - before.top) / before.down;
      const zoom = Math.max(1, Math.min(40, view.zoom * factor)), ratio = view.zoom / zoom;
      Object.assign(view, { x: x + (view.x - x) * ratio, y: y + (view.y - y) * ratio, zoom });
      if (zoom === 1) Object.assign(view, { x: data.columns / 2, y: data.rows / 2 });
      draw(false);
    }, { passive: false });
  }

  let clock = 0;
  const isFlickering = () => clock !== 0;
  function name(shown) {
    view.shown = shown;
    find("named").textContent = shown === "protected" ? "Protected" : "Source";
    repaint();
  }
  function flicker() {
    if (clock) {
      clearInterval(clock);
      clock = 0;
    } else {
      clock = setInterval(() => name(view.shown === "source" ? "protected" : "source"), FLICKER_MS);
    }
    find("flicker").setAttribute("aria-pressed", String(isFlickering()));
    find("panes").classList.toggle("flickering", isFlickering());
    name("protected");
    fit();
  }

  // ---- begin

  for (const [text, value] of [["by hand", ""], ...data.presets.map((p) => [p.name, p.name])]) {
    find("preset").add(new Option(text, value));
  }
  find("preset").addEventListener("change", (event) => {
    const preset = data.presets.find((p) => p.name === event.target.value);
    if (preset) setWindow((preset.low + preset.high) / 2, preset.high - preset.low, preset.name);
  });
  find("slice").max = data.kept.length - 1;
  find("slice").addEventListener("input", (event) => go(Number(event.target.value)));
  find("overlay").addEventListener("change", (event) => {
    view.overlay = event.target.checked;
    repaint();
  });
  find("flicker").addEventListener("click", flicker);
  find("reset").addEventListener("click", () => {
    Object.assign(view, { zoom: 1, x: data.columns / 2, y: data.rows / 2 });
    draw(false);
  });
  find("least").textContent = `\u2212${number(data.largest)}`;
  find("most").textContent = `+${number(data.largest)} ${data.units}`;
  panes.forEach(({ canvas }) => listenTo(canvas));
  window.addEventListener("resize", fit);
  find("preset").value = data.presets[0].name;
  sayWindow();
  fit();
  go(Math.floor(data.kept.length / 2));
})();
