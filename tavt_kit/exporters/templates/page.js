// Everything stays in this page: the model, its runtime and the images.
const ort = window.ort;
const find = (id) => document.getElementById(id);
ort.env.wasm.wasmPaths = new URL("ort/", location.href).href;
ort.env.wasm.numThreads = 1; // threads need headers that a plain server does not send

const facts = await (await fetch("model.json")).json();
find("name").textContent = facts.name;
find("about").textContent = `${facts.classes.length} classes, schedule ${facts.schedule}`;
const presets = Object.keys(facts.presets);
presets.forEach((name) => find("preset").add(new Option(name)));
find("choice").hidden = presets.length === 0;
const session = await ort.InferenceSession.create("model.onnx");

async function pixelsOf(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // shows through, as in training
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  return { bitmap, rgba: context.getImageData(0, 0, bitmap.width, bitmap.height).data };
}

function inputOf({ bitmap: { width, height }, rgba }) {
  const [layout, colours] = facts.pixels.split(":");
  const size = width * height;
  const data = new Uint8Array(3 * size);
  for (let i = 0; i < size; i += 1) {
    for (let c = 0; c < 3; c += 1) {
      const value = rgba[4 * i + (colours === "bgr" ? 2 - c : c)];
      data[layout === "nchw" ? c * size + i : 3 * i + c] = value;
    }
  }
  return new ort.Tensor("uint8", data, layout === "nchw" ? [1, 3, height, width] : [1, height, width, 3]);
}

// Each output holds the places, among the patches still there, of those that stay.
function keptPatches(outputs) {
  let left = Array.from({ length: facts.patches }, (_, patch) => patch);
  for (const name of facts.kept) {
    left = Array.from(outputs[name].data, Number).sort((a, b) => a - b).map((place) => left[place]);
  }
  return new Set(left);
}

function draw(bitmap, kept) {
  const [height, width] = facts.image_size;
  const view = find("view");
  const context = view.getContext("2d");
  view.width = 2 * width;
  view.height = 2 * height;
  let [w, h] = [bitmap.width * facts.crop_pct, bitmap.height * facts.crop_pct];
  if (facts.crop_mode === "center") w = h = Math.min(w, h);
  context.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, 0, 0, view.width, view.height);
  const columns = Math.round(Math.sqrt((facts.patches * width) / height));
  const [stepX, stepY] = [view.width / columns, (view.height * columns) / facts.patches];
  context.fillStyle = "rgba(0, 0, 0, .72)";
  for (let patch = 0; patch < facts.patches; patch += 1) {
    if (!kept.has(patch)) context.fillRect((patch % columns) * stepX, Math.floor(patch / columns) * stepY, stepX, stepY);
  }
}

async function classify(blob) {
  find("said").textContent = "Looking …";
  const image = await pixelsOf(blob);
  const feed = { images: inputOf(image) };
  const counts = facts.presets[find("preset").value];
  if (counts) feed.lengths = new ort.Tensor("int64", BigInt64Array.from(counts, BigInt), [counts.length]);
  const begin = performance.now();
  const outputs = await session.run(feed);
  const milliseconds = performance.now() - begin;
  const logits = Array.from(outputs.logits.data);
  const powers = logits.map((one) => Math.exp(one - Math.max(...logits)));
  const whole = powers.reduce((sum, one) => sum + one, 0);
  const order = logits.map((_, index) => index).sort((a, b) => logits[b] - logits[a]).slice(0, 5);
  find("ranked").replaceChildren(...order.map((index) => {
    const row = document.createElement("tr");
    row.insertCell().textContent = facts.classes[index];
    row.insertCell().textContent = `${(100 * powers[index] / whole).toFixed(1)} %`;
    return row;
  }));
  const kept = keptPatches(outputs);
  const map = facts.kept.length ? `, ${kept.size} of ${facts.patches} patches kept` : "";
  draw(image.bitmap, kept);
  find("legend").hidden = facts.kept.length === 0;
  find("unread").hidden = !facts.unread;
  find("said").textContent = `${facts.classes[order[0]]} in ${milliseconds.toFixed(0)} ms${map}`;
  return { logits, kept: [...kept], milliseconds };
}

let last = null;
async function take(blob) {
  if (!blob) return null;
  last = blob;
  try {
    return await classify(blob);
  } catch (error) {
    find("said").textContent = `This image cannot be classified: ${error.message}`;
    return null;
  }
}

const drop = find("drop");
find("file").addEventListener("change", (event) => take(event.target.files[0]));
find("preset").addEventListener("change", () => take(last));
document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files[0]);
});
window.classify = take; // for scripts: gives logits, kept patches and milliseconds
find("said").textContent = "Ready.";
