// Unpacks the embedded pixels: the counterpart of salm_dicom/report/pixels.py.
"use strict";

// Returns a function from the index of an embedded slice to a promise of its stored values
// (source, delta: Float64Array, row by row) with its slope and intercept; isAbsent: without a
// protected counterpart, and delta means nothing.
function slicesOf(data) {
  const count = data.rows * data.columns;
  const MOST_UNPACKED = 32;

  async function inflated(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function words(bytes, size) {
    const out = new Float64Array(count);
    for (let byte = 0, factor = 1; byte < size; byte++, factor *= 256) {
      for (let i = 0, from = byte * count; i < count; i++) out[i] += bytes[from + i] * factor;
    }
    return out;
  }

  async function unpacked(index) {
    const [before, change] = await Promise.all(data.blocks[index].map(inflated));
    const source = words(before, data.source.size);
    const modulus = 256 ** data.source.size;
    for (let row = 0; row < data.rows; row++) {
      let sum = 0;
      for (let i = row * data.columns, end = i + data.columns; i < end; i++) {
        sum = (sum + source[i]) % modulus;
        source[i] = sum + data.source.least;
      }
    }
    const delta = words(change, data.change.size);
    for (let i = 0; i < count; i++) delta[i] += data.change.least;
    return { index, source, delta, slope: data.slope[index], intercept: data.intercept[index],
      isAbsent: data.absent.includes(index) };
  }

  const slices = new Map();
  return (index) => {
    if (!slices.has(index)) {
      if (slices.size >= MOST_UNPACKED) slices.delete(slices.keys().next().value);
      slices.set(index, unpacked(index));
    }
    return slices.get(index);
  };
}
