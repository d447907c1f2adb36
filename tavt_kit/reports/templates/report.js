"use strict";
// Hover text for points, sliders for the budget and for layers, buttons that copy and save. Without it the page shows
// what was chosen, every table and every image.

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


// The budget: a greater one buys another point. The rule is the search's: by both bounds of the measured cost.
(() => {
  const panel = document.querySelector(".picker");
  const slider = document.getElementById("budget-slider");
  if (!panel || !slider) return;
  const order = ["PASS", "PREDICTED", "INCONCLUSIVE", "FAIL"];
  const options = [...panel.querySelectorAll(".bought[data-key]")];
  const nothing = panel.querySelector(".bought.none");
  const chart = document.querySelector(".front-chart");
  const unit = panel.dataset.unit, decimals = Number(panel.dataset.decimals);

  const verdict = (option, budget) => {
    const low = Number(option.dataset.low), high = Number(option.dataset.high ?? Infinity);
    const cost = high <= budget ? option.dataset.sure : low <= budget ? "INCONCLUSIVE" : "FAIL";
    return order[Math.max(order.indexOf(cost), order.indexOf(option.dataset.rest))];
  };

  const choose = (budget) => {
    for (const word of order.slice(0, 3)) {
      const fitting = options.filter((option) => verdict(option, budget) === word);
      if (!fitting.length) continue;
      if ("cheapest" in panel.dataset) return [fitting[0], word];
      return [fitting.reduce((best, it) => Number(it.dataset.value) > Number(best.dataset.value) ? it : best), word];
    }
    return [null, "FAIL"];
  };

  const moveLimit = (budget, words) => {
    const group = chart && chart.querySelector(".ceiling");
    if (!group) return;
    const { low, high, start, end } = chart.dataset;
    const share = Math.min(1, Math.max(0, (budget - low) / (high - low)));
    const x = Number(start) + (end - start) * share;
    const [rect, line, text] = ["rect", "line", "text"].map((name) => group.querySelector(name));
    const edge = Number(rect.getAttribute("x")) + Number(rect.getAttribute("width"));
    rect.setAttribute("x", x);
    rect.setAttribute("width", Math.max(0, edge - x));
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    const y = text.getAttribute("y");
    text.setAttribute("x", x - 7);
    text.setAttribute("transform", `rotate(-90 ${x - 7} ${y})`);
    text.textContent = words;
  };

  const tell = () => {
    const words = `${Number(slider.value).toFixed(decimals)}\u00a0${unit}`;
    document.getElementById("budget-value").textContent = words;
    slider.setAttribute("aria-valuetext", words);
    return words;
  };

  const show = () => {
    const budget = Number(slider.value), words = tell();
    const [found, word] = choose(budget);
    options.forEach((option) => { option.hidden = option !== found; });
    nothing.hidden = found !== null;
    if (found) {
      const badge = found.querySelector(".badge");
      badge.textContent = word;
      badge.className = `badge ${word.toLowerCase()}`;
    }
    moveLimit(budget, `budget ${words}`);
    if (chart) chart.classList.add("sliding");
    document.querySelectorAll(".front-chart .point, tr[data-key]").forEach((it) => {
      it.classList.toggle("picked", found !== null && it.dataset.key === found.dataset.key);
    });
  };

  tell();
  panel.querySelector(".slide").hidden = false;
  slider.addEventListener("input", show);
})();

// What each layer keeps: one layer at a time under a slider, or all of them.
(() => {
  const bar = document.querySelector(".layer-slide");
  if (!bar) return;
  const slider = bar.querySelector("input"), list = document.querySelector("ul.kept");
  const [one, all] = bar.querySelectorAll("button");
  const show = (single) => {
    one.setAttribute("aria-pressed", String(single));
    all.setAttribute("aria-pressed", String(!single));
    list.classList.toggle("single", single);
    const words = `after layer ${slider.value}`;
    bar.querySelector("output").textContent = single ? words : "after every layer";
    slider.setAttribute("aria-valuetext", words);
    list.querySelectorAll(".strip > li").forEach((item) => {
      const holds = item.dataset.layers.split(" ").includes(slider.value);
      item.classList.toggle("other", single && !holds);
    });
  };
  bar.hidden = false;
  slider.addEventListener("input", () => show(true));
  one.addEventListener("click", () => show(true));
  all.addEventListener("click", () => show(false));
  show(true);
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
  document.querySelectorAll("svg.chart").forEach((chart) => {
    const row = document.createElement("div");
    row.className = "tools";
    row.append(button("Save SVG", () => save(chart)));
    const place = chart.closest(".scroll") ?? chart;
    place.after(row);
  });
})();
