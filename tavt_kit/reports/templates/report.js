"use strict";
// Hover text for points, buttons that copy, save and open. Without it every text, table and image is there, and the
// sections open all the same.

// Hover: a point tells its numbers and lights its row.
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);

  const partners = (key) => key === null ? [] : [...document.querySelectorAll("[data-key]")].filter((it) => it.dataset.key === key);
  const light = (key, on) => partners(key).forEach((it) => it.classList.toggle("lit", on));

  const show = (point) => {
    tip.textContent = point.getAttribute("aria-label").split("; ").join("\n");
    tip.hidden = false;
    const box = point.querySelector(".target").getBoundingClientRect();
    const width = tip.offsetWidth;
    const left = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), document.documentElement.clientWidth - width - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${(above > 8 ? above : box.bottom + 8) + window.scrollY}px`;
    light(point.getAttribute("data-key"), true);
  };
  const hide = (point) => {
    tip.hidden = true;
    light(point.getAttribute("data-key"), false);
  };

  document.querySelectorAll(".point").forEach((point) => {
    point.addEventListener("pointerenter", () => show(point));
    point.addEventListener("pointerleave", () => hide(point));
    point.addEventListener("focus", () => show(point));
    point.addEventListener("blur", () => hide(point));
  });
  document.querySelectorAll("tr[data-key]").forEach((row) => {
    row.addEventListener("pointerenter", () => light(row.dataset.key, true));
    row.addEventListener("pointerleave", () => light(row.dataset.key, false));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
  });
})();

// Paper has no clicks: everything is opened to be printed, and closed again.
(() => {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((it) => { it.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((it) => { it.open = false; }));
})();

// Buttons: copy a command, save a chart as a file of its own.
(() => {
  const button = (words, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "small-button";
    made.textContent = words;
    made.addEventListener("click", () => act(made));
    return made;
  };

  const copied = (text) => {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done ? Promise.resolve() : Promise.reject(new Error("not allowed"));
  };

  document.querySelectorAll("code.command").forEach((code) => {
    code.after(" ", button("Copy", (made) => {
      copied(code.textContent).then(() => { made.textContent = "Copied"; }, () => { made.textContent = "Select and copy"; })
        .then(() => setTimeout(() => { made.textContent = "Copy"; }, 2000));
    }));
  });

  const save = (chart) => {
    const copy = chart.cloneNode(true);
    const box = chart.viewBox.baseVal;
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("width", box.width);
    copy.setAttribute("height", box.height);
    const style = document.createElementNS("http://www.w3.org/2000/svg", "style");
    style.textContent = document.querySelector("style").textContent;
    const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    ground.setAttribute("width", box.width);
    ground.setAttribute("height", box.height);
    ground.setAttribute("class", "ground");
    copy.prepend(style, ground);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }));
    link.download = `${chart.getAttribute("aria-label").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "")}.svg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  document.querySelectorAll("svg.chart.wide").forEach((chart) => {
    const row = document.createElement("div");
    row.className = "tools";
    row.append(button("Save SVG", () => save(chart)));
    chart.parentElement.append(row);
  });

  const all = [...document.querySelectorAll(".group > details")];
  const open = button("Open all", (made) => {
    const opening = all.some((it) => !it.open);
    all.forEach((it) => { it.open = opening; });
    made.textContent = opening ? "Close all" : "Open all";
  });
  open.classList.add("open-all");
  document.querySelector(".group h2")?.after(open);
})();
