// Decodes DICOM files as a Cornerstone viewer does: node decode.cjs FILE...
// Writes the words of each frame to FILE.words, as its decoders give them (little endian), and prints one
// line of JSON for each file: {file, planar}. Parser and decoders are Cornerstone's own; nothing is corrected.
'use strict';
const fs = require('fs');
const path = require('path');
const dicomParser = require('dicom-parser');

const SYNTAX = '1.2.840.10008.1.2';
const BIG_ENDIAN = `${SYNTAX}.2`;
const RLE = `${SYNTAX}.5`;
const WASM = {
  [`${SYNTAX}.4.80`]: ['@cornerstonejs/codec-charls', 'JpegLSDecoder'],
  [`${SYNTAX}.4.90`]: ['@cornerstonejs/codec-openjpeg', 'J2KDecoder'],
};

// The package is written in modules without saying so, and these files import nothing.
function decoderOfLoader(name) {
  const folder = path.dirname(require.resolve('@cornerstonejs/dicom-image-loader/package.json'));
  const source = fs.readFileSync(path.join(folder, 'dist/esm/shared/decoders', `${name}.js`), 'utf8');
  return import(`data:text/javascript,${encodeURIComponent(source)}`);
}

async function wasmDecoder(syntax) {
  const [name, decoder] = WASM[syntax];
  const codec = await require(`${name}/decodewasmjs`)({
    locateFile: () => require.resolve(`${name}/decodewasm`),
    print: () => {}, // openjpeg tells of its progress
  });
  return (frame) => {
    const one = new codec[decoder]();
    one.getEncodedBuffer(frame.length).set(frame);
    one.decode();
    const words = Buffer.from(one.getDecodedBuffer()); // a copy of the codec's memory
    one.delete();
    return words;
  };
}

async function loaderDecoder(syntax) {
  const name = { [RLE]: 'decodeRLE', [BIG_ENDIAN]: 'decodeBigEndian' }[syntax] || 'decodeLittleEndian';
  const decode = (await decoderOfLoader(name)).default;
  return async (frame, imageFrame) => {
    const { pixelData } = await decode({ ...imageFrame }, new Uint8Array(frame)); // a copy: it may swap in place
    return Buffer.from(pixelData.buffer, pixelData.byteOffset, pixelData.byteLength);
  };
}

function frameAt(dataSet, element, index, count, size) {
  if (!element.encapsulatedPixelData) {
    return dataSet.byteArray.subarray(element.dataOffset + index * size, element.dataOffset + (index + 1) * size);
  }
  if (element.basicOffsetTable.length > 0) return dicomParser.readEncapsulatedImageFrame(dataSet, element, index);
  const all = element.fragments.length;
  const [first, many] = count === 1 ? [0, all] : [index, 1];
  return dicomParser.readEncapsulatedPixelDataFromFragments(dataSet, element, first, many);
}

async function decode(file, decoders) {
  const dataSet = dicomParser.parseDicom(new Uint8Array(fs.readFileSync(file)));
  const syntax = dataSet.string('x00020010');
  const imageFrame = {
    rows: dataSet.uint16('x00280010'),
    columns: dataSet.uint16('x00280011'),
    samplesPerPixel: dataSet.uint16('x00280002'),
    planarConfiguration: dataSet.uint16('x00280006') || 0,
    bitsAllocated: dataSet.uint16('x00280100'),
    pixelRepresentation: dataSet.uint16('x00280103'),
  };
  const pixels = imageFrame.rows * imageFrame.columns * imageFrame.samplesPerPixel;
  const count = parseInt(dataSet.string('x00280008') || '1', 10);
  decoders[syntax] = decoders[syntax] || (await (WASM[syntax] ? wasmDecoder : loaderDecoder)(syntax));
  const words = [];
  for (let i = 0; i < count; i++) {
    const frame = frameAt(dataSet, dataSet.elements.x7fe00010, i, count, (pixels * imageFrame.bitsAllocated) / 8);
    words.push(await decoders[syntax](frame, imageFrame));
  }
  fs.writeFileSync(`${file}.words`, Buffer.concat(words));
  console.log(JSON.stringify({ file, planar: imageFrame.planarConfiguration }));
}

(async () => {
  const decoders = {};
  for (const file of process.argv.slice(2)) await decode(file, decoders);
})();
