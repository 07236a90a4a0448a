"use strict";
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
const at = (id) => document.getElementById(id);
let bitmap = null, detections = [], asked = 0;

function say(text, error = false) {
  at("status").textContent = text;
  at("status").className = error ? "error" : "";
}

function show() {
  const least = Number(at("score").value);
  at("least").textContent = least.toFixed(2);
  if (!bitmap) return;
  const shown = detections.filter((d) => d.score >= least);
  const canvas = at("canvas"), pen = canvas.getContext("2d");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  pen.drawImage(bitmap, 0, 0);
  const side = Math.max(bitmap.width, bitmap.height);
  pen.lineWidth = Math.max(1, side / 300);
  pen.font = `${Math.max(11, Math.round(side / 45))}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  const names = [...new Set(detections.map((d) => d.class))].sort();
  for (const d of [...shown].reverse()) {
    const [x1, y1, x2, y2] = d.box, colour = COLOURS[names.indexOf(d.class) % COLOURS.length];
    pen.strokeStyle = pen.fillStyle = colour;
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const text = `${d.class} ${d.score.toFixed(2)}`, size = parseInt(pen.font) + 4, width = pen.measureText(text).width + 6;
    const y = y1 > size ? y1 - size : y1, x = Math.max(0, Math.min(x1, bitmap.width - width));
    pen.fillRect(x, y, width, size);
    pen.fillStyle = "#000";
    pen.fillText(text, x + 3, y + 2);
  }
  const rows = shown.map((d) => {
    const row = document.createElement("tr");
    for (const text of [d.class, d.score.toFixed(3), d.box.map((v) => v.toFixed(1)).join(", ")]) {
      row.insertCell().textContent = text;
    }
    return row;
  });
  at("table").tBodies[0].replaceChildren(...rows);
  at("view").hidden = false;
  at("table").hidden = rows.length === 0;
  say(`${shown.length} of ${detections.length} detections`);
}

async function detect(file) {
  const number = ++asked;
  say("Detecting …");
  try {
    const form = new FormData();
    form.append("image", file);
    const response = await fetch("detect", { method: "POST", body: form });
    const content = await response.json();
    if (number !== asked) return;
    if (!response.ok) {
      const detail = typeof content.detail === "string" ? content.detail : "the request was refused";
      const retry = response.headers.get("Retry-After");
      say(retry ? `${detail}` : `${response.status}: ${detail}`, true);
      return;
    }
    bitmap = await createImageBitmap(file);
    detections = content.detections;
    show();
  } catch (error) {
    say(`The service does not answer: ${error.message}`, true);
  }
}

at("file").addEventListener("click", (event) => { event.target.value = ""; }); // the same file may be chosen again
at("file").addEventListener("change", (event) => event.target.files[0] && detect(event.target.files[0]));
at("score").addEventListener("input", show);
for (const kind of ["dragenter", "dragover"]) {
  at("drop").addEventListener(kind, (event) => { event.preventDefault(); at("drop").classList.add("over"); });
}
at("drop").addEventListener("dragleave", () => at("drop").classList.remove("over"));
at("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) detect(event.dataTransfer.files[0]);
});
