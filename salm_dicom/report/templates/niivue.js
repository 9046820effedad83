// The viewer of a page with a volume: hands it to NiiVue, and reads out what lies at the crosshair.
"use strict";
(async () => {
  const data = JSON.parse(document.getElementById("pixels").textContent);
  const find = (id) => document.getElementById(id);
  const FLICKER_MS = 450;
  const OPACITY = 0.7;
  const LINE = 0.003; // width of the crosshair, of the longest side
  const ADVICE = "Everything below holds all the same. A report without the option --viewer niivue " +
    "shows its images in every browser.";

  function giveUp(why) {
    find("fault").textContent = `The volume cannot be shown: ${why}. ${ADVICE}`;
    find("fault").hidden = false;
    find("scene-all").hidden = true;
  }

  const probe = document.createElement("canvas").getContext("webgl2");
  if (!probe) {
    return giveUp("this browser has no WebGL 2, or it is switched off (graphics acceleration)");
  }
  const most = probe.getParameter(probe.MAX_3D_TEXTURE_SIZE);
  probe.getExtension("WEBGL_lose_context")?.loseContext();
  if (Math.max(...data.shape) > most) {
    return giveUp(`the graphics of this machine take ${most} voxels along a side, it has ` +
      `${Math.max(...data.shape)}`);
  }

  // ---- the two files, and the protected volume that is their sum

  async function unpacked(text) {
    const binary = atob(text), bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  const view = { low: data.presets[0].low, high: data.presets[0].high, shown: "protected" };
  const extent_mm = Math.max(...data.shape.map((count, axis) =>
    count * Math.hypot(...[0, 1, 2].map((row) => data.affine[row][axis]))));
  const viewer = new niivue.Niivue({
    logLevel: "error", dragAndDropEnabled: false,
    isRadiologicalConvention: true, sagittalNoseLeft: true,
    isNearestInterpolation: true, show3Dcrosshair: true, crosshairWidth: extent_mm * LINE,
    crosshairWidthUnit: "mm", crosshairColor: [1, 0.84, 0.4, 0.8],
    dragMode: niivue.DRAG_MODE.windowing, isForceMouseClickToVoxelCenters: true,
    multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
    multiplanarLayout: niivue.MULTIPLANAR_TYPE.AUTO, multiplanarPadPixels: 4,
  });
  let base, difference, volumes;
  try {
    const files = await Promise.all([data.source, data.difference].map(unpacked));
    base = await niivue.NVImage.new(files[0], "image.nii", "gray", 1, null, view.low, view.high);
    base.colormapInvert = data.inverted;
    // The first of the 256 colours is that of no change: not to be seen.
    const visible = { A: [0, 255, 255], I: [0, 1, 255] };
    viewer.addColormap("brighter", { R: [0, 120, 255], G: [0, 70, 150], B: [0, 28, 60], ...visible });
    viewer.addColormap("darker", { R: [0, 33, 70], G: [0, 75, 160], B: [0, 120, 255], ...visible });
    difference = await niivue.NVImage.new(files[1], "difference.nii", "brighter", OPACITY, null,
      data.least / 2, data.largest);
    Object.assign(difference, { colormapNegative: "darker", cal_minNeg: -data.largest,
      cal_maxNeg: -data.least / 2 });
    volumes = { source: base.img, protected: base.img.map((v, i) => v + difference.img[i]) };
    base.img = volumes.protected;
    await viewer.attachToCanvas(find("scene"));
    viewer.volumes = [base];
    viewer.addVolume(difference); // hands both to the graphics at once
  } catch (error) {
    return giveUp(`${error.name}: ${error.message}`);
  }

  // ---- where the crosshair is

  const [columns, rows, slices] = data.shape;
  const inverse = inverted(data.affine);

  function inverted(m) {
    const [[a, b, c, x], [d, e, f, y], [g, h, i, z]] = m;
    const by = 1 / (a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g));
    const turn = [[e * i - f * h, c * h - b * i, b * f - c * e],
      [f * g - d * i, a * i - c * g, c * d - a * f],
      [d * h - e * g, b * g - a * h, a * e - b * d]];
    return turn.map(([p, q, r]) => [p * by, q * by, r * by, -by * (p * x + q * y + r * z)]);
  }

  const times = (m, [x, y, z]) => m.slice(0, 3).map((r) => r[0] * x + r[1] * y + r[2] * z + r[3]);
  const clamped = (value, count) => Math.max(0, Math.min(count - 1, Math.round(value)));

  function voxelAt(mm) {
    const found = times(inverse, mm);
    return [columns, rows, slices].map((count, axis) => clamped(found[axis], count));
  }

  function go(voxel) {
    viewer.scene.crosshairPos = viewer.mm2frac(times(data.affine, voxel), 0, true);
    viewer.createOnLocationChange();
    viewer.drawScene();
  }

  let at = [columns >> 1, rows >> 1, slices >> 1];
  const number = (value) => String(Number(value.toPrecision(7))).replace("-", "\u2212");
  viewer.onLocationChange = ({ mm, values: [image, change] }) => {
    at = voxelAt(mm);
    const [column, row, slice] = at.map((index, axis) => index * data.steps[axis] + 1);
    const before = view.shown === "source" ? image.value : image.value - change.value;
    find("slice").value = at[2];
    find("place").textContent = `${slice} of ${data.whole[2]}`;
    find("readout").textContent = `slice ${slice}, row ${row}, column ${column}: ` +
      `source ${number(before)} \u2192 protected ${number(before + change.value)} ${data.units}, ` +
      `change ${change.value > 0 ? "+" : ""}${number(change.value)} ${data.units}`;
  };

  // ---- what people do

  function sayWindow(name) {
    const level = (view.low + view.high) / 2, width = view.high - view.low;
    find("preset").value = name;
    find("window").textContent = `level ${level.toPrecision(4) * 1}, width ${width.toPrecision(4) * 1}`;
  }

  // NiiVue changes the window by itself while the right button is down, and tells nobody.
  function followWindow() {
    const { cal_min: low, cal_max: high } = base;
    if (low === view.low && high === view.high) return;
    Object.assign(view, { low, high });
    sayWindow("");
  }
  for (const event of ["mousemove", "mouseup", "dblclick", "touchmove"]) {
    find("scene").addEventListener(event, followWindow);
  }

  function show(name) {
    view.shown = name;
    base.img = volumes[name];
    viewer.updateGLVolume();
    find("named").textContent = name === "source" ? "Source" : "Protected";
    find("swap").textContent = name === "source" ? "Show protected" : "Show source";
  }
  const swap = () => show(view.shown === "source" ? "protected" : "source");

  function setOpacity() {
    viewer.setOpacity(1, find("overlay").checked ? Number(find("opacity").value) : 0);
  }

  let clock = 0;
  find("flicker").addEventListener("click", () => {
    clearInterval(clock);
    clock = clock ? 0 : setInterval(swap, FLICKER_MS);
    find("flicker").setAttribute("aria-pressed", String(clock !== 0));
    if (!clock) show("protected");
  });
  find("swap").addEventListener("click", swap);
  find("overlay").addEventListener("change", setOpacity);
  find("opacity").addEventListener("input", setOpacity);
  find("slice").addEventListener("input", (event) => go([at[0], at[1], Number(event.target.value)]));
  find("preset").addEventListener("change", (event) => {
    const preset = data.presets.find((p) => p.name === event.target.value);
    if (!preset) return;
    Object.assign(view, { low: preset.low, high: preset.high });
    Object.assign(base, { cal_min: preset.low, cal_max: preset.high });
    viewer.updateGLVolume();
    sayWindow(preset.name);
  });
  const LAYOUTS = ["MULTIPLANAR", "AXIAL", "CORONAL", "SAGITTAL", "RENDER"];
  ["planes and 3-D", "axial", "coronal", "sagittal", "3-D"].forEach((name, index) => {
    find("layout").add(new Option(name, LAYOUTS[index]));
  });
  find("layout").addEventListener("change", (event) => {
    viewer.setSliceType(niivue.SLICE_TYPE[event.target.value]);
  });

  // ---- begin

  for (const [text, value] of [["by hand", ""], ...data.presets.map((p) => [p.name, p.name])]) {
    find("preset").add(new Option(text, value));
  }
  find("slice").max = slices - 1;
  find("least").textContent = `\u2212${number(data.largest)}`;
  find("most").textContent = `+${number(data.largest)} ${data.units}`;
  Object.assign(find("overlay"), { checked: true }); // a browser may remember another state
  Object.assign(find("opacity"), { value: OPACITY });
  sayWindow(data.presets[0].name);
  go(at);
})();
