"use strict";
// Hover text for the chart's points, and the row of the table each belongs to. Without it the page loses nothing but that.
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
